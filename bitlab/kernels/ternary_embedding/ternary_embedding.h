// Lookup in a ternary table:
//
//   y[token, k] = float(t[index[token], k]) * scale      one scale a row (row = index) or tensor; exact, since t is -1, 0 or 1
//
//   With two scales t = -1 takes the second one. In a table kept in int8, t is in [-127, 127].
//
//   table [rows, depth], packed in any layout; index [tokens] -> y [tokens, depth]
//
// A group of k with a scale of its own: scale float16 [rows, groups] or [groups, rows], groups = ceil(depth / group).
#pragma once

#include "bitlab/base/result.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/ternary_gemm/pack.h"

namespace bitlab::kernels {

// Does not own.
struct TernaryTable {
  const PackedTernary* weights = nullptr;
  const float* scale = nullptr;
  int64_t scale_stride = 0;          // 0 per tensor, 1 per row
  const float* scale_neg = nullptr;  // of t = -1, strided like scale; null: `scale`
  int64_t group = 0;                 // 0: `scale` serves a whole row
  const uint16_t* group_scale = nullptr;
  int64_t group_row_stride = 0, group_stride = 0;  // elements from row to row and from group to group
};

// Error: InvalidArgument, naming `op`, where an index is outside of the table.
Status ternary_embedding(const char* op, const TernaryTable& table, const int64_t* index, int64_t tokens, float* y,
                         ThreadPool& pool);

}  // namespace bitlab::kernels
