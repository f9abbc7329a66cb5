// The one source of the float_gemm kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/internal/fma.h"

namespace bitlab::kernels {
namespace {

static_assert(kFloatPanel == kLanes);

// The sums that registers hold: tokens of the widest tile, and its panels. Fewer tokens take more panels, so that there are always enough sums
// to hide the time of one fma behind the others.
#if defined(__AVX512F__)
inline constexpr int kWideTokens = 12, kWidePanels = 2;
constexpr int panels_for(int tokens) { return tokens == 1 ? 8 : 4; }
#elif defined(__AVX__)
inline constexpr int kWideTokens = 6, kWidePanels = 1;
constexpr int panels_for(int tokens) { return tokens == 4 ? 1 : tokens == 2 ? 2 : 4; }
#else
inline constexpr int kWideTokens = 6, kWidePanels = 1;
constexpr int panels_for(int tokens) { return tokens == 4 ? 1 : 2; }
#endif
inline constexpr int64_t kDepthBlock = 256;  // two panels of it are 32 KiB
inline constexpr int64_t kTokenBlock =
    24;  // whose x is copied where k is cut: rows that lie 4 KiB apart would share a set of the cache

struct Range {
  int64_t begin, end;
};

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
// f(0) to f(kCount - 1), written out: the compiler unrolls large loops too late to keep the sums in registers.
template <int kCount, int kFrom = 0, class F>
BITLAB_ALWAYS_INLINE void unrolled(const F& f) {
  if constexpr (kFrom < kCount) {
    f(Constant<kFrom>());
    unrolled<kCount, kFrom + 1>(f);
  }
}

// What tiles have in common: a product over a part of k, and the rows that it is asked for.
struct Part {
  const float* x;  // [tokens, depth.end - depth.begin]
  int64_t x_stride;
  Range depth, rows;
  bool begins, ends;  // with 0, with the bias
};

// y[i] = from[i] for those of `count` rows from n on that are asked for.
// NOLINTNEXTLINE(misc-definitions-in-headers): of the file that includes it alone, and of its instructions
static __attribute__((noinline)) void copy_rows(const float* from, int64_t n, int64_t count, Range rows, float* to) {
  const int64_t begin = rows.begin > n ? rows.begin - n : 0, end = rows.end - n < count ? rows.end - n : count;
  std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin) * sizeof(float));
}

// The tokens from m on times the panels that begin with row n.
template <int kTokens, int kPanels>
void tile(const FloatGemmArgs& p, const Part& part, int64_t m, int64_t n) {
  constexpr int64_t kRows = kPanels * kLanes;
  const auto each = [](const auto& f) BITLAB_INLINE_LAMBDA {
    unrolled<kTokens>([&](auto i) BITLAB_INLINE_LAMBDA {
      unrolled<kPanels>([&](auto j) BITLAB_INLINE_LAMBDA { f(decltype(i)::value, decltype(j)::value); });
    });
  };
  // Where some of the rows are not asked for, a copy of y takes all of them.
  const bool whole = part.rows.begin <= n && n + kRows <= part.rows.end;
  float copy[kTokens * kRows], bias_copy[kRows] = {};
  float *const there = p.y + m * p.y_stride + n, *const y = whole ? there : copy;
  const int64_t y_stride = whole ? p.y_stride : kRows;
  if (!whole && !part.begins)
    for (int64_t i = 0; i < kTokens; ++i) copy_rows(there + i * p.y_stride, n, kRows, part.rows, copy + i * kRows);

  F32x16 sum[kTokens][kPanels];
  if (part.begins) {
    each([&](int i, int j) BITLAB_INLINE_LAMBDA { sum[i][j] = 0.0F; });
  } else {
    each([&](int i, int j) BITLAB_INLINE_LAMBDA { sum[i][j] = load(y + i * y_stride + j * kLanes); });
  }
  // Three rows of x share a pointer: twelve pointers would not fit the registers.
  const float* x[(kTokens + 2) / 3];
  unrolled<(kTokens + 2) / 3>(
      [&](auto i) BITLAB_INLINE_LAMBDA { x[decltype(i)::value] = part.x + (m + 3 * decltype(i)::value) * part.x_stride; });
  const bool narrow = n + kRows > p.rows;  // the last panel: a vector of it holds what follows its rows, too
  const int64_t depth = part.depth.end - part.depth.begin, begin = p.first + part.depth.begin,
                step = narrow ? p.rows - n : p.k_stride;
  const float* w = p.panels + n / kFloatPanel * p.panel_stride + begin * step;
  const auto add = [&](int64_t k, const F32x16(&b)[kPanels]) BITLAB_INLINE_LAMBDA {
    unrolled<kTokens>([&](auto token) BITLAB_INLINE_LAMBDA {
      constexpr int i = decltype(token)::value;
      const F32x16 a = x[i / 3][i % 3 * part.x_stride + k];
      unrolled<kPanels>([&](auto j) BITLAB_INLINE_LAMBDA {
        sum[i][decltype(j)::value] = fma(a, b[decltype(j)::value], sum[i][decltype(j)::value]);
      });
    });
  };
  int64_t k = 0, left = (p.panel_stride / kFloatPanel - begin) * step;  // floats, of the narrow panel
  for (; k < depth && (!narrow || left >= kLanes); ++k, w += step, left -= step) {
    F32x16 b[kPanels];
    unrolled<kPanels>([&](auto j)
                          BITLAB_INLINE_LAMBDA { b[decltype(j)::value] = load(w + decltype(j)::value * p.panel_stride); });
    add(k, b);
  }
  if constexpr (kPanels == 1)
    for (; k < depth; ++k, w += step, left -= step) add(k, {load_some(w, left)});
  if (part.ends) {
    const float* bias = p.bias == nullptr || !whole ? bias_copy : p.bias + n;
    if (p.bias != nullptr && !whole) copy_rows(p.bias + n, n, kRows, part.rows, bias_copy);
    if (p.bias != nullptr) each([&](int i, int j) BITLAB_INLINE_LAMBDA { sum[i][j] += load(bias + j * kLanes); });
    each([&](int i, int j) BITLAB_INLINE_LAMBDA { sum[i][j] = one_nan(sum[i][j]); });
  }
  each([&](int i, int j) BITLAB_INLINE_LAMBDA { store(y + i * y_stride + j * kLanes, sum[i][j]); });
  if (!whole)
    for (int64_t i = 0; i < kTokens; ++i) copy_rows(copy + i * kRows, n, kRows, part.rows, there + i * p.y_stride);
}

// The tokens, a multiple of kTokens, times all panels from row n on, kPanels at a time, then those left over.
template <int kTokens, int kPanels>
BITLAB_ALWAYS_INLINE void tiles(const FloatGemmArgs& p, const Part& part, Range tokens, int64_t n) {
  const int64_t last = kPanels == 1 ? part.rows.end - 1 : p.rows - kPanels * kFloatPanel;  // where a tile may begin
  for (; n <= last && n + (kPanels - 1) * kFloatPanel < part.rows.end; n += kPanels * kFloatPanel)
    for (int64_t m = tokens.begin; m < tokens.end; m += kTokens) tile<kTokens, kPanels>(p, part, m, n);
  if constexpr (kPanels > 1) tiles<kTokens, kPanels / 2>(p, part, tokens, n);
}

// As many of the tokens as tiles of kTokens hold; the rest is left in `tokens`.
template <int kTokens, int kPanels>
BITLAB_ALWAYS_INLINE void take(const FloatGemmArgs& p, const Part& part, Range& tokens) {
  const int64_t end = tokens.end - (tokens.end - tokens.begin) % kTokens;
  tiles<kTokens, kPanels>(p, part, {tokens.begin, end}, part.rows.begin / kFloatPanel * kFloatPanel);
  tokens.begin = end;
}

BITLAB_ALWAYS_INLINE void take_all(const FloatGemmArgs& p, const Part& part, Range tokens) {
  take<kWideTokens, kWidePanels>(p, part, tokens);
#ifndef BITLAB_FEW_TILES
  take<4, panels_for(4)>(p, part, tokens);
  take<2, panels_for(2)>(p, part, tokens);
#endif
  take<1, panels_for(1)>(p, part, tokens);
}

// NOLINTNEXTLINE(misc-definitions-in-headers)
static void float_gemm_body(const FloatGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                            int64_t row_end) {
  const Range rows{row_begin, row_end};
  // Panels that are used once need not stay in the cache.
  if (token_end - token_begin <= kWideTokens || p.depth < 2 * kDepthBlock)
    return take_all(p, {p.x, p.x_stride, {0, p.depth}, rows, !p.continues, true}, {token_begin, token_end});
  constexpr int64_t kStride = 2 * kDepthBlock + kLanes;
  float x[kTokenBlock * kStride];
  for (int64_t k = 0, end = 0; k < p.depth; k = end) {
    end = p.depth - k < 2 * kDepthBlock ? p.depth : k + kDepthBlock;
    for (int64_t m = token_begin; m < token_end; m += kTokenBlock) {
      const int64_t count = token_end - m < kTokenBlock ? token_end - m : kTokenBlock;
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(x + i * kStride, p.x + (m + i) * p.x_stride + k, static_cast<size_t>(end - k) * sizeof(float));
      take_all(p, {x - m * kStride, kStride, {k, end}, rows, k == 0 && !p.continues, end == p.depth}, {m, m + count});
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
