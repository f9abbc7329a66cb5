#include "bitlab/kernels/int8_conv/int8_conv.h"

#include "bitlab/kernels/internal/patches.h"
#include "bitlab/kernels/ternary_gemm/internal/cut.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kInt8Patches = 32;  // gathered at a time

int64_t int8_tile_bytes(const ConvGeometry& g) { return round_up(kInt8Patches * patch_stride(g), kAlignment); }

}  // namespace

int64_t int8_conv_scratch_bytes(const ConvGeometry& g, int threads) {
  return threads * (int8_tile_bytes(g) + kInt8GemmScratchBytes);
}

void int8_conv(const Int8GemmRow& row, const Int8GemmArgs& layer, const ConvGeometry& g, uint8_t* scratch,
               ThreadPool& pool) {
  const int64_t group_bytes = layer.rows / g.groups * patch_stride(g);
  for_each_tile(g, kInt8Patches, pool, [&](int64_t sample, int64_t begin, int64_t end, int worker) {
    uint8_t* own = scratch + worker * (int8_tile_bytes(g) + kInt8GemmScratchBytes);
    auto* patches = reinterpret_cast<int8_t*>(own);
    const Int8GemmArgs pixels = results_at(layer, sample * g.positions() + begin);
    for (int64_t group = 0; group < g.groups; ++group) {
      Int8GemmArgs part = rows_of_group(pixels, g.groups, group, group_bytes);
      part.q = patches;
      part.q_stride = patch_stride(g);
      part.a += sample * layer.a_stride;
      part.a_stride = 0;
      gather_patches(g, group, layer.q + sample * g.sample_values(), begin, end, patches, part.q_stride);
      row.run(part, 0, end - begin, 0, part.rows, own + int8_tile_bytes(g));
    }
  });
}

}  // namespace bitlab::kernels
