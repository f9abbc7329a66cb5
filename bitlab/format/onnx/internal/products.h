// The products that linear and recurrent layers have in common.
#pragma once

#include <string>

#include "bitlab/format/onnx/internal/writer.h"

namespace bitlab::format::onnx {

// What ternary_linear computes of x, of shape `from`, with the weight, the bias and the activations of a node.
Result<std::string> ternary_product(Writer& w, const program::Node& node, std::string x, const program::Shape& from);
// What linear computes of x, with the weight and the bias of a node.
std::string float_product(Writer& w, const program::Node& node, const std::string& x);

}  // namespace bitlab::format::onnx
