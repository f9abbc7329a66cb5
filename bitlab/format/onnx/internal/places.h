// Indices that are computed of ranges, and what they are for.
#pragma once

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

// The dimension along which integers are 0, 1, ..., as a range is that was given others; nothing for other integers.
std::optional<size_t> counted_along(const Reader& r, program::ValueId id);
// Of indices [samples, ...] into values that lie side by side, n of each sample: which of its own each sample takes, [...]; nothing where one might take
// another's.
Result<std::optional<Tensor>> within_samples(Reader& r, program::ValueId id, const program::Dim& samples, int64_t n);

}  // namespace bitlab::format::onnx
