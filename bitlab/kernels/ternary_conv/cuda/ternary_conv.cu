#include "bitlab/kernels/internal/cuda_product.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_gemm/cuda/products.h"

namespace bitlab::kernels {
namespace {

// A thread takes four values that lie side by side in a patch: q_stride is a multiple of 16.
struct EachOfPatches : CudaPatches {
  static constexpr int kWord = 4;
  int64_t words, count;

  explicit EachOfPatches(const CudaPatches& work)
      : CudaPatches(work), words(work.copies ? work.q_stride / kWord : 1), count(work.tokens * words) {}

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t token = cuda::divided(i, words), word = i - token * words;
    const CudaImage::Pixel pixel = image.pixel(first + token);
    if (word == 0) patch_a[token] = a[pixel.sample * a_stride];
    if (!copies) return;
    int8_t values[kWord] = {};
    const int64_t k0 = word * kWord;
    CudaImage::Tap tap = image.tap(k0);
    if (image.group_channels % kWord == 0) {  // one tap has all four
      const int64_t place = k0 < depth ? image.place(pixel, tap) : -1;
      if (place >= 0) std::memcpy(values, cuda::aligned<kWord>(q + place), kWord);
    } else {
      BITLAB_UNROLL for (int j = 0; j < kWord; ++j, image.advance(tap)) {
        const int64_t place = k0 + j < depth ? image.place(pixel, tap) : -1;
        if (place >= 0) values[j] = q[place];
      }
    }
    std::memcpy(cuda::aligned<kWord>(patches + token * q_stride + k0), values, kWord);
  }
};

template <bool kGathers>
struct Int8Product {
  using Element = int8_t;
  struct Both {  // of t q and of |t| q
    int32_t plain, magnitude;
    Both() = default;
    BITLAB_HOST_DEVICE Both(int) : plain(0), magnitude(0) {}  // NOLINT(google-explicit-constructor)
  };
  using Sum = Both;
  using Input = CudaProductInput<Element, kGathers>;
  using Token = typename Input::Token;
  using Tap = typename Input::Tap;
  CudaInt8Gemm g;
  Input input;
  int64_t batches, tokens, rows, depth;

  explicit Int8Product(const CudaInt8Gemm& product)
      : g(product),
        input{product.p.q, product.image, 0, product.p.q_stride},
        batches(product.groups),
        tokens(product.tokens),
        rows(product.p.rows / product.groups),
        depth(product.p.depth) {}

  BITLAB_HOST_DEVICE Token token(int64_t batch, int64_t token) const { return input.token(batch, token); }
  BITLAB_HOST_DEVICE Tap tap(int64_t k) const { return input.tap(k); }
  BITLAB_HOST_DEVICE void advance(Tap& tap) const { input.advance(tap); }
  BITLAB_HOST_DEVICE Element x(int64_t, const Token& token, const Tap& tap) const { return input.at(token, tap); }
  BITLAB_HOST_DEVICE int8_t w(int64_t batch, int64_t row, int64_t k) const {
    return static_cast<int8_t>(g.p.weights[(batch * rows + row) * depth + k]);
  }
  BITLAB_HOST_DEVICE Both add(Both sum, int8_t q, int8_t t) const {
    sum.plain += t * q;
    if (g.p.scale_neg != nullptr) sum.magnitude += (t & 1) * q;  // of ternary weights alone
    return sum;
  }
  BITLAB_HOST_DEVICE void finish(int64_t batch, int64_t token, int64_t row, Both sum) const {
    row += batch * rows;
    int64_t scale_of = token;
    if constexpr (kGathers) scale_of = g.image.pixel(token).sample;
    const RowConstants constants = RowConstants::of(g.p, row);
    const float a = token_scale(g.p, scale_of);
    kernels::finish(
        g.p, constants,
        g.p.scale_neg != nullptr ? scaled(constants, sum.plain, sum.magnitude, a) : scaled(constants, sum.plain, a), token,
        row);
  }
};

}  // namespace

const char* cuda_ternary_conv(const CudaTernaryConv& conv, void* stream) {
  if (const char* wrong = wrong_places(conv.p)) return wrong;
  return start_tiles<true>({conv.p, conv.tokens, conv.image}, stream);
}

const char* cuda_patches(const CudaPatches& patches, void* stream) { return cuda::for_each(EachOfPatches(patches), stream); }

const char* cuda_int8_gemm(const CudaInt8Gemm& product, void* stream) {
  if (product.gathers) return cuda::start_product(Int8Product<true>(product), stream);
  return cuda::start_product(Int8Product<false>(product), stream);
}

}  // namespace bitlab::kernels
