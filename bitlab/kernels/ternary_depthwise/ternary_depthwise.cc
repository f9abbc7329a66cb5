#include "bitlab/kernels/ternary_depthwise/ternary_depthwise.h"

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/internal/patches.h"
#include "bitlab/kernels/ternary_gemm/internal/cut.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

// Where an output line's taps lie in lines of the input that are padded left and right, so that one step leads from token to token. Else, in transposed
// ones and where the padding would be most of the memory, every token is a line of its own.
bool goes_by_lines(const ConvGeometry& g) {
  constexpr int64_t kMostTimes = 64;
  return !g.transposed && g.input[2] + 2 * g.padding[2] <= kMostTimes * g.input[2];
}

struct Layout {
  bool by_lines;
  int64_t line_bytes;                                    // of a padded line of the input
  int64_t width;                                         // tokens of a line
  int64_t lines;                                         // of a sample
  int64_t lines_of_call;                                 // so many that what a kernel does once pays
  int64_t padded = 0, codes = 0, zeros = 0, thread = 0;  // bytes of scratch

  explicit Layout(const ConvGeometry& g) : by_lines(goes_by_lines(g)) {
    constexpr int64_t kTokens = 128, kValues = 1 << 15;
    const auto aligned = [](int64_t bytes) { return round_up(bytes, kAlignment); };
    line_bytes = (by_lines ? g.input[2] + 2 * g.padding[2] : 1) * g.channels;
    width = by_lines ? std::max<int64_t>(g.out(2), 1) : 1;
    lines = g.positions() / width;
    lines_of_call = std::max<int64_t>(std::min(kTokens, kValues / g.channels) / width, 1);
    if (by_lines && g.padding[2] != 0) padded = aligned(g.batch * g.input[0] * g.input[1] * line_bytes);
    codes = aligned(g.taps() * g.channels * static_cast<int64_t>(sizeof(int16_t)));
    zeros = aligned(line_bytes);
    thread = aligned(lines_of_call * g.taps() * static_cast<int64_t>(sizeof(void*)));
  }
};

// Codes [channels, taps] to t [taps, channels].
void expand_codes(const PackedTernary& w, int16_t* t) {
  const int64_t bytes = ternary::code_row_bytes(w.depth);
  for (int64_t tap = 0; tap < w.depth; ++tap) {
    const uint8_t* own = w.data.data() + tap / 4;
    const int shift = 2 * static_cast<int>(tap % 4);
    for (int64_t channel = 0; channel < w.rows; ++channel)
      *t++ = static_cast<int16_t>((own[channel * bytes] >> shift & 3) - 1);
  }
}

// What the taps of the first token of a line read.
void find_pixels(const ConvGeometry& g, const Layout& layout, int64_t sample, int64_t line, const int8_t* input,
                 const int8_t* zeros, const int8_t** pixels) {
  if (!layout.by_lines) {
    const int8_t* image = input + sample * g.sample_values();
    for_each_tap(OutputPosition(g, line),
                 [&](int64_t tap, int64_t pixel) { pixels[tap] = pixel < 0 ? zeros : image + pixel * g.channels; });
    return;
  }
  const int8_t* image = input + sample * g.input[0] * g.input[1] * layout.line_bytes;
  for_each_tap_line(OutputPosition(g, line * layout.width), [&](int64_t of_taps) {
    const int8_t* from = of_taps < 0 ? zeros : image + of_taps * layout.line_bytes;
    for (int64_t kx = 0; kx < g.kernel[2]; ++kx) *pixels++ = from + kx * g.dilation[2] * g.channels;
  });
}

}  // namespace

#define BITLAB_KERNEL_OP ternary_depthwise
#include "bitlab/kernels/internal/kernel_list.def"

int64_t ternary_depthwise_scratch_bytes(const ConvGeometry& g, int threads) {
  const Layout layout(g);
  return layout.padded + layout.codes + layout.zeros + threads * layout.thread;
}

void ternary_depthwise(const TernaryDepthwiseRow& row, const PackedTernary& weights, const TernaryGemmArgs& layer,
                       const ConvGeometry& g, const int8_t* q, uint8_t* scratch, ThreadPool& pool, const RangeTask* after) {
  const Layout layout(g);
  auto* padded = reinterpret_cast<int8_t*>(scratch);
  auto* codes = reinterpret_cast<int16_t*>(scratch + layout.padded);
  auto* zeros = reinterpret_cast<int8_t*>(scratch + layout.padded + layout.codes);
  uint8_t* threads = scratch + layout.padded + layout.codes + layout.zeros;
  expand_codes(weights, codes);
  std::fill_n(zeros, layout.zeros, int8_t{0});
  if (layout.padded != 0) {
    pool.run(g.batch * g.input[0] * g.input[1], [&](int64_t line, int) {
      pad_sides(g, q + line * g.input[2] * g.channels, padded + line * layout.line_bytes);
    });
  }
  const int8_t* input = layout.padded != 0 ? padded : q;
  const EvenParts calls(layout.lines, layout.lines_of_call, 1, g.batch, pool.threads());
  const int64_t step = layout.by_lines ? g.stride[2] * g.channels : 0;
  pool.run(g.batch * calls.parts, [&](int64_t call, int worker) {
    const int64_t sample = call / calls.parts, begin = calls.begin(call % calls.parts),
                  end = calls.begin(call % calls.parts + 1), first = sample * g.positions() + begin * layout.width;
    auto* pixels = reinterpret_cast<const int8_t**>(threads + worker * layout.thread);
    for (int64_t line = begin; line < end; ++line)
      find_pixels(g, layout, sample, line, input, zeros, pixels + (line - begin) * g.taps());
    TernaryGemmArgs own = results_at(layer, first);
    own.a += sample * layer.a_stride;
    own.a_stride = 0;
    row.run({own, codes, g.taps(), g.kernel[2], pixels, layout.width, step}, end - begin);
    if (after != nullptr) (*after)(first * layer.rows, (first + (end - begin) * layout.width) * layer.rows);
  });
}

}  // namespace bitlab::kernels
