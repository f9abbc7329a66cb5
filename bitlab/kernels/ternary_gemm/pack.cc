#include "bitlab/kernels/ternary_gemm/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "bitlab/kernels/ternary_gemm/cuda/layout.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

constexpr uint32_t kZeroCodes = 0x55555555;  // sixteen codes of t = 0

// Four canonical bytes, k = 4 f + j in bits 2 j of byte f, become four with bits 2 f of byte j: a transpose of 4 x 4 fields, by swapping
// the halves off the diagonal of 2 x 2 blocks, then the blocks.
constexpr uint32_t transpose_fields(uint32_t x) {
  const uint32_t inner = (x ^ (x >> 6)) & 0x00CC00CCU;
  x ^= inner ^ (inner << 6);
  const uint32_t outer = (x ^ (x >> 12)) & 0x0000F0F0U;
  return x ^ outer ^ (outer << 12);
}

// One row of a block, `block_rows` high: a step lies 4 * block_rows bytes behind the one before it.
void pack_row(const uint8_t* codes, int64_t bytes, int64_t block_rows, uint8_t* out) {
  constexpr int64_t kRun = 16;  // steps: one cache line of codes
  const int64_t steps = ceil_div(bytes, 4);
  for (int64_t begin = 0; begin < steps; begin += kRun) {
    const int64_t count = std::min(kRun, steps - begin);
    uint32_t x[kRun];
    std::fill_n(x, kRun, kZeroCodes);
    std::memcpy(x, codes + begin * 4, static_cast<size_t>(std::min(kRun * 4, bytes - begin * 4)));
    for (uint32_t& word : x) word = transpose_fields(word);
    for (int64_t s = 0; s < count; ++s) std::memcpy(out + (begin + s) * 4 * block_rows, &x[s], 4);
  }
}

void pack_vn(std::span<const uint8_t> codes, int64_t rows, int64_t depth, uint8_t* out) {
  const int64_t steps = ceil_div(depth, kVnStep), row_bytes = ternary::code_row_bytes(depth);
  for (int64_t block = 0; block < rows; block += kVnBlock) {
    const int64_t block_rows = std::min(rows - block, kVnBlock);
    for (int64_t r = 0; r < block_rows; ++r)
      pack_row(codes.data() + (block + r) * row_bytes, row_bytes, block_rows, out + block * steps * 4 + 4 * r);
  }
}

// The weights t(k) of a row, into bytes that are 0.
template <class Weight>
void put_mma_row(int64_t row, int64_t depth, const Weight& t, uint8_t* out) {
  for (int64_t k = 0; k < depth; ++k) {
    const MmaPlace at = mma_place(row, k, depth);
    out[at.byte] = static_cast<uint8_t>(out[at.byte] | (t(k) & 3) << at.shift);
  }
}

void pack_mma(std::span<const uint8_t> codes, int64_t rows, int64_t depth, uint8_t* out) {
  std::fill_n(out, mma_bytes(rows, depth), uint8_t{0});
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* from = codes.data() + row * ternary::code_row_bytes(depth);
    put_mma_row(
        row, depth, [&](int64_t k) { return ternary::code_at(from, k) - 1; }, out);
  }
}

}  // namespace

std::string_view name(TernaryLayout layout) {
  constexpr std::string_view kNames[] = {"rows", "vn", "mma", "int8_rows", "int8"};
  return kNames[static_cast<size_t>(layout)];
}

int64_t packed_bytes(int64_t rows, int64_t depth, TernaryLayout layout) {
  if (layout == TernaryLayout::kRows) return ternary::code_bytes(rows, depth);
  if (layout == TernaryLayout::kMma) return mma_bytes(rows, depth);
  return rows * round_up(depth, kVnStep) / 4;
}

Result<PackedTernary> pack_ternary(std::span<const uint8_t> codes, int64_t rows, int64_t depth, TernaryLayout layout,
                                   int64_t groups) {
  PackedTernary packed{{}, rows, depth, layout};
  const int64_t own = rows / groups, bytes = packed_bytes(own, depth, layout);
  BITLAB_TRY(packed.data, AlignedBuffer::allocate(static_cast<size_t>(groups * bytes)));
  if (layout == TernaryLayout::kRows) {
    std::copy(codes.begin(), codes.end(), packed.data.data());
    return packed;
  }
  const auto codes_bytes = static_cast<size_t>(ternary::code_bytes(own, depth));
  for (int64_t g = 0; g < groups; ++g)
    (layout == TernaryLayout::kMma ? pack_mma : pack_vn)(codes.subspan(static_cast<size_t>(g) * codes_bytes, codes_bytes),
                                                         own, depth, packed.data.data() + g * bytes);
  return packed;
}

namespace {

// Of one matrix, in any layout.
int64_t matrix_bytes(int64_t rows, int64_t depth, TernaryLayout layout) {
  if (layout == TernaryLayout::kInt8Rows) return rows * depth;
  return layout == TernaryLayout::kInt8 ? rows * round_up(depth, kVnStep) : packed_bytes(rows, depth, layout);
}

}  // namespace

void unpack_row(const PackedTernary& packed, int64_t row, int64_t begin, std::span<int8_t> t, int64_t groups) {
  const int64_t rows = packed.rows / groups;  // of a group's matrix
  const uint8_t* data = packed.data.data() + row / rows * matrix_bytes(rows, packed.depth, packed.layout);
  row %= rows;
  const auto fill = [&](auto weight_at) {
    for (size_t i = 0; i < t.size(); ++i) t[i] = static_cast<int8_t>(weight_at(begin + static_cast<int64_t>(i)));
  };
  // Layouts in blocks: four k of a row lie together, those of the block's other rows behind them.
  const int64_t block = row / kVnBlock * kVnBlock, height = std::min(rows - block, kVnBlock), within = 4 * (row - block),
                steps = ceil_div(packed.depth, kVnStep);
  switch (packed.layout) {
    case TernaryLayout::kRows:
      data += row * ternary::code_row_bytes(packed.depth);
      return fill([=](int64_t k) { return ternary::code_at(data, k) - 1; });
    case TernaryLayout::kVn:
      data += block * steps * 4 + within;
      return fill([=](int64_t k) {
        const uint8_t byte = data[k / kVnStep * 4 * height + k % 4];
        return (byte >> (2 * (k % kVnStep / 4)) & 3) - 1;
      });
    case TernaryLayout::kMma:
      return fill([=, depth = packed.depth](int64_t k) { return mma_weight(data, row, k, depth); });
    case TernaryLayout::kInt8Rows:
      data += row * packed.depth;
      return fill([=](int64_t k) { return data[k]; });
    case TernaryLayout::kInt8:
      data += block * steps * kVnStep + within;
      return fill([=](int64_t k) { return data[k / 4 * 4 * height + k % 4]; });
  }
}

Result<PackedTernary> repack_mma(const PackedTernary& packed) {
  PackedTernary mma{{}, packed.rows, packed.depth, TernaryLayout::kMma};
  BITLAB_TRY(mma.data, AlignedBuffer::allocate(static_cast<size_t>(mma_bytes(packed.rows, packed.depth))));
  std::vector<int8_t> t(static_cast<size_t>(packed.depth));
  for (int64_t row = 0; row < packed.rows; ++row) {
    unpack_row(packed, row, 0, t);
    put_mma_row(
        row, packed.depth, [&](int64_t k) { return t[static_cast<size_t>(k)]; }, mma.data.data());
  }
  return mma;
}

Result<AlignedBuffer> pack_group_scales(std::span<const uint16_t> scales, int64_t rows, int64_t groups) {
  BITLAB_TRY(AlignedBuffer buffer, AlignedBuffer::allocate(scales.size_bytes()));
  auto* out = reinterpret_cast<uint16_t*>(buffer.data());
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t g = 0; g < groups; ++g) out[g * rows + n] = scales[static_cast<size_t>(n * groups + g)];
  return buffer;
}

}  // namespace bitlab::kernels
