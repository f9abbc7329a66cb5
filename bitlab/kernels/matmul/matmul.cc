#include "bitlab/kernels/matmul/matmul.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kSharedRows = 192;  // of a, for which c is packed once

int64_t packed_bytes_of(const MatmulShape& s) { return round_up(float_panel_bytes(s.n, s.k), kAlignment); }

}  // namespace

int64_t matmul_scratch_bytes(const MatmulShape& s, int threads) { return threads * packed_bytes_of(s); }

void matmul(const FloatGemmRow& kernel, const MatmulShape& s, const float* a, const float* c, float* y, uint8_t* scratch,
            ThreadPool& pool) {
  const int64_t tiles = ceil_div(s.m, kSharedRows);
  pool.run(s.batch * tiles, [&](int64_t task, int worker) {
    const int64_t product = task / tiles, begin = task % tiles * kSharedRows, end = std::min(begin + kSharedRows, s.m);
    auto* panels = reinterpret_cast<float*>(scratch + worker * packed_bytes_of(s));
    pack_float_columns(c + product * s.k * s.n, s.n, s.k, panels);
    const FloatGemmArgs args{panels, s.n, s.k, a + product * s.m * s.k, s.k, nullptr, y + product * s.m * s.n, s.n};
    kernel.run(args, begin, end, 0, s.n);
  });
}

}  // namespace bitlab::kernels
