#include "bitlab/data/sample.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace bitlab::data {
namespace {

std::string describe(const Array& array) {
  return fmt::format("{} [{}] '{}'", name(array.dtype), fmt::join(array.shape, ", "), array.name);
}

std::string describe(const Sample& sample) {
  std::string text;
  for (const Array& array : sample.arrays) text += (text.empty() ? "" : ", ") + describe(array);
  return text.empty() ? "nothing" : text;
}

bool same_form(const Sample& a, const Sample& b) {
  return std::equal(a.arrays.begin(), a.arrays.end(), b.arrays.begin(), b.arrays.end(), [](const Array& x, const Array& y) {
    return x.name == y.name && x.dtype == y.dtype && x.shape == y.shape;
  });
}

}  // namespace

std::string_view name(DType dtype) {
  return dtype == DType::kUInt8 ? "uint8" : dtype == DType::kInt64 ? "int64" : "float32";
}

int64_t size_of(DType dtype) { return dtype == DType::kUInt8 ? 1 : dtype == DType::kInt64 ? 8 : 4; }

const Array* Sample::find(std::string_view wanted) const {
  const auto found = std::find_if(arrays.begin(), arrays.end(), [&](const Array& array) { return array.name == wanted; });
  return found == arrays.end() ? nullptr : &*found;
}

Array* Sample::find(std::string_view wanted) { return const_cast<Array*>(std::as_const(*this).find(wanted)); }

Result<Sample> stack(std::span<const Sample> samples) {
  if (samples.empty()) return make_error(ErrorCode::kInvalidArgument, "[data] at least one sample, got none");
  Sample batch;
  for (const Array& array : samples[0].arrays) {
    Array& whole = batch.arrays.emplace_back(Array{array.name, array.dtype, {static_cast<int64_t>(samples.size())}, {}});
    whole.shape.insert(whole.shape.end(), array.shape.begin(), array.shape.end());
    whole.bytes.reserve(samples.size() * array.bytes.size());
  }
  for (const Sample& sample : samples) {
    if (!same_form(sample, samples[0]))
      return make_error(ErrorCode::kShapeMismatch, "[data] samples of one form for a batch, {}, got {}",
                        describe(samples[0]), describe(sample));
    for (size_t i = 0; i < sample.arrays.size(); ++i)
      batch.arrays[i].bytes.insert(batch.arrays[i].bytes.end(), sample.arrays[i].bytes.begin(),
                                   sample.arrays[i].bytes.end());
  }
  return batch;
}

}  // namespace bitlab::data
