#include "bitlab/kernels/float_conv/float_conv.h"

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kPatches = 16;  // gathered at a time

int64_t tile_bytes(const ConvGeometry& g) {
  return round_up(kPatches * g.depth() * static_cast<int64_t>(sizeof(float)), kAlignment);
}

}  // namespace

int64_t float_conv_scratch_bytes(const ConvGeometry& g, int threads) { return threads * tile_bytes(g); }

void float_conv(const FloatGemmRow& kernel, const float* w, const float* bias, int64_t rows, const ConvGeometry& g,
                const float* x, float* y, uint8_t* scratch, ThreadPool& pool) {
  const int64_t positions = g.positions(), tiles = ceil_div(positions, kPatches), depth = g.depth(), own = rows / g.groups;
  pool.run(g.batch * tiles, [&](int64_t task, int worker) {
    const int64_t sample = task / tiles, begin = task % tiles * kPatches, end = std::min(begin + kPatches, positions);
    auto* tile = reinterpret_cast<float*>(scratch + worker * tile_bytes(g));
    for (int64_t group = 0; group < g.groups; ++group) {
      gather_patches(g, group, x + sample * g.sample_values(), begin, end, tile, depth);
      const int64_t row = group * own;
      const FloatGemmArgs args{w + row * depth,
                               own,
                               depth,
                               tile,
                               depth,
                               bias == nullptr ? nullptr : bias + row,
                               y + (sample * positions + begin) * rows + row,
                               rows};
      kernel.run(args, 0, end - begin, 0, own);
    }
  });
}

}  // namespace bitlab::kernels
