// Arithmetic of sizes, which is done while the model is read.
#pragma once

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

// What the node, which has two inputs, makes of sizes; nothing where an input is none, or what comes out.
std::optional<Operand> of_sizes(Reader& r);
// What a comparison of sizes is in every run; nothing where that differs.
std::optional<Tensor> compared_sizes(const Reader& r);

}  // namespace bitlab::format::onnx
