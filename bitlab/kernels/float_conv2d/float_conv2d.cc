#include "bitlab/kernels/float_conv2d/float_conv2d.h"

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kPatches = 16;  // gathered at a time

int64_t tile_bytes(const Conv2dGeometry& g) {
  return round_up(kPatches * g.depth() * static_cast<int64_t>(sizeof(float)), kAlignment);
}

}  // namespace

int64_t float_conv2d_scratch_bytes(const Conv2dGeometry& g, int threads) { return threads * tile_bytes(g); }

void float_conv2d(const FloatGemmRow& kernel, const float* w, const float* bias, int64_t rows, const Conv2dGeometry& g,
                  const float* x, float* y, uint8_t* scratch, ThreadPool& pool) {
  const int64_t positions = g.positions(), tiles = ceil_div(positions, kPatches), depth = g.depth();
  pool.run(g.batch * tiles, [&](int64_t task, int worker) {
    const int64_t sample = task / tiles, begin = task % tiles * kPatches, end = std::min(begin + kPatches, positions);
    auto* tile = reinterpret_cast<float*>(scratch + worker * tile_bytes(g));
    gather_patches(g, x + sample * g.sample_values(), begin, end, tile, depth);
    const FloatGemmArgs args{w, rows, depth, tile, depth, bias, y + (sample * positions + begin) * rows, rows};
    kernel.run(args, 0, end - begin, 0, rows);
  });
}

}  // namespace bitlab::kernels
