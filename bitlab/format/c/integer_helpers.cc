// The functions in C of networks in integers: docs/advanced/formats.md has their formulas. No operation depends on how a compiler shifts negative numbers.
#include "bitlab/format/c/internal/helpers.h"

namespace bitlab::format::c {
namespace {

constexpr Helper kHelpers[] = {
    Helper{
        "scaling", "",
        R"(/* What sums become: (sum + offset unit) / 2^shift to the nearest, halves up, within low and high. No step leaves int64. */
typedef struct {
  const int32_t *factors, *offsets; /* what values are multiplied by before they are added; NULL: nothing is added */
  int32_t factor_step, offset_step; /* 0: those of row 0 are all rows' */
  int32_t unit, shift, low, high;
} scaling;
static int32_t scaled(const scaling *s, int64_t sum, int32_t row) {
  if (s->offsets != NULL) sum += (int64_t)s->offsets[row * s->offset_step] * s->unit;
  sum += (int64_t)1 << (s->shift - 1);
  sum = sum < 0 ? ~(~sum >> s->shift) : sum >> s->shift; /* rounded down; of negative numbers C leaves >> open */
  return sum < s->low ? s->low : sum > s->high ? s->high : (int32_t)sum;
}
)"},
    Helper{"integer_product", "scaling", R"(/* A product with weights that are kept in few bits, and what follows it. */
typedef struct integer_product integer_product;
struct integer_product {
  int64_t (*row)(const integer_product *p, const int8_t *q, int32_t n); /* the sum of row n, times its factor */
  const void *weights;                                                  /* rows of row_bytes */
  scaling to;
  int32_t rows, depth, row_bytes;
  int32_t group, groups; /* weights that share a factor, and how often a row has them; 0: none */
};
)"},
    Helper{"sums_plain", "integer_product dot",
           R"(static int64_t sums_plain(const integer_product *p, const int8_t *q, int32_t n) {
  const int32_t sum = dot((const uint8_t *)p->weights + n * p->row_bytes, q, 0, p->depth);
  return (int64_t)sum * p->to.factors[n * p->to.factor_step];
}
)"},
    Helper{"sums_groups", "integer_product dot",
           R"(static int64_t sums_groups(const integer_product *p, const int8_t *q, int32_t n) {
  const uint8_t *row = (const uint8_t *)p->weights + n * p->row_bytes;
  int64_t total = 0;
  for (int32_t g = 0; g < p->groups; ++g) {
    const int32_t begin = g * p->group, end = begin + p->group < p->depth ? begin + p->group : p->depth;
    total += (int64_t)dot(row, q, begin, end) * p->to.factors[n * p->groups + g];
  }
  return total;
}
)"},
    Helper{"sums_asymmetric", "integer_product code", R"(/* Weights 1 and -1 have factors of their own, side by side. */
static int64_t sums_asymmetric(const integer_product *p, const int8_t *q, int32_t n) {
  const uint8_t *row = (const uint8_t *)p->weights + n * p->row_bytes;
  const int32_t *factors = p->to.factors + 2 * n * p->to.factor_step;
  int32_t positive = 0, negative = 0;
  for (int32_t k = 0; k < p->depth; ++k) {
    const int32_t t = weight_at(row, k);
    if (t > 0) positive += q[k];
    if (t < 0) negative += q[k];
  }
  return (int64_t)positive * factors[0] + (int64_t)negative * factors[1];
}
)"},
    Helper{"sums_int8", "integer_product",
           R"(static int64_t sums_int8(const integer_product *p, const int8_t *q, int32_t n) {
  const int8_t *row = (const int8_t *)p->weights + n * p->row_bytes;
  int32_t sum = 0;
  for (int32_t k = 0; k < p->depth; ++k) sum += row[k] * q[k];
  return (int64_t)sum * p->to.factors[n * p->to.factor_step];
}
)"},
    Helper{"load", "", R"(/* Values lie in memory as int8, int16 or int32. */
static int32_t load(const void *x, int bytes, int32_t i) {
  return bytes == 1 ? ((const int8_t *)x)[i] : bytes == 2 ? ((const int16_t *)x)[i] : ((const int32_t *)x)[i];
}
)"},
    Helper{"store", "", R"(/* Values lie in memory as int8, int16 or int32. */
static void store(void *y, int bytes, int32_t i, int32_t value) {
  if (bytes == 1)
    ((int8_t *)y)[i] = (int8_t)value;
  else if (bytes == 2)
    ((int16_t *)y)[i] = (int16_t)value;
  else
    ((int32_t *)y)[i] = value;
}
)"},
    Helper{"integer_linear", "integer_product store", R"(/* x [tokens, depth], y [tokens, rows]. */
static void integer_linear(const integer_product *p, const int8_t *x, int32_t tokens, void *y, int bytes) {
  for (int32_t m = 0; m < tokens; ++m)
    for (int32_t n = 0; n < p->rows; ++n) store(y, bytes, m * p->rows + n, scaled(&p->to, p->row(p, x + m * p->depth, n), n));
}
)"},
    Helper{"integer_conv", "integer_product patch store",
           R"(/* x [batch, channels, pixels], y [batch, rows, positions]; patch [depth] and pixels [taps] are scratch. */
static void integer_conv(const integer_product *p, const window *w, const int8_t *x, void *y, int bytes, int8_t *patch, int32_t *pixels) {
  const int32_t own = w->channels / w->groups, rows = p->rows / w->groups;
  for (int32_t b = 0; b < w->batch; ++b, x += w->channels * w->pixels)
    for (int32_t position = 0; position < w->positions; ++position) {
      find_pixels(w, position, pixels);
      for (int32_t g = 0; g < w->groups; ++g) {
        for (int32_t tap = 0; tap < w->taps; ++tap)
          for (int32_t c = 0; c < own; ++c) patch[tap * own + c] = pixels[tap] < 0 ? 0 : x[(g * own + c) * w->pixels + pixels[tap]];
        for (int32_t n = g * rows; n < (g + 1) * rows; ++n)
          store(y, bytes, (b * p->rows + n) * w->positions + position, scaled(&p->to, p->row(p, patch, n), n));
      }
    }
}
)"},
    Helper{"integer_pool", "axis scaling load store",
           R"(/* The largest value of each window; or, where there is a scaling, what the window's sum becomes. */
static void integer_pool(const window *w, int adaptive, const scaling *average, const void *x, int x_bytes, void *y, int y_bytes) {
  for (int32_t c = 0; c < w->batch * w->channels; ++c)
    for (int32_t position = 0; position < w->positions; ++position) {
      const part z = part_at(w, 0, position / (w->out[1] * w->out[2]), adaptive);
      const part v = part_at(w, 1, position / w->out[2] % w->out[1], adaptive);
      const part u = part_at(w, 2, position % w->out[2], adaptive);
      int64_t sum = 0;
      int32_t most = INT32_MIN;
      for (int32_t i = 0; i < z.taps; ++i)
        for (int32_t j = 0; j < v.taps; ++j)
          for (int32_t k = 0; k < u.taps; ++k) {
            const int32_t a = load(x, x_bytes, c * w->pixels + ((z.first + i * w->dilation[0]) * w->in[1] + v.first + j * w->dilation[1]) * w->in[2] + u.first + k * w->dilation[2]);
            sum += a;
            if (a > most) most = a;
          }
      store(y, y_bytes, c * w->positions + position, average == NULL ? most : scaled(average, sum * average->factors[0], 0));
    }
}
)"},
    Helper{"rescale", "scaling load store",
           R"(static void rescale(const scaling *s, const void *x, int x_bytes, int32_t count, void *y, int y_bytes) {
  for (int32_t i = 0; i < count; ++i) store(y, y_bytes, i, scaled(s, (int64_t)load(x, x_bytes, i) * s->factors[0], 0));
}
)"},
    Helper{"rescale_channels", "scaling load store",
           R"(/* x [.., channels, inner], each channel by its own factor and offset. */
static void rescale_channels(const scaling *s, const void *x, int x_bytes, int32_t count, int32_t channels, int32_t inner, void *y, int y_bytes) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t c = i / inner % channels;
    store(y, y_bytes, i, scaled(s, (int64_t)load(x, x_bytes, i) * s->factors[c * s->factor_step], c));
  }
}
)"},
    Helper{"integer_sum", "scaling load store",
           R"(/* a times the first factor and b times the second. */
static void integer_sum(const scaling *s, const void *a, int a_bytes, const void *b, int b_bytes, int32_t count, void *y, int y_bytes) {
  for (int32_t i = 0; i < count; ++i)
    store(y, y_bytes, i, scaled(s, (int64_t)load(a, a_bytes, i) * s->factors[0] + (int64_t)load(b, b_bytes, i) * s->factors[1], 0));
}
)"},
};

}  // namespace

std::span<const Helper> integer_helpers() { return kHelpers; }

}  // namespace bitlab::format::c
