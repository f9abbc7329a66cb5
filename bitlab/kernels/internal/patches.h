// What convolutions that gather their patches share: an output pixel's patch is a token of the product, a few of them are a tile.
#pragma once

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// int8: a patch begins where a step of k does, and what is left of its last step is zero.
inline int64_t patch_stride(const ConvGeometry& g) { return round_up(g.depth(), kVnStep); }

// float32: patches lie one behind the other.
inline constexpr int64_t kFloatPatches = 24;  // of a tile: whole tiles of every float_gemm
inline int64_t float_tile_bytes(const ConvGeometry& g) {
  return round_up(kFloatPatches * g.depth() * static_cast<int64_t>(sizeof(float)), kAlignment);
}

// A line of an image with the zeros of its padding on both sides.
inline void pad_sides(const ConvGeometry& g, const int8_t* line, int8_t* out) {
  const int64_t values = g.input[2] * g.channels, margin = g.padding[2] * g.channels;
  std::fill_n(out, margin, int8_t{0});
  std::copy_n(line, values, out + margin);
  std::fill_n(out + margin + values, margin, int8_t{0});
}

// Calls f(sample, begin, end, part, worker) for tiles of up to `patches` output pixels [begin, end) of a sample, in multiples of `unit`, each in so many parts, on
// the pool's threads.
template <class F>
void for_each_tile(const ConvGeometry& g, int64_t patches, int64_t unit, int64_t parts, ThreadPool& pool, const F& f) {
  const EvenParts tiles(g.positions(), patches, unit, g.batch * parts, pool.threads());
  pool.run(g.batch * tiles.parts * parts, [&](int64_t task, int worker) {
    const int64_t tile = task / parts, own = tile % tiles.parts;
    f(tile / tiles.parts, tiles.begin(own), tiles.begin(own + 1), task % parts, worker);
  });
}
template <class F>
void for_each_tile(const ConvGeometry& g, int64_t patches, ThreadPool& pool, const F& f) {
  for_each_tile(g, patches, patches, 1, pool,
                [&](int64_t sample, int64_t begin, int64_t end, int64_t, int worker) { f(sample, begin, end, worker); });
}

}  // namespace bitlab::kernels
