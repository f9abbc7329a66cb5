// Lookup in a ternary table:
//
//   y[token, k] = float(t[index[token], k]) * scale      one scale a row (row = index) or tensor; exact, since t is -1, 0 or 1
//
//   With two scales t = -1 takes the second one. In a table kept in int8, t is in [-127, 127].
//
//   codes: canonical (ternary/codes.h), [rows, depth]; index [tokens] -> y [tokens, depth]
//
// A group of k with a scale of its own: scale float16 [rows, ceil(depth / group)], as stored.
#pragma once

#include "bitlab/base/result.h"
#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

struct TernaryTable {
  const uint8_t* codes = nullptr;
  int64_t rows = 0, depth = 0;
  const float* scale = nullptr;
  int64_t scale_stride = 0;          // 0 per tensor, 1 per row
  const float* scale_neg = nullptr;  // of t = -1, strided like scale; null: `scale`
  int64_t group = 0;                 // 0: `scale` serves a whole row
  const uint16_t* group_scale = nullptr;
  const int8_t* int8 = nullptr;  // t [rows, depth] of a table kept in int8, instead of codes; with `scale` alone
};

// Error: InvalidArgument, naming `op`, where an index is outside of the table.
Status ternary_embedding(const char* op, const TernaryTable& table, const int64_t* index, int64_t tokens, float* y,
                         ThreadPool& pool);

}  // namespace bitlab::kernels
