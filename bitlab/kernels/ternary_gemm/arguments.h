// What a ternary_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "bitlab/kernels/cuda_type.h"

namespace bitlab::kernels {

// How packed ternary weights lie in memory; fields hold t + 1, K' = K rounded up to 16, padding along k holds 1 (t = 0).
enum class TernaryLayout : uint8_t {
  // The canonical rows of ternary/codes.h.
  kRows,
  // Blocks of 64 rows, the last one as high as the rows that are left. A block runs over k in steps of 16; a step holds 4 bytes for
  // each row of the block: byte j of row r, bits 2 f and 2 f + 1 = the weight k = 16 step + 4 f + j.
  kVn,
  // What the matrix units of CUDA devices read: cuda/layout.h.
  kMma,
  // Of weights kept in int8: rows as they are, for tables; and what int8_gemm reads (pack_int8).
  kInt8Rows,
  kInt8,
};
constexpr bool is_int8(TernaryLayout layout) { return layout == TernaryLayout::kInt8Rows || layout == TernaryLayout::kInt8; }

inline constexpr int64_t kVnStep = 16;   // k a step
inline constexpr int64_t kVnBlock = 64;  // rows a block

struct TernaryGemmArgs {
  // Weights.
  const uint8_t* weights = nullptr;       // packed [rows, depth]; any alignment, quickest at 64
  int64_t rows = 0;                       // N
  int64_t depth = 0;                      // K
  const float* scale = nullptr;           // scale[row * scale_stride]; of t = +1 where scale_neg is given
  int64_t scale_stride = 0;               // 1 per output channel, 0 per tensor
  const float* scale_neg = nullptr;       // asymmetric ternary: of t = -1, strided like scale
  int64_t group = 0;                      // k that share a scale: 64, 128 or 256; 0: `scale` serves a whole row
  const uint16_t* group_scale = nullptr;  // float16 [ceil(depth / group), rows], instead of scale
  // Activations.
  const int8_t* q = nullptr;  // [tokens, depth], |q| <= 127; each row readable, and zero, up to depth rounded up to 16
  int64_t q_stride = 0;       // bytes from token to token
  // Where a token's q lies in several runs (a patch in its image): each has `run` k, a multiple of 16, and begins run_stride bytes after the
  // one before it; the last one has what is left. 0: one run. Only for rows that serve kAllScales.
  int64_t run = 0;
  int64_t run_stride = 0;
  const float* a = nullptr;  // what one unit of q stands for: a[token * a_stride]
  int64_t a_stride = 1;      // 1, or 0 where all tokens share it
  // After the product; each may be null.
  const float* bias = nullptr;      // [rows], added
  const float* alpha = nullptr;     // [rows], multiplied; then
  const float* beta = nullptr;      // [rows], added; given with alpha
  const float* residual = nullptr;  // [tokens, rows], y_stride apart: added
  bool relu = false;
  bool clamps = false;  // to low and high, of which one or both may be infinite; NaN stays
  // Of y: on devices results may be rounded to bfloat16 or float16 (training under autocast), 16 bits where y points to.
  CudaType y_type = CudaType::kFloat32;
  // On devices: the weights are of work on the stream, and a kernel waits for that before it reads them. Else it may read them while the work in
  // front of it runs.
  bool has_new_weights = false;
  float low = -__builtin_inff(), high = __builtin_inff();
  // Results [tokens, rows]: float32, or int8 where y_q is given.
  float* y = nullptr;
  int8_t* y_q = nullptr;  // clamp(rint(y * y_inv), -y_limit, y_limit)
  float y_inv = 0;
  float y_limit = 127;   // 127 for int8, 7 for int4
  int64_t y_stride = 0;  // elements from token to token
};

// Computes the results of the tokens [token_begin, token_end) and the rows [row_begin, row_end). Beside what the fields say, a caller owes a
// kernel that
//   - row_begin is a multiple of kVnBlock, and row_end is one, too, or args.rows: a kernel computes whole blocks;
//   - depth is at least 1, where the kernel is not the reference, and at most 2^24;
//   - codes are valid (ternary::validate_codes), because tables are indexed by them;
//   - a row that serves kPlainOnly gets neither scale_neg nor group;
//   - `scratch` is aligned to 64, holds ternary_gemm_scratch_bytes() of the row and belongs to this call alone;
//   - calls that run at the same time differ in their tokens or in their rows.
using TernaryGemmKernel = void(const TernaryGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                               int64_t row_end, uint8_t* scratch);

// What every row may use: the sums of q, int32 [groups, 64 tokens].
inline constexpr int64_t kSumTokens = 64;
constexpr int64_t sums_bytes(int64_t depth, int64_t group) {
  return (group == 0 ? 1 : (depth + group - 1) / group) * kSumTokens * 4;
}

#define BITLAB_KERNEL(name, ...) TernaryGemmKernel ternary_gemm_##name;
#include "bitlab/kernels/ternary_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
