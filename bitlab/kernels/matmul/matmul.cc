#include "bitlab/kernels/matmul/matmul.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kSharedRows = 64;  // of a, for which c is transposed once

int64_t transposed_bytes(const MatmulShape& s) {
  return round_up(s.k * s.n * static_cast<int64_t>(sizeof(float)), kAlignment);
}

}  // namespace

void transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

int64_t matmul_scratch_bytes(const MatmulShape& s, int threads) { return threads * transposed_bytes(s); }

void matmul(const FloatGemmRow& kernel, const MatmulShape& s, const float* a, const float* c, float* y, uint8_t* scratch,
            ThreadPool& pool) {
  const int64_t tiles = ceil_div(s.m, kSharedRows);
  pool.run(s.batch * tiles, [&](int64_t task, int worker) {
    const int64_t product = task / tiles, begin = task % tiles * kSharedRows, end = std::min(begin + kSharedRows, s.m);
    auto* rows = reinterpret_cast<float*>(scratch + worker * transposed_bytes(s));
    transpose(c + product * s.k * s.n, s.k, s.n, rows);
    const FloatGemmArgs args{rows, s.n, s.k, a + product * s.m * s.k, s.k, nullptr, y + product * s.m * s.n, s.n};
    kernel.run(args, begin, end, 0, s.n);
  });
}

}  // namespace bitlab::kernels
