#include "bitlab/deploy/post_training.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/internal/readers.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/runtime/model.h"

namespace bitlab::deploy {
namespace {

struct Layer {
  std::shared_ptr<nn::ProductLayer> layer;
  LayerFit fit;
  bool is_alone = true;        // its own products, of the same codes, are all that reads its weight and bias
  const Call* norm = nullptr;  // the BatchNorm that is folded into it, of the recording
};

std::vector<Layer> product_layers(const torch::nn::Module& module) {
  std::vector<Layer> layers;
  for (nn::FoundProduct& found : nn::products_of(module)) {
    if (!found.layer->view().quant.enabled()) continue;
    layers.push_back({std::move(found.layer), {}});
    layers.back().fit.name = std::move(found.name);
  }
  return layers;
}

// Undoes what was set on all layers, whatever happens.
struct Restored {
  std::vector<Layer>& layers;
  explicit Restored(std::vector<Layer>& all) : layers(all) {}
  ~Restored() {
    for (const Layer& l : layers) {
      l.layer->view().quantizer.observe({});
      l.layer->view().quantizer.bypass(false);
    }
  }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
};

void bypass(const std::vector<Layer>& layers, bool on) {
  for (const Layer& l : layers) l.layer->view().quantizer.bypass(on);
}

// All outputs for the samples, one after the other, which a forward pass that works in place must not change.
std::vector<at::Tensor> run(const Forward& forward, std::span<const NamedTensors> samples) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> outputs;
  for (const NamedTensors& sample : samples)
    for (const auto& [name, output] : forward(sample.clone())) outputs.push_back(output);
  return outputs;
}

// sum (y - expected)^2 / sum expected^2
double relative_error(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor wanted = expected[i].to(at::kDouble);
    error += (outputs[i].to(at::kDouble) - wanted).square().sum().item<double>();
    size += wanted.square().sum().item<double>();
  }
  return error / std::max(size, 1e-30);
}

// Whether the weight is a parameter once: what another module reads must not be scaled for one of them.
bool is_own(const torch::nn::Module& module, const at::Tensor& weight) {
  const auto parameters = module.named_parameters();
  return std::count_if(parameters.begin(), parameters.end(), [&](const auto& item) {
           return item.value().storage().unsafeGetStorageImpl() == weight.storage().unsafeGetStorageImpl();
         }) <= 1;
}

// Smooths the layers whose configuration asks for it, by what the float network's layers read.
void smooth_channels(const std::vector<Layer>& layers, const torch::nn::Module& module, const Forward& forward,
                     std::span<const NamedTensors> samples) {
  std::vector<at::Tensor> most(layers.size());
  bool smooths = false;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto view = layers[i].layer->view();
    if (!view.quantizer.input_scale.defined() || !is_own(module, view.weight)) continue;
    smooths = true;
    view.quantizer.observe([&, i, quantizer = &view.quantizer](const at::Tensor& x) {
      const at::Tensor seen = quantizer->most_by_channel(x);
      most[i] = most[i].defined() ? at::max(most[i], seen) : seen;
    });
  }
  if (!smooths) return;
  bypass(layers, true);
  run(forward, samples);
  bypass(layers, false);
  for (size_t i = 0; i < layers.size(); ++i) {
    auto view = layers[i].layer->view();
    view.quantizer.observe({});
    if (most[i].defined() && view.is_whole) view.quantizer.smooth(view.weight, most[i]);
  }
}

// Puts the layers in the order in which they run, and gives static activations their steps. Layers that no sample reaches leave for the report.
// Returns the outputs of the float network.
Result<std::vector<at::Tensor>> calibrate(std::vector<Layer>& layers, const Forward& forward,
                                          std::span<const NamedTensors> samples, const DeploymentConfig& config,
                                          PostTrainingReport& report) {
  std::vector<ternary::StepCalibrator> seen(layers.size());
  std::vector<size_t> order;
  Status status;
  for (size_t i = 0; i < layers.size(); ++i)
    layers[i].layer->view().quantizer.observe([&, i](const at::Tensor& x) {
      if (std::find(order.begin(), order.end(), i) == order.end()) order.push_back(i);
      const at::Tensor plain = x.to(at::kCPU, at::kFloat).contiguous();
      Status added = seen[i].add({plain.const_data_ptr<float>(), static_cast<size_t>(plain.numel())});
      if (!added.ok() && status.ok()) status = std::move(added);
    });
  bypass(layers, true);
  std::vector<at::Tensor> outputs = run(forward, samples);
  bypass(layers, false);
  for (const Layer& layer : layers) layer.layer->view().quantizer.observe({});
  BITLAB_RETURN_IF_ERROR(status);
  std::vector<Layer> ordered;
  for (const size_t i : order) {
    const auto view = layers[i].layer->view();
    if (is_static(view.quant.activation)) {
      BITLAB_TRY(const float step, seen[i].step(config.calibration, act_limit(view.quant.activation), config.percentile));
      const at::NoGradGuard no_grad;
      view.quantizer.act_scale.fill_(step);
      layers[i].fit.act_scale = static_cast<double>(step);
    }
    ordered.push_back(std::move(layers[i]));
  }
  for (size_t i = 0; i < layers.size(); ++i)
    if (std::find(order.begin(), order.end(), i) == order.end()) report.unread.push_back(layers[i].fit.name);
  if (ordered.empty())
    return make_error(ErrorCode::kInvalidArgument,
                      "[post_training] samples that reach a ternary layer, got {} that reach none", samples.size());
  layers = std::move(ordered);
  return outputs;
}

// Whether scales can be refit; weights in int8 are near the float ones as they are.
bool can_be_fit(const Layer& layer) {
  const auto view = layer.layer->view();
  return layer.is_alone && view.is_whole && is_ternary(*view.quant.method) &&
         view.quant.granularity != ternary::Granularity::kGroup && !info(*view.quant.method).asymmetric;
}

// A BatchNorm that has running statistics, LibTorch's or as the contract evaluates it.
bool is_batch_norm(const Call& call) {
  if (call.op == "bitlab::batch_norm") return true;
  return call.op == "aten::batch_norm" && !call.argument("training").toBool() && call.tensor("running_mean").defined();
}

bool is_recurrent(const Call& call) { return call.op == "bitlab::ternary_recurrent"; }

bool is_product(const Call& call) {
  return call.op == "bitlab::ternary_linear" || call.op == "bitlab::ternary_conv" || is_recurrent(call);
}

// The one BatchNorm that reads y, where nothing else does, and where nothing else reads what the BatchNorm consists of.
const Call* only_batch_norm(const Readers& readers, const at::Tensor& y) {
  const auto& list = readers.of(y);
  if (list.size() != 1 || readers.is_output(y) || !is_batch_norm(*list[0])) return nullptr;
  const Call& norm = *list[0];
  if (!norm.tensor("input").is_same(y)) return nullptr;
  for (const char* name : {"weight", "bias", "running_mean", "running_var"})
    if (const at::Tensor own = norm.tensor(name); own.defined() && readers.of_memory(own).size() != 1) return nullptr;
  return &norm;
}

// Finds what reads each layer's weight, its products, and the BatchNorm that can be folded into it.
void find_readers(std::vector<Layer>& layers, const Recording& recording, bool fold) {
  const Readers readers(recording);
  for (Layer& l : layers) {
    const auto view = l.layer->view();
    const auto& products = readers.of_memory(view.weight);
    const auto is_own = [&](const Call* call) {
      return is_product(*call) && call->tensor("codes").is_same(products[0]->tensor("codes")) &&
             call->tensor("bias").is_same(products[0]->tensor("bias"));
    };
    l.is_alone = !products.empty() && std::all_of(products.begin(), products.end(), is_own) &&
                 (!view.bias.defined() || readers.of_memory(view.bias).size() == products.size());
    if (fold && products.size() == 1 && !is_recurrent(*products[0]) && can_be_fit(l))  // states are no product's result
      l.norm = only_batch_norm(readers, products[0]->outputs.at(0).toTensor());
  }
}

// What y gain + offset makes of a layer's result y, by channel in float64: a BatchNorm in eval, or nothing.
struct Affine {
  at::Tensor gain, offset;
};

Affine affine_of(const Layer& layer, int64_t rows) {
  if (layer.norm == nullptr) return {at::ones({rows}, at::kDouble), at::zeros({rows}, at::kDouble)};
  const Call& norm = *layer.norm;
  const auto [alpha, beta] =
      ops::batch_norm_affine(ops::optional(norm.tensor("weight")), ops::optional(norm.tensor("bias")),
                             norm.tensor("running_mean"), norm.tensor("running_var"), norm.argument("eps").toDouble());
  return {alpha, beta};
}

// Leaves a BatchNorm without effect.
void neutralize(const Call& norm) {
  if (const at::Tensor weight = norm.tensor("weight"); weight.defined()) weight.fill_(1);
  if (const at::Tensor bias = norm.tensor("bias"); bias.defined()) bias.fill_(-0.0);  // x + -0 is x, a zero's sign included
  norm.tensor("running_mean").zero_();
  norm.tensor("running_var").fill_(1 - norm.argument("eps").toDouble());
}

// Sums over samples and positions, by channel, in float64: y is the float product, z that of quantized activations and codes.
struct Sums {
  at::Tensor yy, yz, zz, y, z;
  double count = 0;

  void add(const at::Tensor& float_product, const at::Tensor& code_product, bool is_image) {
    const auto by_channel = [&](const at::Tensor& v) {
      const at::Tensor last = is_image ? v.movedim(1, -1) : v;
      return last.reshape({-1, last.size(-1)}).to(at::kDouble);
    };
    const at::Tensor a = by_channel(float_product), b = by_channel(code_product);
    const at::Tensor sums[] = {(a * a).sum(0), (a * b).sum(0), (b * b).sum(0), a.sum(0), b.sum(0)};
    at::Tensor* totals[] = {&yy, &yz, &zz, &y, &z};
    for (size_t i = 0; i < std::size(sums); ++i) *totals[i] = totals[i]->defined() ? *totals[i] + sums[i] : sums[i];
    count += static_cast<double>(a.size(0));
  }

  // sum (gain y - s z - shift)^2 over everything, relative to sum (gain y)^2.
  double error(const at::Tensor& gain, const at::Tensor& s, const at::Tensor& shift) const {
    const at::Tensor total =
        gain * gain * yy - 2 * gain * s * yz + s * s * zz - 2 * shift * (gain * y - s * z) + shift * shift * count;
    return (total.sum() / (gain * gain * yy).sum().clamp_min(1e-30)).item<double>();
  }
};

// The scale of each channel as the encoder chose it.
at::Tensor encoded_scale(const ops::QuantizedWeight& weight, int64_t rows) {
  return weight.scale.to(at::kDouble).expand({rows});
}

// A pass over the samples: sums of a layer's products, and the network's outputs.
struct Pass {
  Sums sums;
  std::vector<at::Tensor> outputs;
};

Pass pass_through(const Layer& l, const ops::QuantizedWeight& encoded, const Forward& forward,
                  std::span<const NamedTensors> samples) {
  const auto view = l.layer->view();
  const at::Tensor codes = encoded.t.to(at::kFloat);
  Pass pass;
  view.quantizer.observe([&](const at::Tensor& x) {
    const at::Tensor y = l.layer->product(x, view.weight, {});
    pass.sums.add(y, l.layer->product(view.quantizer.activated(x), codes, {}), view.weight.dim() > 2);
  });
  pass.outputs = run(forward, samples);
  view.quantizer.observe({});
  return pass;
}

// A layer as its encoder made it, and what it was fitted to.
class Fit {
 public:
  Fit(Layer& l, const ops::QuantizedWeight& encoded) : layer_(&l) {
    const auto view = l.layer->view();
    const int64_t rows = view.quantizer.layout(view.weight).rows().expect_int();
    encoded_ = {encoded.t.to(at::kFloat).clone(), encoded_scale(encoded, rows).to(at::kFloat).contiguous(),
                view.bias.defined() ? view.bias.clone() : at::zeros({rows}, at::kFloat)};
    if (l.norm != nullptr)
      for (const char* name : {"weight", "bias", "running_mean", "running_var"})
        if (const at::Tensor own = l.norm->tensor(name); own.defined()) norm_.emplace_back(own, own.clone());
  }

  // The best scales, and a bias that corrects the mean error, as far as asked for; the BatchNorm in either case.
  void apply(const Sums& sums, bool refit_scales, bool correct_bias) {
    const auto view = layer_->layer->view();
    LayerFit& report = layer_->fit;
    const int64_t rows = sums.yy.size(0);
    const auto [gain, offset] = affine_of(*layer_, rows);
    const at::Tensor none = at::zeros({rows}, at::kDouble), before = gain * encoded_.scale.to(at::kDouble);
    at::Tensor scale = before;
    if (refit_scales) scale = at::where(sums.zz > 0, gain * sums.yz / sums.zz.clamp_min(1e-30), before);
    const at::Tensor sign = at::where(scale < 0, -1.0, 1.0).to(at::kFloat);
    scale = scale.abs().clamp_min(static_cast<double>(ternary::kScaleEpsilon)).to(at::kFloat).to(at::kDouble);
    const at::Tensor signed_scale = scale * sign.to(at::kDouble);
    const at::Tensor shift = correct_bias ? (gain * sums.y - signed_scale * sums.z) / sums.count : none;
    const at::Tensor bias = shift + offset + gain * encoded_.bias.to(at::kDouble);
    report.error_before = sums.error(gain, before, none);
    report.error_after = sums.error(gain, signed_scale, shift);
    const at::Tensor t =
        encoded_.t * view.quantizer.layout(view.weight).spread(sign, nn::frozen_config(view.quant).weight_spec());
    layer_->layer->freeze({t, scale.to(at::kFloat), bias.to(at::kFloat)});
    report.frozen = true;
    if (layer_->norm != nullptr) neutralize(*layer_->norm);
    report.folded = layer_->norm != nullptr;
  }

  // As encoded, with the BatchNorm.
  void undo(const Sums& sums) {
    for (const auto& [own, was] : norm_) own.copy_(was);
    apply(sums, false, false);
    layer_->fit.error_after = layer_->fit.error_before;
    layer_->fit.undone = true;
  }

  LayerFit& report() { return layer_->fit; }

 private:
  Layer* layer_;
  nn::FrozenWeight encoded_;
  std::vector<std::pair<at::Tensor, at::Tensor>> norm_;  // its tensors, and what they held
};

// Fits the layers, one after the other; one whose fit moves the network's outputs away from the float network's, `expected`, stays as it is encoded. What a
// fit did shows in the next pass.
void fit_all(std::vector<Layer>& layers, const Forward& forward, std::span<const NamedTensors> samples,
             const DeploymentConfig& config, const std::vector<at::Tensor>& expected, PostTrainingReport& report) {
  const at::NoGradGuard no_grad;
  std::optional<Fit> last;
  Sums sums;  // of the last
  // The error of the outputs behind the last fit; `again` repeats the pass where that is undone.
  const auto judged = [&](double error, const auto& again) {
    constexpr double kMost = 1.1;  // what a few samples tell is no better known
    if (last && error > last->report().output_error_before * kMost) {
      last->undo(sums);
      error = again();
    }
    if (last) last->report().output_error_after = error;
    return error;
  };
  for (Layer& layer : layers) {
    if (!can_be_fit(layer)) continue;
    const auto view = layer.layer->view();
    const ops::QuantizedWeight encoded = view.quantizer.quantized(view.weight);
    Pass pass = pass_through(layer, encoded, forward, samples);
    const double error = judged(relative_error(pass.outputs, expected), [&] {
      pass = pass_through(layer, encoded, forward, samples);
      return relative_error(pass.outputs, expected);
    });
    if (!last) report.output_error_encoded = error;
    last.emplace(layer, encoded);
    last->report().output_error_before = error;
    sums = std::move(pass.sums);
    last->apply(sums, config.refit_scales, config.correct_bias);
  }
  const auto error_now = [&] { return relative_error(run(forward, samples), expected); };
  report.output_error = judged(error_now(), error_now);
  if (!last) report.output_error_encoded = report.output_error;
}

Status measure(PostTrainingReport& report, torch::nn::Module& module, const Forward& forward, const NamedTensors& sample,
               const std::optional<Signature>& signature) {
  BITLAB_TRY(const program::Program program, capture(module, forward, sample, {signature, {}}));
  BITLAB_TRY(const auto model, runtime::Model::create(program));
  for (const program::Constant& constant : program.constants)
    report.weight_file_bytes += format::bit::stored_bytes(program, constant);
  report.weight_bytes = model->weight_bytes();
  report.float32_weight_bytes = model->float32_weight_bytes();
  report.bits_a_weight = 32.0 * static_cast<double>(report.weight_bytes) / static_cast<double>(report.float32_weight_bytes);
  return {};
}

}  // namespace

Result<PostTrainingReport> quantize_for_deployment(torch::nn::Module& module, const Forward& forward,
                                                   std::span<const NamedTensors> samples, const DeploymentConfig& config,
                                                   const std::function<double()>& evaluate,
                                                   const std::optional<Signature>& signature) {
  if (samples.empty()) return make_error(ErrorCode::kInvalidArgument, "[post_training] samples, got none");
  std::vector<Layer> layers = product_layers(module);
  if (layers.empty())
    return make_error(ErrorCode::kInvalidArgument, "[post_training] a module with ternary layers, got none");
  const Restored restored(layers);
  PostTrainingReport report;
  module.eval();
  try {
    if (evaluate) {
      bypass(layers, true);
      report.evaluated_float = evaluate();
      bypass(layers, false);
    }
    smooth_channels(layers, module, forward, samples);
    BITLAB_TRY(const auto expected, calibrate(layers, forward, samples, config, report));
    if (evaluate) report.evaluated_before = evaluate();
    BITLAB_TRY(const Recording recording, record(forward, samples[0]));
    find_readers(layers, recording, config.fold_batch_norm);
    fit_all(layers, forward, samples, config, expected, report);
    if (evaluate) report.evaluated_after = evaluate();
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[post_training] samples that the module takes, got '{}'",
                      error.what_without_backtrace());
  }
  for (const Layer& layer : layers) report.layers.push_back(layer.fit);
  BITLAB_RETURN_IF_ERROR(measure(report, module, forward, samples[0], signature));
  return report;
}

}  // namespace bitlab::deploy
