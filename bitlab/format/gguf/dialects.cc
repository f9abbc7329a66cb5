#include "bitlab/format/gguf/internal/dialects.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/half.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::gguf {
namespace {

constexpr std::array kTypes{
#define BITLAB_GGUF_FLOAT(name, id, values, bytes) TypeInfo{#name, id, values, bytes, 0, false},
#define BITLAB_GGUF_TERNARY(name, id, values, bytes, more) TypeInfo{#name, id, values, bytes, more, true},
#include "bitlab/format/gguf/types.def"
};

template <class... Args>
Error unsupported(const std::string& tensor, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kUnsupported, "[gguf] {} (tensor={})", fmt::vformat(format, fmt::make_format_args(args...)),
                    tensor);
}

float half_at(const uint8_t* bytes) { return half_to_float(static_cast<uint16_t>(bytes[0] | bytes[1] << 8)); }

// q d, 32 int8 with a float16 d in front.
void decode_q8_0(const uint8_t* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}

// (d scale) (q - 32), 6 bits of q: 128 bytes with the lower four, 64 with the upper two, an int8 scale for 16 values, a float16 d. Each half of the block has
// 64 bytes of lower bits, of values i and i + 64 for i < 64, and 32 of upper ones, 32 values a field.
void decode_q6_k(const uint8_t* block, float* values) {
  const uint8_t *low = block, *high = block + 128, *scales = block + 192;
  const float d = half_at(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, in_half = i % 128;
    const int q = (low[64 * half + in_half % 64] >> (in_half < 64 ? 0 : 4) & 15) |
                  (high[32 * half + in_half % 32] >> 2 * (in_half / 32) & 3) << 4;
    values[i] = d * static_cast<float>(static_cast<int8_t>(scales[i / 16])) * static_cast<float>(q - 32);
  }
}

program::TernaryScales of_groups(std::vector<uint16_t> scales, int64_t group) {
  program::TernaryScales groups;
  groups.group_scale = std::move(scales);
  groups.group = group;
  return groups;
}

// Scales of blocks as few as they can be.
program::TernaryScales fewest(const TypeInfo& type, const std::vector<uint16_t>& scales, const std::vector<bool>& is_zero,
                              int64_t rows) {
  const size_t blocks = scales.size() / static_cast<size_t>(rows);
  std::vector<float> of_rows;
  bool is_one = true;
  std::optional<uint16_t> of_tensor;
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    std::optional<uint16_t> of_row;
    for (size_t i = row * blocks; i < (row + 1) * blocks; ++i) {
      if (is_zero[i]) continue;
      if (!of_row) of_row = scales[i];
      if (*of_row != scales[i]) return of_groups(scales, type.values);
    }
    if (of_row && !of_tensor) of_tensor = of_row;
    is_one = is_one && (!of_row || *of_row == *of_tensor);
    of_rows.push_back(half_to_float(of_row.value_or(scales[row * blocks])));
  }
  if (is_one) return {half_to_float(of_tensor.value_or(scales.front()))};
  return {std::move(of_rows)};
}

Status multiply(program::TernaryScales& scales, float factor, const std::string& name) {
  if (factor == 1) return {};
  if (scales.group != 0) return unsupported(name, "one scale in all blocks beside a scale of the tensor, got several");
  for (float& scale : scales.scale) {
    const double product = static_cast<double>(scale) * static_cast<double>(factor);
    if (product != static_cast<double>(static_cast<float>(product)))
      return unsupported(name, "scales with a product that float32 holds, got {} and {}", scale, factor);
    scale = static_cast<float>(product);
  }
  return {};
}

// The bits of the scale of a block; nothing where its groups differ, or float16 does not hold it.
std::optional<uint16_t> scale_of(const program::TernaryData& data, int64_t row, int64_t begin, int64_t end, int64_t depth) {
  if (data.group == 0) {
    const float scale = data.scale[data.scale.size() == 1 ? 0 : static_cast<size_t>(row)];
    const uint16_t half = float_to_half(scale);
    return half_to_float(half) == scale ? std::optional(half) : std::nullopt;
  }
  const int64_t groups = ceil_div(depth, data.group);
  const auto at = [&](int64_t k) { return data.group_scale[static_cast<size_t>(row * groups + k / data.group)]; };
  for (int64_t k = begin; k < end; k += data.group)
    if (at(k) != at(begin)) return std::nullopt;
  return at(begin);
}

std::string_view packed_scales(const program::TernaryData& data) {
  return data.group != 0 ? "groups" : data.scale.size() == 1 ? "the tensor" : "rows";
}

}  // namespace

int64_t TypeInfo::bytes_of(std::span<const int64_t> shape) const {
  if (shape.empty() || shape.back() % values != 0) return 0;
  int64_t blocks = shape.back() / values;
  for (const int64_t size : shape.first(shape.size() - 1)) blocks *= size;
  return blocks * bytes + more;
}

std::span<const TypeInfo> type_list() { return kTypes; }
const TypeInfo* find_type(std::string_view name) {
  const auto* const type = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& t) { return t.name == name; });
  return type == kTypes.end() ? nullptr : type;
}

Result<const TypeInfo*> type_of(const Contents& file, const std::string& name, const TensorInfo& tensor) {
  const TypeInfo* found = nullptr;
  std::string candidates;
  const auto place = static_cast<int64_t>(tensor.bytes.size());
  for (const TypeInfo& type : kTypes) {
    if (type.id != tensor.type) continue;
    const int64_t bytes = type.bytes_of(tensor.shape);
    candidates += fmt::format("{}{} of {} bytes", candidates.empty() ? "" : ", ", type.name, bytes);
    if (bytes == 0 || place < bytes || place - bytes >= static_cast<int64_t>(file.alignment)) continue;
    if (found != nullptr)
      return unsupported(name, "a tensor of type {} that is large enough to tell {} apart, got {} bytes", tensor.type,
                         candidates, place);
    found = &type;
  }
  if (found != nullptr) return found;
  if (!candidates.empty())
    return unsupported(name, "a tensor {} of type {}: {}, got {} bytes", program::to_string(tensor.shape), tensor.type,
                       candidates, place);
  std::string known;
  for (const TypeInfo& type : kTypes) known += fmt::format("{}{} {}", known.empty() ? "" : ", ", type.id, type.name);
  return unsupported(name, "a type of {}, got {}", known, tensor.type);
}

Result<decoder::Ternary> unpack(const TypeInfo& type, std::span<const uint8_t> bytes, int64_t rows, int64_t depth,
                                std::optional<float> factor, const std::string& name) {
  if (const int64_t expected = type.bytes_of(std::array{rows, depth});
      expected == 0 || static_cast<int64_t>(bytes.size()) < expected)
    return make_error(ErrorCode::kCorrupt, "[gguf] {} bytes of {} for {} rows of {}, got {} (tensor={})", expected,
                      type.name, rows, depth, bytes.size(), name);
  const DecodeBlock decode = decoder_of(type);
  const int64_t blocks = depth / type.values, row_bytes = ternary::code_row_bytes(depth);
  decoder::Ternary weight{std::vector<uint8_t>(static_cast<size_t>(rows * row_bytes)), {}};
  std::vector<int8_t> t(static_cast<size_t>(depth));
  std::vector<uint16_t> scales;
  std::vector<bool> is_zero;
  const uint8_t* block = bytes.data();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < blocks; ++i, block += type.bytes) {
      const std::span<int8_t> values =
          std::span(t).subspan(static_cast<size_t>(i * type.values), static_cast<size_t>(type.values));
      uint16_t scale = 0;
      if (!decode(block, values.data(), &scale))
        return unsupported(name, "ternary codes 0, 1 and 2 in {}, got 3 in row {}", type.name, row);
      scales.push_back(scale);
      is_zero.push_back(std::all_of(values.begin(), values.end(), [](int8_t v) { return v == 0; }));
    }
    ternary::pack_codes(
        t, 1, depth, std::span(weight.codes).subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes)));
  }
  if (type.more != 0) {
    float scale = 0;
    std::memcpy(&scale, block, sizeof(scale));
    weight.scales = {scale};
  } else {
    weight.scales = fewest(type, scales, is_zero, rows);
  }
  if (factor) BITLAB_RETURN_IF_ERROR(multiply(weight.scales, *factor, name));
  return weight;
}

decoder::Weight unpack_floats(const TypeInfo& type, std::span<const uint8_t> bytes, std::vector<int64_t> shape) {
  bytes = bytes.first(static_cast<size_t>(type.bytes_of(shape)));
  if (type.name == "F32") return {std::move(shape), decoder::copied<float>(bytes)};
  if (type.name == "F16")
    return {std::move(shape), decoder::Halves{decoder::copied<uint16_t>(bytes), program::Storage::kFloat16}};
  if (type.name == "BF16")
    return {std::move(shape), decoder::Halves{decoder::copied<uint16_t>(bytes), program::Storage::kBFloat16}};
  std::vector<float> values(bytes.size() / static_cast<size_t>(type.bytes) * static_cast<size_t>(type.values));
  float* out = values.data();
  for (; !bytes.empty(); bytes = bytes.subspan(static_cast<size_t>(type.bytes)), out += type.values)
    (type.name == "Q8_0" ? decode_q8_0 : decode_q6_k)(bytes.data(), out);
  return {std::move(shape), std::move(values)};
}

Result<Packed> pack(const TypeInfo& type, const program::TernaryData& data, int64_t rows, int64_t depth,
                    const std::string& name) {
  if (depth % type.values != 0)
    return unsupported(name, "rows of whole blocks of {} values in {}, got {}", type.values, type.name, depth);
  if (!data.scale_neg.empty()) return unsupported(name, "one scale of t = +1 and of t = -1, got two");
  const std::optional<float> single = decoder::single_scale(data);
  if (type.more != 0 && !single)
    return unsupported(name, "one scale of the tensor in {}, got those of {}", type.name, packed_scales(data));
  Packed packed;
  const bool fits = single && half_to_float(float_to_half(*single)) == *single;
  if (single && !fits && type.more == 0) packed.factor = single;
  packed.bytes.resize(static_cast<size_t>(type.bytes_of(std::array{rows, depth})));
  auto* block = reinterpret_cast<uint8_t*>(packed.bytes.data());
  std::vector<int8_t> t(static_cast<size_t>(depth));
  const EncodeBlock encode = encoder_of(type);
  const int64_t row_bytes = ternary::code_row_bytes(depth);
  for (int64_t row = 0; row < rows; ++row) {
    ternary::unpack_codes(data.codes.subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes)), 1, depth,
                          t);
    for (int64_t k = 0; k < depth; k += type.values, block += type.bytes) {
      const auto scale =
          packed.factor || type.more != 0 ? std::optional(float_to_half(1)) : scale_of(data, row, k, k + type.values, depth);
      if (!scale)
        return unsupported(name, "scales of {} values that float16 holds in {}, got those of {} in row {}", type.values,
                           type.name, packed_scales(data), row);
      encode(t.data() + k, *scale, block);
    }
  }
  if (type.more != 0) std::memcpy(block, &*single, sizeof(float));
  return packed;
}

}  // namespace bitlab::format::gguf
