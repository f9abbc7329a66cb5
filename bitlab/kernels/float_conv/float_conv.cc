#include "bitlab/kernels/float_conv/float_conv.h"

#include "bitlab/kernels/internal/patches.h"

namespace bitlab::kernels {

int64_t float_conv_scratch_bytes(const ConvGeometry& g, int threads) { return threads * float_tile_bytes(g); }

void float_conv(const FloatGemmRow& kernel, const float* w, const float* bias, int64_t rows, const ConvGeometry& g,
                const float* x, float* y, uint8_t* scratch, ThreadPool& pool) {
  const int64_t positions = g.positions(), depth = g.depth(), own = rows / g.groups;
  for_each_tile(g, kFloatPatches, pool, [&](int64_t sample, int64_t begin, int64_t end, int worker) {
    auto* tile = reinterpret_cast<float*>(scratch + worker * float_tile_bytes(g));
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
