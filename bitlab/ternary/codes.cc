#include "bitlab/ternary/codes.h"

namespace bitlab::ternary {
namespace {

constexpr uint8_t kZeroByte = 0b01010101;  // four codes of t = 0

// The bits of a row's last byte that no weight uses.
constexpr uint8_t unused_mask(int64_t depth) {
  return depth % 4 == 0 ? uint8_t{0} : static_cast<uint8_t>(0xFF << (2 * (depth % 4)));
}

}  // namespace

void pack_codes(std::span<const int8_t> t, int64_t rows, int64_t depth, std::span<uint8_t> codes) {
  uint8_t* out = codes.data();
  for (int64_t row = 0; row < rows; ++row) {
    const int8_t* in = t.data() + row * depth;
    for (int64_t k = 0; k < depth; k += 4) {
      unsigned byte = kZeroByte;
      for (int64_t j = 0; j < 4 && k + j < depth; ++j)
        byte = (byte & ~(3U << (2 * j))) | (static_cast<unsigned>(in[k + j] + 1) << (2 * j));
      *out++ = static_cast<uint8_t>(byte);
    }
  }
}

void unpack_codes(std::span<const uint8_t> codes, int64_t rows, int64_t depth, std::span<int8_t> t) {
  int8_t* out = t.data();
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* in = codes.data() + row * code_row_bytes(depth);
    for (int64_t k = 0; k < depth; ++k) *out++ = static_cast<int8_t>(code_at(in, k) - 1);
  }
}

Status validate_codes(std::span<const uint8_t> codes, int64_t rows, int64_t depth) {
  if (static_cast<int64_t>(codes.size()) != code_bytes(rows, depth))
    return make_error(ErrorCode::kShapeMismatch, "[codes] {} bytes for [{}, {}], got {}", code_bytes(rows, depth), rows,
                      depth, codes.size());
  const int64_t row_bytes = code_row_bytes(depth);
  const uint8_t unused = unused_mask(depth);
  for (int64_t i = 0; i < static_cast<int64_t>(codes.size()); ++i) {
    const unsigned byte = codes[static_cast<size_t>(i)];
    const bool invalid = (byte & (byte >> 1) & kZeroByte) != 0;  // some field is 3
    const bool padded = i % row_bytes != row_bytes - 1 || (byte & unused) == (kZeroByte & unused);
    if (invalid || !padded)
      return make_error(ErrorCode::kCorrupt,
                        "[codes] ternary codes 0, 1, 2 and padding 1, got byte 0x{:02x} (row={}, byte={})", byte,
                        i / row_bytes, i % row_bytes);
  }
  return {};
}

double sparsity(std::span<const uint8_t> codes, int64_t rows, int64_t depth) {
  int64_t zeros = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < depth; ++k) zeros += code_at(codes.data() + row * code_row_bytes(depth), k) == 1;
  return rows * depth == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(rows * depth);
}

}  // namespace bitlab::ternary
