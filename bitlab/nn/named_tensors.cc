#include "bitlab/nn/named_tensors.h"

#include <algorithm>

#include "bitlab/base/result.h"

namespace bitlab::nn {

NamedTensors::NamedTensors(std::initializer_list<Item> items) {
  for (const auto& [name, tensor] : items) set(name, tensor);
}

NamedTensors::NamedTensors(const at::Tensor& input) { set(kInput, input); }

NamedTensors NamedTensors::clone() const {
  NamedTensors copies;
  for (const auto& [name, tensor] : items_) copies.set(name, tensor.clone());
  return copies;
}

void NamedTensors::set(std::string_view name, at::Tensor tensor) {
  const auto known = std::find_if(items_.begin(), items_.end(), [&](const Item& item) { return item.first == name; });
  if (known != items_.end()) {
    known->second = std::move(tensor);
  } else {
    items_.emplace_back(name, std::move(tensor));
  }
}

const at::Tensor* NamedTensors::find(std::string_view name) const {
  const auto known = std::find_if(items_.begin(), items_.end(), [&](const Item& item) { return item.first == name; });
  return known == items_.end() ? nullptr : &known->second;
}

const at::Tensor& NamedTensors::at(std::string_view name) const {
  if (const at::Tensor* tensor = find(name)) return *tensor;
  throw Exception(make_error(ErrorCode::kInvalidArgument, "[tensors] one called '{}', got {}", name,
                             empty() ? "none" : "[" + names() + "]"));
}

std::string NamedTensors::names() const {
  std::string text;
  for (const auto& [name, tensor] : items_) text += (text.empty() ? "" : ", ") + name;
  return text;
}

Forward forward_of(std::function<at::Tensor(const at::Tensor&)> forward) {
  return [forward = std::move(forward)](const NamedTensors& inputs) {
    if (inputs.empty()) throw Exception(make_error(ErrorCode::kInvalidArgument, "[tensors] an input, got none"));
    return NamedTensors{{std::string(kOutput), forward(inputs[0].second)}};
  };
}

}  // namespace bitlab::nn
