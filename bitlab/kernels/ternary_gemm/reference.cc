// Portable kernel on canonical rows: unpacks a piece of a weight row once and uses it for every token.
#include <algorithm>

#include "bitlab/base/internal/half.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kPiece = 4096;  // k unpacked at a time

struct Sums {
  int32_t plain[kSumTokens], magnitude[kSumTokens];  // of t q and of |t| q
};

// Adds the products of k in [begin, end), which lie in one run of q.
void add_products(const TernaryGemmArgs& p, const uint8_t* row, int64_t token_begin, int64_t tokens, int64_t begin,
                  int64_t end, Sums& sums) {
  const int64_t run = p.run == 0 ? p.depth : p.run;
  int8_t t[kPiece];
  for (int64_t k = begin; k < end; ++k) t[k - begin] = static_cast<int8_t>(ternary::code_at(row, k) - 1);
  for (int64_t m = 0; m < tokens; ++m) {
    const int8_t* q = p.q + (token_begin + m) * p.q_stride + begin / run * p.run_stride + begin % run;
    int32_t plain = 0, magnitude = 0;
    for (int64_t k = 0; k < end - begin; ++k) {
      plain += t[k] * q[k];
      magnitude += (t[k] & 1) * q[k];
    }
    sums.plain[m] += plain;
    sums.magnitude[m] += magnitude;
  }
}

void one_row(const TernaryGemmArgs& p, int64_t n, int64_t token_begin, int64_t tokens) {
  const uint8_t* row = p.weights + n * ternary::code_row_bytes(p.depth);
  const int64_t group = p.group == 0 ? p.depth : p.group;
  Floats<1> total[kSumTokens] = {};
  Sums sums{};
  for (int64_t first = 0; first < p.depth; first += group) {
    sums = {};
    const int64_t last = std::min(first + group, p.depth), run = p.run == 0 ? p.depth : p.run;
    for (int64_t k = first, end; k < last; k = end) {
      end = std::min({k + kPiece, last, (k / run + 1) * run});
      add_products(p, row, token_begin, tokens, k, end, sums);
    }
    if (p.group == 0) continue;
    const float scale = half_to_float(p.group_scale[first / group * p.rows + n]);
    for (int64_t m = 0; m < tokens; ++m) total[m] = total[m] + static_cast<float>(sums.plain[m]) * all_floats<1>(scale);
  }
  const auto constants = RowConstants<1>::of(p, n);
  for (int64_t m = 0; m < tokens; ++m) {
    if (p.group != 0) {
      finish_groups<1>(p, constants, total[m], token_begin + m);
    } else if (p.scale_neg != nullptr) {
      finish_two_sums<1>(p, constants, all_ints<1>(sums.plain[m]), all_ints<1>(sums.magnitude[m]), token_begin + m);
    } else {
      finish_sum<1>(p, constants, all_ints<1>(sums.plain[m]), token_begin + m);
    }
  }
}

}  // namespace

void ternary_gemm_reference(const TernaryGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                            int64_t row_end, uint8_t*) {
  for (int64_t m = token_begin; m < token_end; m += kSumTokens)
    for (int64_t n = row_begin; n < row_end; ++n) one_row(args, n, m, std::min(kSumTokens, token_end - m));
}

}  // namespace bitlab::kernels
