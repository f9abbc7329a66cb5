// The functions in C that a network's source is made of, each emitted where something needs it. Everything below is C99. The arithmetic is that of
// docs/numerics.md, operation by operation.
#include "bitlab/format/c/internal/helpers.h"

#include <algorithm>
#include <array>
#include <vector>

namespace bitlab::format::c {
namespace {

// In the order in which they stand in a file: a helper needs earlier ones alone.
constexpr std::array kFloatHelpers{
    Helper{"product", "", R"(/* A product with weights that are kept in few bits, and what follows it. */
typedef struct product product;
struct product {
  float (*row)(const product *p, const int8_t *q, float a, int32_t n); /* row n, before the bias; NULL: floats */
  const void *weights;                                                 /* rows of row_bytes */
  const float *scale, *scale_neg, *bias;
  int32_t rows, depth, row_bytes;
  int32_t scale_step;    /* 0: one scale; 1: one a row */
  int32_t group, groups; /* weights that share a scale, and how often a row has them; 0: none */
  float limit, step;     /* of activations: 127 or 7, and what a unit is worth; 0: found for each row */
};
)"},
    Helper{"window", "", R"(/* Windows over images of up to three sizes. */
typedef struct {
  int32_t batch, channels, groups;
  int32_t in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
  int32_t pixels, positions, taps; /* of the input, of the output, of a window */
  int32_t transposed;
} window;
)"},
    Helper{"code_2bit", "", R"(/* The weight k of a row, -1, 0 or 1: two bits each, from the lowest ones on. */
static int32_t weight_at(const uint8_t *row, int32_t k) {
  return (int32_t)((row[k / 4] >> (2 * (k % 4))) & 3) - 1;
}
)"},
    Helper{"code_base3", "",
           R"(/* The weight k of a row, -1, 0 or 1: five digits of base 3 a byte, from the lowest one on. */
static int32_t weight_at(const uint8_t *row, int32_t k) {
  static const uint8_t powers[5] = {1, 3, 9, 27, 81};
  return (int32_t)(row[k / 5] / powers[k % 5] % 3) - 1;
}
)"},
    Helper{"dot_2bit", "", R"(/* The sum of weights and activations from k to end. */
static int32_t dot(const uint8_t *row, const int8_t *q, int32_t k, int32_t end) {
  int32_t sum = 0;
  while (k < end) {
    uint32_t codes = (uint32_t)row[k / 4] >> (2 * (k % 4));
    int32_t stop = k - k % 4 + 4;
    if (stop > end) stop = end;
    for (; k < stop; ++k, codes >>= 2) sum += ((int32_t)(codes & 3) - 1) * q[k];
  }
  return sum;
}
)"},
    Helper{"dot_base3", "", R"(/* The sum of weights and activations from k to end. */
static int32_t dot(const uint8_t *row, const int8_t *q, int32_t k, int32_t end) {
  int32_t sum = 0;
  while (k < end) {
    uint32_t digits = row[k / 5];
    int32_t stop = k - k % 5 + 5, skip;
    for (skip = k % 5; skip > 0; --skip) digits /= 3;
    if (stop > end) stop = end;
    for (; k < stop; ++k, digits /= 3) sum += ((int32_t)(digits % 3) - 1) * q[k];
  }
  return sum;
}
)"},
    Helper{"row_plain", "product dot", R"(static float row_plain(const product *p, const int8_t *q, float a, int32_t n) {
  const int32_t sum = dot((const uint8_t *)p->weights + n * p->row_bytes, q, 0, p->depth);
  return ((float)sum * a) * p->scale[n * p->scale_step];
}
)"},
    Helper{"row_groups", "product dot", R"(static float row_groups(const product *p, const int8_t *q, float a, int32_t n) {
  const uint8_t *row = (const uint8_t *)p->weights + n * p->row_bytes;
  float total = 0.0f;
  for (int32_t g = 0; g < p->groups; ++g) {
    const int32_t begin = g * p->group, end = begin + p->group < p->depth ? begin + p->group : p->depth;
    const float part = (float)dot(row, q, begin, end) * p->scale[n * p->groups + g];
    total = total + part;
  }
  return total * a;
}
)"},
    Helper{"row_asymmetric", "product code",
           R"(static float row_asymmetric(const product *p, const int8_t *q, float a, int32_t n) {
  const uint8_t *row = (const uint8_t *)p->weights + n * p->row_bytes;
  int32_t positive = 0, negative = 0;
  float plus, minus;
  for (int32_t k = 0; k < p->depth; ++k) {
    const int32_t t = weight_at(row, k);
    if (t > 0) positive += q[k];
    if (t < 0) negative += q[k];
  }
  plus = ((float)positive * a) * p->scale[n * p->scale_step];
  minus = ((float)negative * a) * p->scale_neg[n * p->scale_step];
  return plus - minus;
}
)"},
    Helper{"row_int8", "product", R"(static float row_int8(const product *p, const int8_t *q, float a, int32_t n) {
  const int8_t *row = (const int8_t *)p->weights + n * p->row_bytes;
  int32_t sum = 0;
  for (int32_t k = 0; k < p->depth; ++k) sum += row[k] * q[k];
  return ((float)sum * a) * p->scale[n * p->scale_step];
}
)"},
    Helper{
        "quantize", "",
        R"(/* x [channels, pixels] to q [pixels, channels], and what a unit of q is worth. 0 where a value is not finite. */
static int quantize(const float *x, int32_t channels, int32_t pixels, float limit, float step, int8_t *q, float *a) {
  float most = 0.0f, inv;
  for (int32_t i = 0; i < channels * pixels; ++i) {
    const float size = x[i] < 0.0f ? -x[i] : x[i];
    if (!(size <= FLT_MAX)) return 0;
    if (size > most) most = size;
  }
  inv = step != 0.0f ? 1.0f / step : limit / (most > 1e-5f ? most : 1e-5f);
  *a = 1.0f / inv;
  for (int32_t c = 0; c < channels; ++c)
    for (int32_t p = 0; p < pixels; ++p) {
      float v = x[c * pixels + p] * inv;
      v = v > limit ? limit : v < -limit ? -limit : v;
      q[p * channels + c] = (int8_t)((v + 12582912.0f) - 12582912.0f); /* to the nearest, halves to even */
    }
  return 1;
}
)"},
    Helper{"ternary_linear", "product quantize", R"(/* x [tokens, depth], y [tokens, rows]; q [depth] is scratch. */
static int ternary_linear(const product *p, const float *x, int32_t tokens, float *y, int8_t *q) {
  for (int32_t m = 0; m < tokens; ++m) {
    float a;
    if (!quantize(x + m * p->depth, 1, p->depth, p->limit, p->step, q, &a)) return 0;
    for (int32_t n = 0; n < p->rows; ++n) {
      const float v = p->row(p, q, a, n);
      y[m * p->rows + n] = p->bias != NULL ? v + p->bias[n] : v;
    }
  }
  return 1;
}
)"},
    Helper{
        "lstm_step", "",
        R"(/* Token t of each sample: from x [batch, tokens, 4 hidden] and u [batch, 4 hidden] the next h and c [batch, hidden]; h into y [batch, tokens, hidden]. */
static void lstm_step(const float *x, const float *u, int32_t batch, int32_t tokens, int32_t t, int32_t hidden, float *h, float *c, float *y) {
  for (int32_t b = 0; b < batch; ++b, u += 4 * hidden, h += hidden, c += hidden) {
    const float *const g = x + (b * tokens + t) * 4 * hidden;
    for (int32_t i = 0; i < hidden; ++i) {
      const float in = 1.0f / (1.0f + expf(-(g[i] + u[i])));
      const float kept = 1.0f / (1.0f + expf(-(g[hidden + i] + u[hidden + i])));
      const float added = tanhf(g[2 * hidden + i] + u[2 * hidden + i]);
      const float out = 1.0f / (1.0f + expf(-(g[3 * hidden + i] + u[3 * hidden + i])));
      const float before = kept * c[i], after = in * added;
      c[i] = before + after;
      h[i] = out * tanhf(c[i]);
      y[(b * tokens + t) * hidden + i] = h[i];
    }
  }
}
)"},
    Helper{"gru_step", "",
           R"(/* The same of a GRU, of three gates and without c. */
static void gru_step(const float *x, const float *u, int32_t batch, int32_t tokens, int32_t t, int32_t hidden, float *h, float *c, float *y) {
  (void)c;
  for (int32_t b = 0; b < batch; ++b, u += 3 * hidden, h += hidden) {
    const float *const g = x + (b * tokens + t) * 3 * hidden;
    for (int32_t i = 0; i < hidden; ++i) {
      const float reset = 1.0f / (1.0f + expf(-(g[i] + u[i])));
      const float update = 1.0f / (1.0f + expf(-(g[hidden + i] + u[hidden + i])));
      const float part = reset * u[2 * hidden + i];
      const float next = tanhf(g[2 * hidden + i] + part);
      const float step = update * (h[i] - next);
      h[i] = next + step;
      y[(b * tokens + t) * hidden + i] = h[i];
    }
  }
}
)"},
    Helper{"patch", "window",
           R"(/* The input of an output coordinate through tap k along dimension d; -1 where there is none. */
static int32_t input_at(const window *w, int d, int32_t o, int32_t k) {
  int32_t i = o * w->stride[d] - w->padding[d] + k * w->dilation[d];
  if (w->transposed) {
    const int32_t spread = o + w->padding[d] - k * w->dilation[d];
    if (spread < 0 || spread % w->stride[d] != 0) return -1;
    i = spread / w->stride[d];
  }
  return i >= 0 && i < w->in[d] ? i : -1;
}
/* The input pixel of each tap of an output position, or -1. */
static void find_pixels(const window *w, int32_t position, int32_t *pixels) {
  const int32_t z = position / (w->out[1] * w->out[2]), y = position / w->out[2] % w->out[1], x = position % w->out[2];
  for (int32_t kz = 0; kz < w->kernel[0]; ++kz) {
    const int32_t iz = input_at(w, 0, z, kz);
    for (int32_t ky = 0; ky < w->kernel[1]; ++ky) {
      const int32_t iy = input_at(w, 1, y, ky);
      for (int32_t kx = 0; kx < w->kernel[2]; ++kx) {
        const int32_t ix = input_at(w, 2, x, kx);
        *pixels++ = iz < 0 || iy < 0 || ix < 0 ? -1 : (iz * w->in[1] + iy) * w->in[2] + ix;
      }
    }
  }
}
)"},
    Helper{
        "ternary_conv", "product quantize patch",
        R"(/* x [batch, channels, pixels], y [batch, rows, positions]; q [pixels, channels], patch [depth] and pixels [taps] are scratch. */
static int ternary_conv(const product *p, const window *w, const float *x, float *y, int8_t *q, int8_t *patch, int32_t *pixels) {
  const int32_t own = w->channels / w->groups, rows = p->rows / w->groups;
  for (int32_t b = 0; b < w->batch; ++b, x += w->channels * w->pixels, y += p->rows * w->positions) {
    float a;
    if (!quantize(x, w->channels, w->pixels, p->limit, p->step, q, &a)) return 0;
    for (int32_t position = 0; position < w->positions; ++position) {
      find_pixels(w, position, pixels);
      for (int32_t g = 0; g < w->groups; ++g) {
        const int8_t *values = patch;
        if (w->taps == 1 && pixels[0] >= 0) {
          values = q + pixels[0] * w->channels + g * own;
        } else {
          for (int32_t tap = 0; tap < w->taps; ++tap)
            for (int32_t c = 0; c < own; ++c) patch[tap * own + c] = pixels[tap] < 0 ? 0 : q[pixels[tap] * w->channels + g * own + c];
        }
        for (int32_t n = g * rows; n < (g + 1) * rows; ++n) {
          const float v = p->row(p, values, a, n);
          y[n * w->positions + position] = p->bias != NULL ? v + p->bias[n] : v;
        }
      }
    }
  }
  return 1;
}
)"},
    Helper{"lanes", "", R"(/* Sums have one order: 16 partial ones, added as a tree of halves. */
static float tree_sum(float *lanes) {
  for (int32_t half = 8; half > 0; half /= 2)
    for (int32_t i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  return lanes[0];
}
)"},
    Helper{"weight_only_row", "product code lanes", R"(/* Row n of a product with activations that stay floats. */
static float weight_only_row(const product *p, const float *x, int32_t n) {
  const uint8_t *row = (const uint8_t *)p->weights + n * p->row_bytes;
  float lanes[16] = {0.0f}, v;
  for (int32_t k = 0; k < p->depth; ++k) lanes[k % 16] += x[k] * (float)weight_at(row, k);
  v = tree_sum(lanes) * p->scale[n * p->scale_step];
  return p->bias != NULL ? v + p->bias[n] : v;
}
)"},
    Helper{"weight_only_linear", "weight_only_row",
           R"(static void weight_only_linear(const product *p, const float *x, int32_t tokens, float *y) {
  for (int32_t m = 0; m < tokens; ++m)
    for (int32_t n = 0; n < p->rows; ++n) y[m * p->rows + n] = weight_only_row(p, x + m * p->depth, n);
}
)"},
    Helper{"float_patch", "patch", R"(/* The channels of group g under a window, channels fastest. */
static void float_patch(const window *w, const float *x, int32_t g, const int32_t *pixels, float *patch) {
  const int32_t own = w->channels / w->groups;
  for (int32_t tap = 0; tap < w->taps; ++tap)
    for (int32_t c = 0; c < own; ++c) *patch++ = pixels[tap] < 0 ? 0.0f : x[(g * own + c) * w->pixels + pixels[tap]];
}
)"},
    Helper{
        "weight_only_conv", "weight_only_row float_patch",
        R"(static void weight_only_conv(const product *p, const window *w, const float *x, float *y, float *patch, int32_t *pixels) {
  const int32_t rows = p->rows / w->groups;
  for (int32_t b = 0; b < w->batch; ++b, x += w->channels * w->pixels, y += p->rows * w->positions)
    for (int32_t position = 0; position < w->positions; ++position) {
      find_pixels(w, position, pixels);
      for (int32_t g = 0; g < w->groups; ++g) {
        float_patch(w, x, g, pixels, patch);
        for (int32_t n = g * rows; n < (g + 1) * rows; ++n) y[n * w->positions + position] = weight_only_row(p, patch, n);
      }
    }
}
)"},
    Helper{
        "fused", "",
        R"(/* x * y + z, rounded once. Where no instruction does it: the product is exact in double; the sum is rounded to odd, then to float. */
static float fused(float x, float y, float z) {
#ifdef FP_FAST_FMAF
  return fmaf(x, y, z);
#else
  const double product = (double)x * (double)y, term = (double)z, sum = product + term;
  const double of_term = sum - product, lost = (product - (sum - of_term)) + (term - of_term);
  uint64_t bits;
  double odd;
  memcpy(&bits, &sum, sizeof(bits));
  if (sum - sum == 0.0 && lost != 0.0 && (bits & 1) == 0) bits += (lost > 0.0) == (sum > 0.0) ? 1 : (uint64_t)-1;
  memcpy(&odd, &bits, sizeof(odd));
  return (float)odd;
#endif
}
static float fused_dot(const float *x, int32_t x_step, const float *w, int32_t w_step, int32_t depth) {
  float sum = 0.0f;
  for (int32_t k = 0; k < depth; ++k) sum = fused(x[k * x_step], w[k * w_step], sum);
  return sum;
}
)"},
    Helper{
        "linear", "fused",
        R"(static void linear(const float *weight, const float *bias, int32_t rows, int32_t depth, const float *x, int32_t tokens, float *y) {
  for (int32_t m = 0; m < tokens; ++m)
    for (int32_t n = 0; n < rows; ++n) {
      const float sum = fused_dot(x + m * depth, 1, weight + n * depth, 1, depth);
      y[m * rows + n] = bias != NULL ? sum + bias[n] : sum;
    }
}
)"},
    Helper{
        "conv", "fused float_patch",
        R"(static void conv(const float *weight, const float *bias, int32_t all_rows, const window *w, const float *x, float *y, float *patch, int32_t *pixels) {
  const int32_t rows = all_rows / w->groups, depth = w->taps * (w->channels / w->groups);
  for (int32_t b = 0; b < w->batch; ++b, x += w->channels * w->pixels, y += all_rows * w->positions)
    for (int32_t position = 0; position < w->positions; ++position) {
      find_pixels(w, position, pixels);
      for (int32_t g = 0; g < w->groups; ++g) {
        float_patch(w, x, g, pixels, patch);
        for (int32_t n = g * rows; n < (g + 1) * rows; ++n) {
          const float sum = fused_dot(patch, 1, weight + n * depth, 1, depth);
          y[n * w->positions + position] = bias != NULL ? sum + bias[n] : sum;
        }
      }
    }
}
)"},
    Helper{"matmul", "fused", R"(/* a [batch, m, k], b [batch, k, n], or [k, n] of all: b_step 0. */
static void matmul(const float *a, const float *b, int32_t batch, int32_t m, int32_t k, int32_t n, int32_t b_step, float *y) {
  for (int32_t s = 0; s < batch; ++s)
    for (int32_t i = 0; i < m; ++i)
      for (int32_t j = 0; j < n; ++j) *y++ = fused_dot(a + (s * m + i) * k, 1, b + s * b_step + j, n, k);
}
)"},
    Helper{"ternary_embedding", "product code", R"(/* Rows of a table at indices; 0 where an index is outside of it. */
static int ternary_embedding(const product *p, const int64_t *index, int32_t tokens, float *y) {
  for (int32_t i = 0; i < tokens; ++i, y += p->depth) {
    int32_t n;
    if (index[i] < 0 || index[i] >= p->rows) return 0;
    n = (int32_t)index[i];
    for (int32_t k = 0; k < p->depth; ++k) {
      const int32_t t = weight_at((const uint8_t *)p->weights + n * p->row_bytes, k);
      const float *scale = t < 0 && p->scale_neg != NULL ? p->scale_neg : p->scale;
      y[k] = (float)t * scale[p->group != 0 ? n * p->groups + k / p->group : n * p->scale_step];
    }
  }
  return 1;
}
)"},
    Helper{"int8_embedding", "product", R"(/* Rows of a table at indices; 0 where an index is outside of it. */
static int int8_embedding(const product *p, const int64_t *index, int32_t tokens, float *y) {
  for (int32_t i = 0; i < tokens; ++i, y += p->depth) {
    if (index[i] < 0 || index[i] >= p->rows) return 0;
    for (int32_t k = 0; k < p->depth; ++k)
      y[k] = (float)((const int8_t *)p->weights)[index[i] * p->depth + k] * p->scale[index[i] * p->scale_step];
  }
  return 1;
}
)"},
    Helper{"float_embedding", "", R"(/* Rows of a table at indices; 0 where an index is outside of it. */
static int float_embedding(const float *table, const int64_t *index, int32_t rows, int32_t tokens, int32_t depth, float *y) {
  for (int32_t i = 0; i < tokens; ++i) {
    if (index[i] < 0 || index[i] >= rows) return 0;
    memcpy(y + i * depth, table + (int32_t)index[i] * depth, (size_t)depth * sizeof(float));
  }
  return 1;
}
)"},
    Helper{
        "take", "",
        R"(/* Parts of `bytes` at indices of each of `outer` blocks of `size` parts, from the end where they are negative; 0 where one is outside. */
static int take(const void *x, const int64_t *index, int32_t outer, int32_t size, int32_t count, int32_t bytes, void *y) {
  for (int32_t o = 0; o < outer; ++o)
    for (int32_t i = 0; i < count; ++i) {
      const int64_t at = index[i] < 0 ? index[i] + size : index[i];
      if (at < 0 || at >= size) return 0;
      memcpy((uint8_t *)y + (o * count + i) * bytes, (const uint8_t *)x + (o * size + (int32_t)at) * bytes, (size_t)bytes);
    }
  return 1;
}
)"},
    Helper{
        "axis", "window",
        R"(/* The part of a pooling window along dimension d that lies inside the image: where it begins, its values, and with padding. */
typedef struct {
  int32_t first, taps, span;
} part;
static part part_at(const window *w, int d, int32_t o, int adaptive) {
  part r = {0, 0, 0};
  if (adaptive) {
    r.first = (int32_t)((int64_t)o * w->in[d] / w->out[d]);
    r.taps = (int32_t)(((int64_t)(o + 1) * w->in[d] + w->out[d] - 1) / w->out[d]) - r.first;
    r.span = r.taps;
  } else {
    const int32_t start = o * w->stride[d] - w->padding[d], step = w->dilation[d], behind = w->in[d] + w->padding[d];
    const int32_t begin = start < 0 ? (-start + step - 1) / step : 0;
    int32_t end = start < w->in[d] ? (w->in[d] - start + step - 1) / step : 0;
    if (end > w->kernel[d]) end = w->kernel[d];
    r.first = start + begin * step;
    r.taps = end > begin ? end - begin : 0;
    r.span = (start + w->kernel[d] < behind ? start + w->kernel[d] : behind) - start;
    if (r.span < 1) r.span = 1;
  }
  return r;
}
)"},
    Helper{
        "pool", "axis",
        R"(/* The largest value of each window; or, of an average, the sum divided by `divisor`, or where that is 0 by the window's values, with or without padding. */
static void pool(const window *w, int adaptive, int average, int32_t divisor, int counts_padding, const float *x, float *y) {
  for (int32_t c = 0; c < w->batch * w->channels; ++c, x += w->pixels)
    for (int32_t position = 0; position < w->positions; ++position) {
      const part z = part_at(w, 0, position / (w->out[1] * w->out[2]), adaptive);
      const part v = part_at(w, 1, position / w->out[2] % w->out[1], adaptive);
      const part u = part_at(w, 2, position % w->out[2], adaptive);
      const int64_t taps = (int64_t)z.taps * v.taps * u.taps, span = (int64_t)z.span * v.span * u.span;
      float r = average ? 0.0f : -INFINITY;
      for (int32_t i = 0; i < z.taps; ++i)
        for (int32_t j = 0; j < v.taps; ++j)
          for (int32_t k = 0; k < u.taps; ++k) {
            const float a = x[((z.first + i * w->dilation[0]) * w->in[1] + v.first + j * w->dilation[1]) * w->in[2] + u.first + k * w->dilation[2]];
            r = average ? r + a : a > r || a != a ? a : r;
          }
      *y++ = average ? r / (float)(divisor != 0 ? divisor : counts_padding ? span : taps > 1 ? taps : 1) : r;
    }
}
)"},
    Helper{"sum_row", "lanes", R"(static float sum_row(const float *x, int32_t columns) {
  float lanes[16] = {0.0f};
  for (int32_t i = 0; i < columns; ++i) lanes[i % 16] += x[i];
  return tree_sum(lanes);
}
)"},
    Helper{"extreme_row", "", R"(/* The largest of a row, or with sign -1 the least; NaN where there is one. */
static float extreme_row(const float *x, int32_t columns, float sign) {
  float lanes[16], most;
  for (int32_t i = 0; i < 16; ++i) lanes[i] = -sign * INFINITY;
  for (int32_t i = 0; i < columns; ++i)
    if (sign * x[i] > sign * lanes[i % 16] || x[i] != x[i]) lanes[i % 16] = x[i];
  most = lanes[0];
  for (int32_t i = 1; i < 16; ++i)
    if (sign * lanes[i] > sign * most || lanes[i] != lanes[i]) most = lanes[i];
  return most;
}
)"},
    Helper{"argmax_row", "", R"(/* The first of the largest, or of NaN. */
static int64_t argmax_row(const float *x, int32_t columns) {
  int32_t most = 0;
  for (int32_t i = 1; i < columns && x[most] == x[most]; ++i)
    if (x[i] > x[most] || x[i] != x[i]) most = i;
  return most;
}
)"},
    Helper{
        "norm_rows", "sum_row",
        R"(static void norm_rows(const float *x, int32_t rows, int32_t columns, int is_layer, const float *weight, const float *bias, float eps, float *y) {
  for (int32_t row = 0; row < rows; ++row, x += columns, y += columns) {
    const float n = (float)columns, mean = is_layer ? sum_row(x, columns) / n : 0.0f;
    float lanes[16] = {0.0f}, factor;
    for (int32_t i = 0; i < columns; ++i) {
      const float from_mean = x[i] - mean, square = from_mean * from_mean;
      lanes[i % 16] += square;
    }
    factor = tree_sum(lanes) / n + eps;
    factor = 1.0f / sqrtf(factor);
    for (int32_t i = 0; i < columns; ++i) {
      float v = (x[i] - mean) * factor;
      if (weight != NULL) v = v * weight[i];
      if (bias != NULL) v = v + bias[i];
      y[i] = v;
    }
  }
}
)"},
    Helper{
        "weigh_row", "sum_row",
        R"(/* y = e^(x scale + mask - their largest one), and the sum of y. mask: NULL, or of a step. Where all are -infinity: NaN, or 0. */
static float weigh_row(const float *x, int32_t columns, float scale, const float *mask, int32_t mask_step, int hidden_is_zero, float *y) {
  float most = -INFINITY;
  for (int32_t i = 0; i < columns; ++i) {
    float z = x[i] * scale;
    if (mask != NULL) z = z + mask[i * mask_step];
    y[i] = z;
    if (z > most) most = z;
  }
  if (hidden_is_zero && most == -INFINITY) most = 0.0f;
  for (int32_t i = 0; i < columns; ++i) y[i] = expf(y[i] - most);
  return sum_row(y, columns);
}
)"},
    Helper{"softmax_rows", "weigh_row",
           R"(static void softmax_rows(const float *x, int32_t rows, int32_t columns, float *y) {
  for (int32_t row = 0; row < rows; ++row, x += columns, y += columns) {
    const float total = weigh_row(x, columns, 1.0f, NULL, 0, 0, y);
    for (int32_t i = 0; i < columns; ++i) y[i] = y[i] / total;
  }
}
)"},
    Helper{
        "attention", "weigh_row fused",
        R"(/* q [batch, heads, queries, depth], k [batch, groups, keys, depth], v [batch, groups, keys, values]; mask NULL, or with strides; scores [keys] is scratch. */
typedef struct {
  int32_t batch, heads, groups, queries, keys, depth, values, causal, mask_strides[4];
  float scale;
} attention_shape;
static void attention(const attention_shape *s, const float *q, const float *k, const float *v, const float *mask, float *y, float *scores) {
  for (int32_t i = 0; i < s->batch * s->heads * s->queries; ++i, q += s->depth, y += s->values) {
    const int32_t query = i % s->queries, head = i / s->queries % s->heads, sample = i / s->queries / s->heads;
    const int32_t group = sample * s->groups + head / (s->heads / s->groups), *m = s->mask_strides;
    const int32_t seen = s->causal && query + 1 < s->keys ? query + 1 : s->keys;
    const float *first = mask == NULL ? NULL : mask + sample * m[0] + head * m[1] + query * m[2];
    float total;
    for (int32_t j = 0; j < seen; ++j) scores[j] = fused_dot(q, 1, k + (group * s->keys + j) * s->depth, 1, s->depth);
    total = weigh_row(scores, seen, s->scale, first, m[3], 1, scores);
    if (total == 0.0f) total = 1.0f;
    for (int32_t e = 0; e < s->values; ++e) y[e] = fused_dot(scores, 1, v + group * s->keys * s->values + e, s->values, seen) / total;
  }
}
)"},
    Helper{"to_int64", "", R"(/* Towards zero; what does not fit becomes the nearest that does, and NaN 0. */
static int64_t to_int64(float x) {
  if (x != x) return 0;
  return x >= 9223372036854775808.0f ? INT64_MAX : x < -9223372036854775808.0f ? INT64_MIN : (int64_t)x;
}
)"},
    Helper{"to_int32", "", R"(/* Towards zero; what does not fit becomes the nearest that does, and NaN 0. */
static int32_t to_int32(float x) {
  if (x != x) return 0;
  return x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : (int32_t)x;
}
)"},
};

bool is_named(std::string_view name, std::string_view wanted, std::string_view variant) {
  return name == wanted || (name.size() == wanted.size() + 1 + variant.size() && name.starts_with(wanted) &&
                            name[wanted.size()] == '_' && name.ends_with(variant));
}

const std::vector<Helper>& all() {
  static const std::vector<Helper> helpers = [] {
    std::vector<Helper> list(kFloatHelpers.begin(), kFloatHelpers.end());
    list.insert(list.end(), integer_helpers().begin(), integer_helpers().end());
    return list;
  }();
  return helpers;
}

}  // namespace

void Helpers::need(std::string_view names) {
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(' '));
    names.remove_prefix(std::min(names.size(), name.size() + 1));
    for (size_t i = 0; i < all().size(); ++i) {
      if (!is_named(all()[i].name, name, variant_) || !needed_.insert(i).second) continue;
      need(all()[i].needs);
    }
  }
}

std::string Helpers::text() const {
  std::string text;
  for (const size_t i : needed_) text.append(all()[i].text).append("\n");
  return text;
}

}  // namespace bitlab::format::c
