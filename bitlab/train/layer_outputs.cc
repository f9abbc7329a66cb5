#include "bitlab/train/internal/layer_outputs.h"

#include <ATen/record_function.h>

#include "bitlab/train/internal/calls.h"

namespace bitlab::train {

std::vector<std::string> layers_of(const std::vector<NamedParameter>& parameters) {
  std::vector<std::string> layers;
  std::set<std::string> known;
  for (const NamedParameter& parameter : parameters)
    if (std::string layer = owner_of(parameter.name); known.insert(layer).second) layers.push_back(std::move(layer));
  return layers;
}

LayerOutputs::LayerOutputs(const std::vector<NamedParameter>& parameters, const std::set<std::string>& layers) {
  for (const NamedParameter& parameter : parameters) {
    if (!parameter.tensor.has_storage()) continue;
    const std::string layer = owner_of(parameter.name);
    const void* storage = parameter.tensor.storage().unsafeGetStorageImpl();
    // A weight that layers share is the one's that is asked for.
    if (std::string& owner = owners_[storage]; owner.empty() && layers.contains(layer)) owner = layer;
  }
}

const std::string* LayerOutputs::owner(const at::Tensor& tensor) const {
  const auto found = tensor.has_storage() ? owners_.find(tensor.storage().unsafeGetStorageImpl()) : owners_.end();
  return found == owners_.end() ? nullptr : &found->second;
}

void LayerOutputs::enter(const at::RecordFunction& fn) {
  if (depth_++ > 0) return;
  layer_ = nullptr;
  for_each_tensor(ops::inputs_of(fn), [this](const at::Tensor& tensor) {
    const std::string* found = owner(tensor);
    if (layer_ == nullptr && found != nullptr && !found->empty()) layer_ = found;
  });
}

void LayerOutputs::leave(const at::RecordFunction& fn) {
  if (--depth_ > 0 || layer_ == nullptr) return;
  bool is_first = true;
  for_each_tensor(ops::outputs_of(fn), [&](const at::Tensor& tensor) {
    if (is_first && tensor.is_floating_point() && owner(tensor) == nullptr) outputs_[*layer_] = tensor;
    is_first = false;
  });
}

void LayerOutputs::clear() {
  outputs_.clear();
  depth_ = 0;
}

const at::Tensor& LayerOutputs::of(const std::string& layer) const {
  const auto found = outputs_.find(layer);
  if (found == outputs_.end())
    throw Exception(make_error(ErrorCode::kInvalidArgument,
                               "[train] a call of the layer in the forward pass, got none (layer={})", layer));
  return found->second;
}

}  // namespace bitlab::train
