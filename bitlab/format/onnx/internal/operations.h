// What writes each operation: rows of ops.def. Each returns the tensors of the node's results, in their order.
#pragma once

#include "bitlab/format/onnx/internal/writer.h"

namespace bitlab::format::onnx {

#define BITLAB_ONNX(op) Result<Names> write_##op(Writer& w, const program::Node& node);
#include "bitlab/format/onnx/ops.def"

}  // namespace bitlab::format::onnx
