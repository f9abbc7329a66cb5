#include "bitlab/convert/interception.h"

#include <set>

#include <ATen/ops/convolution.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/linear.h>
#include <ATen/record_function.h>

#include "bitlab/convert/internal/interception.h"
#include "bitlab/ops/internal/call_observer.h"

namespace bitlab::convert {
namespace {

constexpr std::string_view kInfoName = "bitlab_weights";

// LibTorch 2.13 tells kinds apart by the address of a name, 2.11 and 2.12 by a number.
template <class Kind>
constexpr Kind own_kind() {
  if constexpr (std::is_enum_v<Kind>)
    return static_cast<Kind>(177);
  else
    return Kind(&kInfoName);
}
constexpr auto kInfo = own_kind<c10::DebugInfoKind>();

struct RegistryInfo : c10::DebugInfoBase {
  explicit RegistryInfo(const WeightRegistry& r) : registry(r) {}
  const WeightRegistry& registry;
};

}  // namespace

const WeightRegistry* current_registry() {
  const auto* info = static_cast<const RegistryInfo*>(c10::ThreadLocalDebugInfo::get(kInfo));
  return info == nullptr ? nullptr : &info->registry;
}

bool is_view(std::string_view op) {
  constexpr std::string_view kViews[] = {"aten::t",          "aten::transpose",  "aten::slice",
                                         "aten::narrow",     "aten::chunk",      "aten::split",
                                         "aten::detach",     "aten::alias",      "aten::view",
                                         "aten::permute",    "aten::expand",     "aten::numpy_T",
                                         "aten::select",     "aten::as_strided", "aten::split_with_sizes",
                                         "aten::contiguous", "aten::to",         "aten::_has_compatible_shallow_copy_type"};
  return std::find(std::begin(kViews), std::end(kViews), op) != std::end(kViews);
}

InterceptedWeight::InterceptedWeight(std::string path_, std::string layer_, at::Tensor tensor, const BitQuantConfig& quant,
                                     const ops::ConvWindow* window, nn::Quantizer::Use use, bool is_master)
    : torch::nn::Module("InterceptedWeight"),
      path(std::move(path_)),
      layer(std::move(layer_)),
      weight{std::move(tensor)},
      quant_(quant),
      window_(window == nullptr ? std::nullopt : std::optional(*window)),
      use_(use),
      is_master_(is_master) {
  reset();
  quantizer.initialize_scales(weight.tensor);
}

void InterceptedWeight::reset() {
  quantizer.reset(*this, quant_, weight.tensor, window_ ? &*window_ : nullptr,
                  has_product() ? use_ : nn::Quantizer::Use::kValue);
}

void InterceptedWeight::train(bool on) {
  Module::train(on);
  ops::forget_codes(weight.tensor);  // as in nn::TernaryLayer
}

at::Tensor InterceptedWeight::linear(const at::Tensor& x, int64_t begin, int64_t rows, const at::Tensor& bias) {
  const at::Tensor& w = weight.tensor;
  last_bias_ = bias;
  const at::Tensor read = quantizer.input(x);
  const at::Tensor& added = bias.defined() ? bias : own_bias_;
  if (rows == w.size(0))
    return quantizer.is_active() ? quantizer.forward(*this, read, w, added, nullptr) : product_of(read, w, added);
  was_divided_ = true;
  if (!quantizer.is_active()) return product_of(read, w.narrow(0, begin, rows), bias);
  const at::Tensor y = quantizer.forward(*this, read, w, {}, nullptr).narrow(-1, begin, rows);
  return bias.defined() ? y + bias : y;
}

at::Tensor InterceptedWeight::conv(const at::Tensor& x, const at::Tensor& bias, const ops::ConvWindow& window) {
  if (!window_) quantizer.set_window(weight.tensor, window);  // of a parameter, which no layer tells
  window_ = window;
  last_bias_ = bias;
  const at::Tensor read = quantizer.input(x);
  const at::Tensor& added = bias.defined() ? bias : own_bias_;
  if (!quantizer.is_active()) return product_of(read, weight.tensor, added);
  return quantizer.forward(*this, read, weight.tensor, added, &window);
}

at::Tensor InterceptedWeight::product_of(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) const {
  if (!window_) return at::linear(x, w, ops::optional(bias));
  const auto convolve = [&](const at::Tensor& batch) {
    return at::convolution(batch, w, ops::optional(bias), window_->stride, window_->padding, window_->dilation,
                           window_->transposed, window_->output_padding, window_->groups);
  };
  return x.dim() == w.dim() ? convolve(x) : convolve(x.unsqueeze(0)).squeeze(0);
}

void InterceptedProduct::freeze(const nn::FrozenWeight& frozen) {
  const bool is_parameter =
      last_bias_.defined() && (last_bias_.is_leaf() || (last_bias_.is_view() && last_bias_._base().is_leaf()));
  if (last_bias_.defined() && !is_parameter)
    throw Exception(
        make_error(ErrorCode::kUnsupported, "[bit_model] a bias that is a parameter, got a computed one (layer={})", layer));
  quantizer.freeze(*this, quant_, weight.tensor, last_bias_.defined() ? last_bias_ : own_bias_, frozen);
}

at::Tensor InterceptedWeight::embedding(const at::Tensor& indices, int64_t padding_idx) {
  return quantizer.embedding(*this, weight.tensor, indices, padding_idx, false);
}

ops::RecurrentStates InterceptedWeight::recurrent(const ops::RecurrentInputs& inputs, const at::Tensor& bias) {
  last_bias_ = bias;
  return quantizer.recurrent(*this, inputs, weight.tensor, bias.defined() ? bias : own_bias_);
}

at::Tensor InterceptedWeight::value_of(const at::Tensor& tensor) const {
  const at::Tensor& w = weight.tensor;
  at::Tensor value = quantizer.value(*this, w);
  if (tensor.sizes() == w.sizes() && tensor.strides() == w.strides()) return value;
  if (value.strides() != w.strides()) value = at::empty_strided(w.sizes(), w.strides(), w.options()).copy_(value);
  return value.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset() - w.storage_offset());
}

void WeightRegistry::add(std::shared_ptr<InterceptedWeight> weight) {
  by_storage_.emplace(weight->weight.tensor.storage().unsafeGetStorageImpl(), weight.get());
  has_masters_ = has_masters_ || weight->is_master();
  weights_.push_back(std::move(weight));
}

void WeightRegistry::sync() {
  by_storage_.clear();
  for (const auto& weight : weights_)
    by_storage_.emplace(weight->weight.tensor.storage().unsafeGetStorageImpl(), weight.get());
}

Found WeightRegistry::find(const at::Tensor& tensor) const {
  if (!tensor.defined() || !tensor.has_storage()) return {};
  const auto [first, last] = by_storage_.equal_range(tensor.storage().unsafeGetStorageImpl());
  for (auto i = first; i != last; ++i) {
    const at::Tensor& w = i->second->weight.tensor;
    const int64_t offset = tensor.storage_offset() - w.storage_offset();
    if (offset < 0 || offset >= w.numel()) continue;
    Found found{i->second};
    if (w.dim() == 2) found.rows = w.size(0);
    if (offset == 0 && tensor.sizes() == w.sizes() && tensor.strides() == w.strides()) {
      found.form = Found::Form::kWhole;
    } else if (w.dim() == 2 && tensor.dim() == 2) {
      const auto lies = [&](int64_t row, int64_t column) {
        return tensor.size(column) == w.size(1) && tensor.stride(row) == w.stride(0) &&
               tensor.stride(column) == w.stride(1) && offset % w.stride(0) == 0;
      };
      found.transposed = !lies(0, 1);
      if (!found.transposed || lies(1, 0)) {
        found.form = Found::Form::kRows;
        found.begin = offset / w.stride(0);
        found.rows = tensor.size(found.transposed ? 1 : 0);
        if (found.transposed && found.rows == w.size(0)) found.form = Found::Form::kTransposed;
      }
    }
    return found;
  }
  return {};
}

InterceptionGuard::InterceptionGuard(WeightRegistry& registry)
    : key_((registry.sync(), kInterceptionKey)), registry_(kInfo, std::make_shared<RegistryInfo>(registry)) {}

// --- the audit

struct Audit::State : ops::CallListener {
  struct Frame {
    bool replaced = false;     // by ternary operators, here or around
    std::vector<Found> reads;  // weights among the arguments
  };

  explicit State(const WeightRegistry& r) : registry(r) {}

  void enter(const at::RecordFunction& fn) override {
    Frame& frame = frames.emplace_back(Frame{!frames.empty() && frames.back().replaced, {}});
    if (frame.replaced) return;
    const auto note = [&](const at::Tensor& tensor) {
      const Found found = registry.find(tensor);
      if (found.weight != nullptr) frame.reads.push_back(found);
    };
    for (const c10::IValue& input : ops::inputs_of(fn)) {
      if (input.isTensor()) note(input.toTensor());
      if (input.isTensorList())
        for (const at::Tensor& tensor : input.toTensorVector()) note(tensor);
    }
  }

  void leave(const at::RecordFunction& fn) override {
    const Frame frame = std::move(frames.back());
    frames.pop_back();
    if (frame.replaced || is_view(fn.name())) return;
    for (const Found& found : frame.reads) findings.insert(fmt::format("'{}' is read by {}", found.weight->path, fn.name()));
  }

  void rewritten() override {
    if (!frames.empty()) frames.back().replaced = true;
  }

  const WeightRegistry& registry;
  std::vector<Frame> frames;  // the calls under way
  std::set<std::string> findings;
  std::optional<ops::CallObserver> observer;
};

Audit::Audit(const WeightRegistry& registry) : state_(std::make_unique<State>(registry)) {
  for (const auto& weight : registry.weights()) weight->hits = 0;
  state_->observer.emplace(*state_);
}

Audit::~Audit() = default;

std::vector<std::string> Audit::findings() const { return {state_->findings.begin(), state_->findings.end()}; }

std::vector<std::string> Audit::unread() const {
  std::vector<std::string> list;
  for (const auto& weight : state_->registry.weights())
    if (weight->hits == 0) list.push_back(fmt::format("'{}' is read by no product", weight->path));
  return list;
}

}  // namespace bitlab::convert
