#include "bitlab/kernels/ternary_gemm/pack.h"

#include <algorithm>
#include <cstring>

#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

constexpr uint8_t kZeroByte = 0b01010101;  // four codes of t = 0

void pack_vn(std::span<const uint8_t> codes, int64_t rows, int64_t depth, uint8_t* out) {
  const int64_t steps = ceil_div(depth, kVnStep), row_bytes = ternary::code_row_bytes(depth);
  for (int64_t block = 0; block < rows; block += kVnBlock) {
    const int64_t units = ceil_div(std::min(rows - block, kVnBlock), kVnUnit);
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t row = block; row < block + units * kVnUnit; ++row, out += 4) {
        // Four canonical bytes, k = 16 step + 4 f + j in bits 2 j of byte f, become four with bits 2 f of byte j: a transpose.
        uint8_t in[4] = {kZeroByte, kZeroByte, kZeroByte, kZeroByte};
        if (row < rows)
          std::memcpy(in, codes.data() + row * row_bytes + step * 4,
                      static_cast<size_t>(std::min<int64_t>(4, row_bytes - step * 4)));
        for (int j = 0; j < 4; ++j) {
          unsigned byte = 0;
          for (int f = 0; f < 4; ++f) byte |= ((in[f] >> (2 * j)) & 3U) << (2 * f);
          out[j] = static_cast<uint8_t>(byte);
        }
      }
  }
}

}  // namespace

std::string_view name(TernaryLayout layout) { return layout == TernaryLayout::kRows ? "rows" : "vn"; }

int64_t packed_bytes(int64_t rows, int64_t depth, TernaryLayout layout) {
  if (layout == TernaryLayout::kRows) return ternary::code_bytes(rows, depth);
  return round_up(rows, kVnUnit) * round_up(depth, kVnStep) / 4;
}

Result<PackedTernary> pack_ternary(std::span<const uint8_t> codes, int64_t rows, int64_t depth, TernaryLayout layout) {
  PackedTernary packed{{}, rows, depth, layout};
  BITLAB_TRY(packed.data, AlignedBuffer::allocate(static_cast<size_t>(packed_bytes(rows, depth, layout))));
  if (layout == TernaryLayout::kRows) {
    std::copy(codes.begin(), codes.end(), packed.data.data());
  } else {
    pack_vn(codes, rows, depth, packed.data.data());
  }
  return packed;
}

}  // namespace bitlab::kernels
