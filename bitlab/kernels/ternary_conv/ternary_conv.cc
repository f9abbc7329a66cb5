#include "bitlab/kernels/ternary_conv/ternary_conv.h"

#include "bitlab/kernels/int8_conv/int8_conv.h"
#include "bitlab/kernels/internal/patches.h"
#include "bitlab/kernels/ternary_gemm/internal/cut.h"

namespace bitlab::kernels {
namespace {

// One channel a group and one filter a channel; with two scales ternary_gemm serves it.
bool is_depthwise(const ConvGeometry& g, const TernaryConvWeight& w) {
  return g.groups > 1 && g.groups == g.channels && w.rows == g.channels && !w.asymmetric &&
         w.activation != ternary::ActKind::kNone;
}

// Whether a copy of the image with its padding is worth its memory.
bool can_be_padded(const ConvGeometry& g) {
  constexpr int64_t kMostTimes = 64;
  return (g.input[1] + 2 * g.padding[1]) * (g.input[2] + 2 * g.padding[2]) <= kMostTimes * g.pixels();
}

// Patches are read where they lie in the padded image: their lines are runs of q, as kernels read them. Else they are gathered.
bool reads_in_place(const TernaryKernels& kernels, const ConvGeometry& g) {
  const auto* gemm = kernels.get<TernaryGemmRow>();
  return gemm != nullptr && gemm->serves == TernaryGemmServes::kAllScales && g.groups == 1 && !g.transposed &&
         g.kernel[0] == 1 && g.input[0] == 1 && g.padding[0] == 0 && g.dilation[2] == 1 &&
         g.kernel[2] * g.channels % kVnStep == 0 && can_be_padded(g);
}
bool is_padded(const ConvGeometry& g) { return g.padding[1] != 0 || g.padding[2] != 0; }
int64_t padded_line(const ConvGeometry& g) { return (g.input[2] + 2 * g.padding[2]) * g.channels; }
int64_t padded_sample(const ConvGeometry& g) { return (g.input[1] + 2 * g.padding[1]) * padded_line(g); }

// Line y of a padded image.
void pad_line(const ConvGeometry& g, const int8_t* image, int64_t y, int8_t* out) {
  const int64_t from = y - g.padding[1];
  if (from < 0 || from >= g.input[1]) {
    std::fill_n(out, padded_line(g), int8_t{0});
    return;
  }
  pad_sides(g, image + from * g.input[2] * g.channels, out);
}

// Patches of a tile: about as many as the first-level cache holds, at least as many as a kernel needs to be quick. One that looks products up in tables of them
// makes a table for many.
struct TilePatches {
  int64_t most, unit = kTokenUnit;
  TilePatches(const TernaryGemmRow& gemm, const ConvGeometry& g) : most(kSumTokens) {
    const bool has_tables = gemm.serves == TernaryGemmServes::kPlainOnly;
    if (!is_pointwise(g) && !has_tables) {
      constexpr int64_t kTileBytes = 24 << 10, kMultiple = 20;
      most = std::clamp(kTileBytes / std::max(patch_stride(g), kVnStep), kMultiple, kSumTokens) / kMultiple * kMultiple;
      unit = kMultiple;
    }
    most = std::min(most, std::max<int64_t>(g.positions(), 1));
  }
};

// Scratch: q of all samples, the same padded where it is read in place, a [batch], what a depthwise one shares; for each thread a tile and what the kernel
// asks for.
struct ConvScratch {
  int64_t q = 0, padded = 0, a = 0, own = 0, tile = 0, thread = 0;  // bytes
  int64_t before() const { return q + padded + a; }
  int64_t shared() const { return before() + own; }
  ConvScratch(const TernaryKernels& kernels, const TernaryWeight& weight, const ConvGeometry& g) {
    if (kernels.get<TernaryGemmF32Row>() != nullptr) {
      thread = tile = float_tile_bytes(g);
      return;
    }
    const auto aligned = [](int64_t bytes) { return round_up(bytes, kAlignment); };
    const bool in_place = reads_in_place(kernels, g);
    q = aligned(g.batch * g.sample_values());
    padded = in_place && is_padded(g) ? aligned(g.batch * padded_sample(g)) : 0;
    a = aligned(g.batch * static_cast<int64_t>(sizeof(float)));
    if (kernels.get<Int8GemmRow>() != nullptr) {
      thread = int8_conv_scratch_bytes(g, 1);
      return;
    }
    if (kernels.get<TernaryDepthwiseRow>() != nullptr) {
      own = ternary_depthwise_scratch_bytes(g, 0);
      thread = ternary_depthwise_scratch_bytes(g, 1) - own;
      return;
    }
    tile = is_pointwise(g) || in_place ? 0 : aligned(TilePatches(*kernels.get<TernaryGemmRow>(), g).most * patch_stride(g));
    thread = tile + ternary_gemm_scratch_bytes(*kernels.get<TernaryGemmRow>(), g.depth(), weight.group);
  }
};

// The output pixels [begin, end) of the batch are written.
void finish(const RangeTask* after, int64_t rows, int64_t begin, int64_t end) {
  if (after != nullptr) (*after)(begin * rows, end * rows);
}

// All of them, where they were not written in tiles of whole pixels.
void finish_all(const RangeTask* after, int64_t rows, int64_t pixels, ThreadPool& pool) {
  constexpr int64_t kPixels = 64;
  if (after == nullptr) return;
  pool.run(ceil_div(pixels, kPixels),
           [&](int64_t i, int) { finish(after, rows, i * kPixels, std::min(pixels, (i + 1) * kPixels)); });
}

// A convolution under way: everything that its tiles share.
struct Run {
  const TernaryKernels& kernels;
  const TernaryWeight& weight;
  const ConvGeometry& g;
  TernaryGemmArgs layer;  // results at the first output pixel of the batch
  const int8_t* q;        // [batch, pixels, channels]
  int64_t a_stride;       // from sample to sample
  const ConvScratch& bytes;

  const int8_t* padded;  // [batch, padded lines, padded pixels, channels], or q
  const RangeTask* after;

  // The filters [first, last) of the output pixels [begin, end); of all groups where these are several.
  void tile(int64_t sample, int64_t begin, int64_t end, int64_t first, int64_t last, uint8_t* own) const {
    const int8_t* image = q + sample * g.sample_values();
    TernaryGemmArgs args = results_at(layer, sample * g.positions() + begin);
    args.a += sample * a_stride;
    args.a_stride = 0;
    const TernaryGemmRow& gemm = *kernels.get<TernaryGemmRow>();
    const int64_t group_bytes = packed_bytes(args.rows / g.groups, args.depth, weight.packed->layout);
    for (int64_t group = 0; group < g.groups; ++group) {
      TernaryGemmArgs part = rows_of_group(args, g.groups, group, group_bytes);
      part.q_stride = patch_stride(g);
      if (is_pointwise(g)) {
        part.q = image + begin * g.channels;
      } else {
        auto* patches = reinterpret_cast<int8_t*>(own);
        gather_patches(g, group, image, begin, end, patches, part.q_stride);
        part.q = patches;
      }
      gemm.run(part, 0, end - begin, first, std::min(last, part.rows), own + bytes.tile);
    }
  }

  // Where there are fewer tiles than threads they share the filters, too.
  void in_tiles(uint8_t* threads, ThreadPool& pool) const {
    const TilePatches patches(*kernels.get<TernaryGemmRow>(), g);
    const int64_t blocks = ceil_div(layer.rows, kVnBlock), tiles = g.batch * ceil_div(g.positions(), patches.most);
    // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): of a batch that is not empty
    const int64_t wanted = g.groups > 1 ? 1 : std::clamp<int64_t>(pool.threads() / tiles, 1, blocks);
    const int64_t filters = ceil_div(blocks, wanted) * kVnBlock, parts = ceil_div(layer.rows, filters);
    for_each_tile(g, patches.most, patches.unit, parts, pool,
                  [&](int64_t sample, int64_t begin, int64_t end, int64_t part, int worker) {
                    tile(sample, begin, end, part * filters, (part + 1) * filters, threads + worker * bytes.thread);
                    if (parts == 1) finish(after, layer.rows, sample * g.positions() + begin, sample * g.positions() + end);
                  });
    if (parts > 1) finish_all(after, layer.rows, g.batch * g.positions(), pool);
  }

  // A line of output pixels.
  void line(int64_t sample, int64_t y, uint8_t* own) const {
    TernaryGemmArgs args = results_at(layer, sample * g.positions() + y * g.out(2));
    args.a += sample * a_stride;
    args.a_stride = 0;
    args.q = padded + sample * padded_sample(g) + y * g.stride[1] * padded_line(g);
    args.q_stride = g.stride[2] * g.channels;
    args.run = g.kernel[2] * g.channels;
    args.run_stride = g.dilation[1] * padded_line(g);
    kernels.get<TernaryGemmRow>()->run(args, 0, g.out(2), 0, args.rows, own);
  }

  // Every tile; where patches are read in place, every line, out of lines that are padded into `memory` first.
  void all(int8_t* memory, uint8_t* threads, ThreadPool& pool) const {
    if (!reads_in_place(kernels, g) || is_pointwise(g)) {
      in_tiles(threads, pool);
      return;
    }
    if (is_padded(g)) {
      const int64_t lines = g.input[1] + 2 * g.padding[1];
      pool.run(g.batch * lines, [&](int64_t i, int) {
        pad_line(g, q + i / lines * g.sample_values(), i % lines, memory + i * padded_line(g));
      });
    }
    pool.run(g.batch * g.out(1), [&](int64_t i, int worker) {
      line(i / g.out(1), i % g.out(1), threads + worker * bytes.thread);
      finish(after, layer.rows, i * g.out(2), (i + 1) * g.out(2));
    });
  }
};

// Float activations x [batch, pixels, channels]; `layer` has results at the first output pixel.
void run_weight_only(const TernaryGemmF32Row& row, const TernaryGemmArgs& layer, const ConvGeometry& g, const float* x,
                     uint8_t* scratch, ThreadPool& pool, const RangeTask* after) {
  const int64_t depth = g.depth();
  const int64_t group_bytes = packed_bytes(layer.rows / g.groups, depth, TernaryLayout::kRows);
  for_each_tile(g, kFloatPatches, pool, [&](int64_t sample, int64_t begin, int64_t end, int worker) {
    auto* patches = reinterpret_cast<float*>(scratch + worker * float_tile_bytes(g));
    const TernaryGemmArgs pixels = results_at(layer, sample * g.positions() + begin);
    for (int64_t group = 0; group < g.groups; ++group) {
      const TernaryGemmArgs part = rows_of_group(pixels, g.groups, group, group_bytes);
      gather_patches(g, group, x + sample * g.sample_values(), begin, end, patches, depth);
      row.run({part, patches, depth}, 0, end - begin, 0, part.rows);
    }
    finish(after, layer.rows, sample * g.positions() + begin, sample * g.positions() + end);
  });
}

// The callers' numbers are divided by and multiplied: no product of them may overflow.
Status check_sizes(const char* op, const ConvGeometry& g) {
  constexpr int64_t kMost = 1 << 20;
  const auto in_range = [](int64_t v, int64_t least) { return v >= least && v <= kMost; };
  for (size_t d = 0; d < 3; ++d)
    if (!in_range(g.kernel[d], 1) || !in_range(g.stride[d], 1) || !in_range(g.dilation[d], 1) || g.groups < 1 ||
        !in_range(g.padding[d], 0))
      return make_error(ErrorCode::kInvalidArgument,
                        "[{}] kernel, stride, dilation and groups from 1, padding from 0, up to 2^20, got {}, {}, {}, {} "
                        "and {} in dimension {}",
                        op, g.kernel[d], g.stride[d], g.dilation[d], g.groups, g.padding[d], d);
  return {};
}

}  // namespace

bool is_pointwise(const ConvGeometry& g) {
  return g.taps() == 1 && g.groups == 1 && !g.transposed && g.channels % kVnStep == 0 &&
         g.stride == ConvGeometry::Sizes{1, 1, 1} && g.padding == ConvGeometry::Sizes{0, 0, 0};
}

TernaryGemmProblem ternary_conv_problem(const ConvGeometry& g, const TernaryConvWeight& w) {
  return {std::min(kSumTokens, g.positions()), w.rows / g.groups, g.depth(), w.group, w.asymmetric};
}

Result<TernaryLayout> select_ternary_conv_layout(const ConvGeometry& g, const TernaryConvWeight& w, const Machine& machine,
                                                 const Policy& policy) {
  if (is_depthwise(g, w)) return TernaryLayout::kRows;
  return select_ternary_layout(w.activation, w.rows / g.groups, g.depth(), machine, policy);
}

Result<TernaryKernels> select_ternary_conv(const ConvGeometry& g, const TernaryConvWeight& w, TernaryLayout layout,
                                           const Machine& machine, const Policy& policy) {
  if (!is_depthwise(g, w) || is_int8(layout))
    return select_ternary(w.activation, ternary_conv_problem(g, w), layout, machine, policy);
  TernaryKernels kernels;
  BITLAB_TRY(kernels.quant, select(activation_quant_kernels(), machine, policy));
  BITLAB_TRY(kernels.product, select(ternary_depthwise_kernels(), machine, policy));
  return kernels;
}

int64_t ternary_conv_scratch_bytes(const TernaryKernels& kernels, const TernaryWeight& weight, const ConvGeometry& g,
                                   int threads) {
  const ConvScratch bytes(kernels, weight, g);
  return bytes.shared() + threads * bytes.thread;
}

Status ternary_conv(const TernaryKernels& kernels, const TernaryWeight& weight, const ConvGeometry& g,
                    const LayerInput& input, const TernaryGemmArgs& results, uint8_t* scratch, ThreadPool& pool,
                    const RangeTask* after) {
  BITLAB_RETURN_IF_ERROR(check_sizes(input.op, g));
  if (weight.group != 0 && g.groups != 1)
    return make_error(ErrorCode::kUnsupported, "[{}] one scale a row where channels are in groups, got groups of {} k",
                      input.op, weight.group);
  if (g.batch == 0 || g.positions() == 0 || weight.packed->rows == 0) return {};
  const ConvScratch bytes(kernels, weight, g);
  auto* q = reinterpret_cast<int8_t*>(scratch);
  auto* padded = reinterpret_cast<int8_t*>(scratch + bytes.q);
  auto* a = reinterpret_cast<float*>(scratch + bytes.q + bytes.padded);
  uint8_t* threads = scratch + bytes.before();
  const int64_t values = g.sample_values();

  TernaryGemmArgs layer = weight.arguments();
  layer.y = results.y;
  layer.y_q = results.y_q;
  layer.y_inv = results.y_inv;
  layer.y_limit = results.y_limit;
  layer.y_stride = layer.rows;
  layer.residual = results.residual;
  if (const auto* weight_only = kernels.get<TernaryGemmF32Row>()) {
    run_weight_only(*weight_only, layer, g, input.x, threads, pool, after);
    return {};
  }
  const int64_t pixels = g.batch * g.positions();
  if (g.depth() == 0) {  // Without channels every sum is 0, whatever the scale of a sample.
    constexpr float kUnit = 1;
    layer.a = &kUnit;
    layer.a_stride = 0;
    run_in_parts(ternary_gemm_reference, layer, pixels, threads, 0, pool);
    finish_all(after, layer.rows, pixels, pool);
    return {};
  }
  layer.a = input.q == nullptr ? a : input.a;
  if (input.q == nullptr)
    BITLAB_RETURN_IF_ERROR(activation_quant(*kernels.quant, input.op, input.x, g.batch, values, values, q, values, a, pool,
                                            input.activation.scale()));
  const int8_t* image = input.q == nullptr ? q : input.q;
  if (const auto* depthwise = kernels.get<TernaryDepthwiseRow>()) {
    layer.a_stride = input.q == nullptr ? 1 : input.a_stride;
    ternary_depthwise(*depthwise, *weight.packed, layer, g, image, threads, pool, after);
    return {};
  }
  if (const auto* int8 = kernels.get<Int8GemmRow>()) {
    layer.q = image;
    layer.a_stride = input.q == nullptr ? 1 : input.a_stride;
    int8_conv(*int8, layer, g, threads, pool);
    finish_all(after, layer.rows, pixels, pool);
    return {};
  }
  const Run run{
      kernels, weight, g, layer, image, input.q == nullptr ? 1 : input.a_stride, bytes, bytes.padded == 0 ? image : padded,
      after};
  run.all(padded, threads, pool);
  return {};
}

}  // namespace bitlab::kernels
