#include "bitlab/train/internal/not_finite.h"

#include <cmath>
#include <unordered_map>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/isnan.h>
#include <ATen/record_function.h>

#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/train/internal/calls.h"

namespace bitlab::train {
namespace {

struct NotFinite {
  bool nan = false, infinity = false;
};

void look_at(const at::Tensor& tensor, NotFinite& found) {
  if (!at::isFloatingType(tensor.scalar_type()) || tensor.numel() == 0 || !tensor.has_storage()) return;
  const at::NoGradGuard no_grad;
  found.nan = found.nan || tensor.isnan().any().item<bool>();
  found.infinity = found.infinity || tensor.isinf().any().item<bool>();
}

bool is_finite(const at::Tensor& tensor) {
  NotFinite found;
  look_at(tensor, found);
  return !found.nan && !found.infinity;
}

NotFinite in(c10::ArrayRef<const c10::IValue> values) {
  NotFinite found;
  for_each_tensor(values, [&](const at::Tensor& tensor) { look_at(tensor, found); });
  for (const c10::IValue& value : values)
    if (value.isDouble()) {
      found.nan = found.nan || std::isnan(value.toDouble());
      found.infinity = found.infinity || std::isinf(value.toDouble());
    }
  return found;
}

// The outermost calls of a forward pass, until one makes NaN without one in its arguments, or an infinity of finite arguments.
class NotFiniteSearch : public ops::CallListener {
 public:
  explicit NotFiniteSearch(const std::vector<NamedParameter>& parameters) {
    for (const NamedParameter& parameter : parameters)
      if (parameter.tensor.has_storage())
        layers_[parameter.tensor.storage().unsafeGetStorageImpl()] = owner_of(parameter.name);
  }

  void enter(const at::RecordFunction& fn) override {
    if (depth_++ > 0 || is_found()) return;
    const ops::ObservationPause pause;
    is_in_layer_ = false;
    for_each_tensor(ops::inputs_of(fn), [&](const at::Tensor& tensor) {
      const auto layer = tensor.has_storage() ? layers_.find(tensor.storage().unsafeGetStorageImpl()) : layers_.end();
      if (layer == layers_.end() || is_in_layer_) return;
      is_in_layer_ = true;
      layer_ = layer->second;
    });
    before_ = in(ops::inputs_of(fn));
  }

  void leave(const at::RecordFunction& fn) override {
    if (--depth_ > 0 || is_found()) return;
    const std::string op = short_name(fn.name());
    if (op.find("empty") != std::string::npos) return;  // whatever the memory held
    const ops::ObservationPause pause;
    const auto outputs = ops::outputs_of(fn);
    const NotFinite after = in(outputs);
    const bool begins = (after.nan && !before_.nan) || (after.infinity && !before_.nan && !before_.infinity);
    if (!begins) return;
    if (is_in_layer_)
      found_ = fmt::format("it begins in layer '{}' ({})", layer_, op);
    else
      found_ = fmt::format("it begins in {}{}", op, layer_.empty() ? "" : fmt::format(", behind layer '{}'", layer_));
  }

  void rewritten() override {}

  bool is_found() const { return !found_.empty(); }
  const std::string& found() const { return found_; }

 private:
  std::unordered_map<const void*, std::string> layers_;
  int depth_ = 0;
  bool is_in_layer_ = false;
  std::string layer_, found_;  // the last layer that was called
  NotFinite before_;
};

}  // namespace

std::string origin_of_not_finite(StepContext& step) {
  for (const NamedParameter& parameter : step.parameters)
    if (!is_finite(parameter.tensor)) return fmt::format("the parameter '{}' has one already", parameter.name);
  for (const auto& [name, tensor] : step.batch)
    if (!is_finite(tensor)) return fmt::format("the batch's '{}' has one", name);
  NotFiniteSearch search(step.parameters);
  try {
    const ops::CallObserver observer(search);
    step.criterion(step.learner.forward(step.batch), step.batch);
  } catch (const Exception&) {  // the layer behind it refuses what is not finite
  }
  return search.is_found() ? search.found() : "no operator of the forward pass makes one when it is run again";
}

}  // namespace bitlab::train
