// What calls of operators tell about themselves and the layers that make them.
#pragma once

#include <string>
#include <string_view>

#include <ATen/core/ivalue.h>

namespace bitlab::train {

// "aten::relu_" as "relu_", "bitlab::bit_linear" as "bit_linear".
std::string short_name(std::string_view op);

// The layer of a parameter: "blocks.0.fc1" of "blocks.0.fc1.weight".
std::string owner_of(const std::string& parameter);

// Of arguments or results: each tensor, those in lists, too.
void for_each_tensor(c10::ArrayRef<const c10::IValue> values, const auto& visit) {
  for (const c10::IValue& value : values) {
    if (value.isTensor() && value.toTensor().defined()) visit(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorVector()) visit(tensor);
  }
}

}  // namespace bitlab::train
