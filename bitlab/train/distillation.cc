// Learning from a teacher: its logits, the outputs of its layers, the relations within its attention.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/kl_div.h>
#include <fmt/ranges.h>

#include "bitlab/config/path_pattern.h"
#include "bitlab/train/hooks.h"
#include "bitlab/train/internal/layer_outputs.h"

namespace bitlab::train {
namespace {

using Paths = std::vector<std::string>;

bool has(const Paths& layers, const std::string& layer) {
  return std::find(layers.begin(), layers.end(), layer) != layers.end();
}

[[noreturn]] void refuse_path(std::string_view what, const std::string& path, const Paths& layers) {
  throw Exception(
      make_error(ErrorCode::kUnknownName, "[train] {} of {{{}}}, got '{}'", what, fmt::join(layers, ", "), path));
}

// The teacher's layer that stands for one of the network: that of its path, which may be one within a BitModel.
std::string twin_of(const std::string& path, const Paths& theirs) {
  constexpr std::string_view kWrapped = "model.";
  if (has(theirs, path)) return path;
  if (path.starts_with(kWrapped) && has(theirs, path.substr(kWrapped.size()))) return path.substr(kWrapped.size());
  refuse_path("a teacher's layer", path, theirs);
}

// The projections of an attention, by the names that they have in networks.
using Projections = std::array<std::string, 3>;

std::optional<Projections> projections_of(const std::string& attention, const Paths& layers) {
  const std::string prefix = attention.empty() ? "" : attention + ".";
  for (const auto& [q, k, v] : {std::array{"q_proj", "k_proj", "v_proj"}, std::array{"query", "key", "value"}})
    if (has(layers, prefix + q) && has(layers, prefix + k) && has(layers, prefix + v))
      return Projections{prefix + q, prefix + k, prefix + v};
  return std::nullopt;
}

Projections attention_at(const std::string& path, const Paths& layers) {
  if (!path.empty()) {
    if (const auto found = projections_of(path, layers)) return *found;
    refuse_path("an attention with projections q_proj, k_proj and v_proj, or query, key and value, among the layers", path,
                layers);
  }
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    const size_t dot = layer->rfind('.');
    if (const auto found = projections_of(dot == std::string::npos ? "" : layer->substr(0, dot), layers)) return *found;
  }
  refuse_path("an attention with projections q_proj, k_proj and v_proj, or query, key and value, among the layers", "none",
              layers);
}

void check_alike(const std::string& layer, const at::Tensor& own, at::IntArrayRef expected) {
  if (own.sizes() != expected)
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[train] outputs as the teacher's, {}, got {} (layer={})",
                               c10::str(expected), c10::str(own.sizes()), layer));
}

// float32 at least, which the mean of squares and logarithms want.
at::Tensor wide(const at::Tensor& x) {
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

// Each sample by its root mean square.
at::Tensor normalized(const at::Tensor& output) {
  constexpr double kEpsilon = 1e-6;
  const at::Tensor rows = output.dim() < 2 ? output.reshape({-1, 1}) : output.flatten(1);
  return rows / (rows.square().mean(1, true) + kEpsilon).sqrt();
}

// log R(X) [B, heads, T, T] of X [B, T, heads d].
at::Tensor log_relations(const std::string& layer, const at::Tensor& x, int64_t heads) {
  if (x.dim() != 3)
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[train] vectors [B, T, size] for relations, got {} (layer={})",
                               c10::str(x.sizes()), layer));
  if (x.size(2) % heads != 0)
    throw Exception(make_error(ErrorCode::kInvalidArgument,
                               "[train] relation_heads that divide vectors of {}, got {} (layer={})", x.size(2), heads,
                               layer));
  const at::Tensor parts = x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
  return (parts.matmul(parts.transpose(2, 3)) / std::sqrt(static_cast<double>(parts.size(3)))).log_softmax(3);
}

// Mean over all rows but the last dimension, where both are logarithms.
at::Tensor divergence(const at::Tensor& own, const at::Tensor& target) {
  const auto rows = static_cast<double>(own.numel() / std::max<int64_t>(own.size(-1), 1));
  return at::kl_div(own, target, at::Reduction::Sum, true) / rows;
}

}  // namespace

Distillation::Distillation(nn::Forward teacher, std::vector<NamedParameter> teacher_parameters, TrainingConfig config)
    : teacher_(std::move(teacher)), teacher_parameters_(std::move(teacher_parameters)), config_(std::move(config)) {}

Distillation::~Distillation() = default;

void Distillation::find_features(const Paths& own, const Paths& theirs) {
  for (const FeatureLayer& feature : config_.feature_layers) {
    const size_t before = features_.size();
    for (const std::string& layer : own)
      if (config::matches_path(feature.path, layer))
        features_.push_back({layer, feature.teacher.empty() ? twin_of(layer, theirs) : feature.teacher});
    if (features_.size() == before) refuse_path("a path of layers with parameters", feature.path, own);
    if (!has(theirs, features_.back().teacher)) refuse_path("a teacher's layer", features_.back().teacher, theirs);
  }
}

void Distillation::find_relations(const Paths& own, const Paths& theirs) {
  const Projections mine = attention_at(config_.relation_layer, own);
  const std::string& teacher = config_.relation_teacher_layer;
  for (size_t i = 0; i < mine.size(); ++i) {
    const bool is_by_name = teacher.empty() && !config_.relation_layer.empty();
    relations_.push_back({mine[i], is_by_name ? twin_of(mine[i], theirs) : attention_at(teacher, theirs)[i]});
  }
}

void Distillation::find_layers(const std::vector<NamedParameter>& parameters) {
  const Paths own = layers_of(parameters), theirs = layers_of(teacher_parameters_);
  if (config_.feature_distillation > 0) find_features(own, theirs);
  if (config_.relation_distillation > 0) find_relations(own, theirs);
  std::set<std::string> own_read, theirs_read;
  for (const auto* pairs : {&features_, &relations_})
    for (const Pair& pair : *pairs) own_read.insert(pair.own), theirs_read.insert(pair.teacher);
  own_ = std::make_unique<LayerOutputs>(parameters, own_read);
  theirs_ = std::make_unique<LayerOutputs>(teacher_parameters_, theirs_read);
}

void Distillation::before_forward(StepContext& step) {
  if (!reads_layers()) return;
  if (own_ == nullptr) find_layers(step.parameters);
  own_->clear();
}

ops::CallListener* Distillation::forward_listener() { return own_.get(); }

at::Tensor Distillation::with_logits(StepContext& step, const nn::NamedTensors& taught) const {
  const Task& task = step.learner.task();
  const double share = config_.distillation, temperature = config_.temperature;
  const at::Tensor own = task.class_logits(step.outputs, step.batch);
  const at::Tensor theirs = [&] {
    const at::NoGradGuard no_grad;
    return task.class_logits(taught, step.batch);
  }();
  if (theirs.sizes() != own.sizes())
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[train] logits of the teacher as of the network, {}, got {}",
                               c10::str(own.sizes()), c10::str(theirs.sizes())));
  const at::Tensor target = (theirs.to(own.scalar_type()) / temperature).log_softmax(1);
  return step.loss * (1 - share) +
         divergence((own / temperature).log_softmax(1), target) * (share * temperature * temperature);
}

at::Tensor Distillation::feature_loss() const {
  at::Tensor sum;
  for (const Pair& pair : features_) {
    const at::Tensor own = wide(own_->of(pair.own)), theirs = wide(theirs_->of(pair.teacher));
    check_alike(pair.own, own, theirs.sizes());
    const at::Tensor loss = (normalized(own) - normalized(theirs)).square().mean();
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum / static_cast<double>(features_.size());
}

// The teacher's vectors may be longer: the relations are as many.
at::Tensor Distillation::relation_loss() const {
  at::Tensor sum;
  for (const Pair& pair : relations_) {
    const at::Tensor own = log_relations(pair.own, wide(own_->of(pair.own)), config_.relation_heads);
    const at::Tensor theirs = log_relations(pair.teacher, wide(theirs_->of(pair.teacher)), config_.relation_heads);
    check_alike(pair.own, own, theirs.sizes());
    const at::Tensor loss = divergence(own, theirs);
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

void Distillation::after_forward(StepContext& step) {
  nn::NamedTensors taught;
  {
    const at::NoGradGuard no_grad;
    std::optional<ops::CallObserver> observer;
    if (reads_layers()) {
      theirs_->clear();
      observer.emplace(*theirs_);
    }
    taught = teacher_(step.batch);
  }
  if (config_.distillation > 0) step.loss = with_logits(step, taught);
  if (config_.feature_distillation > 0) step.loss = step.loss + feature_loss() * config_.feature_distillation;
  if (config_.relation_distillation > 0) step.loss = step.loss + relation_loss() * config_.relation_distillation;
  if (!reads_layers()) return;
  own_->clear(), theirs_->clear();  // what they hold keeps the graph
}

}  // namespace bitlab::train
