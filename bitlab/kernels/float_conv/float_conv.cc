#include "bitlab/kernels/float_conv/float_conv.h"

#include "bitlab/kernels/internal/patches.h"

namespace bitlab::kernels {

int64_t float_conv_scratch_bytes(const ConvGeometry& g, int threads) { return threads * float_tile_bytes(g); }

void float_conv(const FloatGemmRow& kernel, const float* panels, const float* bias, int64_t rows, const ConvGeometry& g,
                const float* x, float* y, uint8_t* scratch, ThreadPool& pool, const RangeTask* after) {
  const int64_t positions = g.positions(), depth = g.depth(), own = rows / g.groups;
  for_each_tile(g, kFloatPatches, pool, [&](int64_t sample, int64_t begin, int64_t end, int worker) {
    auto* tile = reinterpret_cast<float*>(scratch + worker * float_tile_bytes(g));
    const FloatGemmArgs args{panels, rows, depth, tile, depth, bias, y + (sample * positions + begin) * rows, rows};
    for (int64_t group = 0; group < g.groups; ++group) {
      gather_patches(g, group, x + sample * g.sample_values(), begin, end, tile, depth);
      kernel.run(args, 0, end - begin, group * own, (group + 1) * own);
    }
    if (after != nullptr) (*after)((sample * positions + begin) * rows, (sample * positions + end) * rows);
  });
}

}  // namespace bitlab::kernels
