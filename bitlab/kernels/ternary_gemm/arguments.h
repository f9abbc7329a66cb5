// What a ternary_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// How packed ternary weights lie in memory; fields hold t + 1, K' = K rounded up to 16, padding holds 1 (t = 0).
enum class TernaryLayout : uint8_t {
  // The canonical rows of ternary/codes.h.
  kRows,
  // Blocks of 64 rows; the last block of a matrix is as high as its rows need, in units of 8. A block runs over k in steps of 16;
  // a step holds, for each unit of 8 rows, 32 bytes: byte 4 r + j, bits 2 f and 2 f + 1 = row r, k = 16 step + 4 f + j.
  kVn,
};

inline constexpr int64_t kVnStep = 16;   // k a step
inline constexpr int64_t kVnUnit = 8;    // rows a unit
inline constexpr int64_t kVnBlock = 64;  // rows a block

struct TernaryGemmArgs {
  const uint8_t* weights;  // packed [rows, depth], aligned to 64
  int64_t rows;            // N
  int64_t depth;           // K
  const int8_t* q;         // [tokens, depth], |q| <= 127; each row readable, and zero, up to depth rounded up to 16
  int64_t q_stride;        // bytes from token to token
  const float* a;          // what one unit of q stands for: a[token * a_stride]
  int64_t a_stride;        // 1, or 0 where all tokens share it
  const float* scale;      // of the weights: scale[row * scale_stride]
  int64_t scale_stride;    // 1 per output channel, 0 per tensor
  const float* bias;       // [rows], or null
  float* y;                // [tokens, rows]
  int64_t y_stride;        // floats from token to token
};

// Computes y for the given tokens and rows; row_begin is a multiple of 64.
using TernaryGemmKernel = void(const TernaryGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                               int64_t row_end);

#define BITLAB_KERNEL(name, ...) TernaryGemmKernel ternary_gemm_##name;
#include "bitlab/kernels/ternary_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
