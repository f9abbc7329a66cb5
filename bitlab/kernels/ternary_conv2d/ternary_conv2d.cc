#include "bitlab/kernels/ternary_conv2d/ternary_conv2d.h"

namespace bitlab::kernels {
namespace {

int64_t patch_stride(const Conv2dGeometry& g) { return round_up(g.depth(), kVnStep); }

// Patches gathered at a time: about as many as the first-level cache holds.
int64_t tile_patches(const Conv2dGeometry& g) {
  constexpr int64_t kTileBytes = 16 << 10, kMost = 64, kMultiple = 4;
  const int64_t fitting = std::clamp(kTileBytes / patch_stride(g) / kMultiple * kMultiple, kMultiple, kMost);
  return std::min(fitting, g.positions());
}

// Scratch: q of all samples, a [batch], for each thread a tile and what the kernel asks for.
struct Scratch {
  int64_t q, a, tile, thread;  // bytes
  Scratch(const TernaryKernels& kernels, const Conv2dGeometry& g)
      : q(round_up(g.batch * g.sample_values(), kAlignment)),
        a(round_up(g.batch * static_cast<int64_t>(sizeof(float)), kAlignment)),
        tile(round_up(tile_patches(g) * patch_stride(g), kAlignment)),
        thread(tile + ternary_gemm_scratch_bytes(*kernels.gemm, g.depth())) {}
};

}  // namespace

TernaryGemmProblem ternary_conv2d_problem(const Conv2dGeometry& g, int64_t rows) {
  return {tile_patches(g), rows, g.depth()};
}

int64_t ternary_conv2d_scratch_bytes(const TernaryKernels& kernels, const Conv2dGeometry& g, int threads) {
  const Scratch bytes(kernels, g);
  return bytes.q + bytes.a + threads * bytes.thread;
}

Status ternary_conv2d(const TernaryKernels& kernels, const TernaryWeight& weight, const Conv2dGeometry& g, const float* x,
                      float* y, uint8_t* scratch, ThreadPool& pool) {
  const PackedTernary& w = *weight.packed;
  const Scratch bytes(kernels, g);
  auto* q = reinterpret_cast<int8_t*>(scratch);
  auto* a = reinterpret_cast<float*>(scratch + bytes.q);
  uint8_t* threads = scratch + bytes.q + bytes.a;
  const int64_t values = g.sample_values(), positions = g.positions(), stride = patch_stride(g), size = tile_patches(g);
  BITLAB_RETURN_IF_ERROR(activation_quant(*kernels.quant, "ternary_conv2d", x, g.batch, values, values, q, values, a, pool));
  const int64_t tiles_a_sample = ceil_div(positions, size);
  pool.run(g.batch * tiles_a_sample, [&](int64_t task, int worker) {
    const int64_t sample = task / tiles_a_sample, begin = task % tiles_a_sample * size;
    const int64_t end = std::min(begin + size, positions);
    uint8_t* own = threads + worker * bytes.thread;
    auto* tile = reinterpret_cast<int8_t*>(own);
    gather_patches(g, q + sample * values, begin, end, tile, stride);
    const TernaryGemmArgs args{.weights = w.data.data(),
                               .rows = w.rows,
                               .depth = w.depth,
                               .scale = weight.scale,
                               .scale_stride = weight.scale_stride,
                               .q = tile,
                               .q_stride = stride,
                               .a = a + sample,
                               .a_stride = 0,
                               .bias = weight.bias,
                               .y = y + (sample * positions + begin) * w.rows,
                               .y_stride = w.rows};
    kernels.gemm->run(args, 0, end - begin, 0, w.rows, own + bytes.tile);
  });
  return {};
}

}  // namespace bitlab::kernels
