// Portable kernel on canonical rows: unpacks a piece of a weight row once and uses it for every token.
#include <algorithm>

#include "bitlab/kernels/ternary_gemm/arguments.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kPiece = 4096;  // k unpacked at a time
constexpr int64_t kTokens = 64;   // tokens that share an unpacked piece

int32_t dot(const int8_t* t, const int8_t* q, int64_t n) {
  int32_t sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += t[k] * q[k];
  return sum;
}

void one_row(const TernaryGemmArgs& p, int64_t n, int64_t token_begin, int64_t token_end) {
  const uint8_t* row = p.weights + n * ternary::code_row_bytes(p.depth);
  int32_t acc[kTokens] = {};
  int8_t t[kPiece];
  for (int64_t k0 = 0; k0 < p.depth; k0 += kPiece) {
    const int64_t length = std::min(kPiece, p.depth - k0);
    for (int64_t k = 0; k < length; ++k) t[k] = static_cast<int8_t>(ternary::code_at(row, k0 + k) - 1);
    for (int64_t m = token_begin; m < token_end; ++m) acc[m - token_begin] += dot(t, p.q + m * p.q_stride + k0, length);
  }
  for (int64_t m = token_begin; m < token_end; ++m) {
    const float in_x = static_cast<float>(acc[m - token_begin]) * p.a[m * p.a_stride];
    const float in_y = in_x * p.scale[n * p.scale_stride];
    p.y[m * p.y_stride + n] = p.bias == nullptr ? in_y : in_y + p.bias[n];
  }
}

}  // namespace

void ternary_gemm_reference(const TernaryGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                            int64_t row_end) {
  for (int64_t m = token_begin; m < token_end; m += kTokens)
    for (int64_t n = row_begin; n < row_end; ++n) one_row(args, n, m, std::min(m + kTokens, token_end));
}

}  // namespace bitlab::kernels
