// From canonical packed codes (ternary/codes.h) to the layouts that kernels read.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// The one resident copy of a weight. That of a convolution with groups is a matrix for each of them, one after the other.
struct PackedTernary {
  AlignedBuffer data;
  int64_t rows = 0;  // of all groups
  int64_t depth = 0;
  TernaryLayout layout = TernaryLayout::kRows;
};

std::string_view name(TernaryLayout layout);                              // "rows", "vn", "int8_rows", "int8"
int64_t packed_bytes(int64_t rows, int64_t depth, TernaryLayout layout);  // of a ternary matrix

// `codes` are canonical and valid (ternary::validate_codes), [rows, depth]; `groups` divides rows. Error: OutOfMemory.
Result<PackedTernary> pack_ternary(std::span<const uint8_t> codes, int64_t rows, int64_t depth, TernaryLayout layout,
                                   int64_t groups = 1);

// Scales of groups, float16: [rows, groups] as stored, to [groups, rows] as kernels read them. Error: OutOfMemory.
Result<AlignedBuffer> pack_group_scales(std::span<const uint16_t> scales, int64_t rows, int64_t groups);

// The weights k = begin, begin + 1, ... of a row, as many as `t` holds, from any layout of `groups` matrices: so that a table which is also the weight of a
// product needs no second copy.
void unpack_row(const PackedTernary& packed, int64_t row, int64_t begin, std::span<int8_t> t, int64_t groups = 1);

// The same ternary matrix, of one group, in kMma. Error: OutOfMemory.
Result<PackedTernary> repack_mma(const PackedTernary& packed);

}  // namespace bitlab::kernels
