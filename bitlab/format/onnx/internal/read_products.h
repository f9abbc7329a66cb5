// Products that several operators are read as.
#pragma once

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

// x [..., k] by w [n, k]: [..., n].
Result<program::ValueId> linear(Reader& r, program::ValueId x, const Tensor& w, std::string_view name,
                                std::optional<program::ValueId> bias = std::nullopt);
// Matrices of two values, of two or more dimensions; those in front broadcast. Error: Unsupported.
Result<program::ValueId> product(Reader& r, program::ValueId a, program::ValueId b);
// The same, in which a value may be a vector, as in MatMul.
Result<program::ValueId> vectors_product(Reader& r, program::ValueId x, program::ValueId y);
// [batch, tokens, heads size] as [batch, heads, tokens, size], which stays as it is; and back.
Result<program::ValueId> in_heads(Reader& r, program::ValueId x, int64_t heads);
Result<program::ValueId> out_of_heads(Reader& r, program::ValueId y);
// x [batch, heads, tokens, size], turned by its tokens' places [batch or 1, tokens]; tables of cosines and sines [places, half] in two inputs.
Result<program::ValueId> turned_by_tables(Reader& r, program::ValueId x, program::ValueId places, size_t cos, size_t sin,
                                          bool interleaved);
// A convolution with weights in ONNX's order, and the windows that the node has.
Result<program::ValueId> convolved(Reader& r, program::ValueId x, const Tensor& w, std::optional<program::ValueId> bias,
                                   bool transposed);

}  // namespace bitlab::format::onnx
