// The functions of readers.def.
#pragma once

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

#define BITLAB_ONNX_READ(type, function) Result<Operands> read_##function(Reader& r);
#include "bitlab/format/onnx/readers.def"

}  // namespace bitlab::format::onnx
