// The product with ternary weights that linear and recurrent layers have in common.
#pragma once

#include <string>

#include "bitlab/format/onnx/internal/writer.h"

namespace bitlab::format::onnx {

// What ternary_linear computes of x, of shape `from`, with the weight, the bias and the activations of a node.
Result<std::string> ternary_product(Writer& w, const program::Node& node, std::string x, const program::Shape& from);

}  // namespace bitlab::format::onnx
