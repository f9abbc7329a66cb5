// AVX-512 VNNI on the tiles of vn_tile.h, and a tile of its own for one or two tokens.
#include "bitlab/kernels/ternary_gemm/internal/x86_avx512.h"

namespace bitlab::kernels {
namespace {

struct Vnni : Avx512Vnni {
  static constexpr bool kFinishesShort = true;
  static constexpr int kFewTokens = 2;

  // One or two tokens: fields are multiplied where they stand, as 1, 4, 16 or 64 times their codes, into sums of their own. That saves shifts,
  // which matter where codes are used only once or twice. The sums of two tokens have room for two scales, so one shift is left. They are
  // added up before they wrap: 4 x 2 x 64 x 127 a step, times 32,768, is below 2^31.
  template <int kRegs, int kToks>
  BITLAB_NOINLINE void few_tokens(const TernaryGemmArgs& p, const VnWeights& w, int64_t token, const int32_t* sums,
                                  Finished<16, Scales::kPlain>* done) {
    constexpr int64_t kScaledSteps = 32768;
    constexpr int kParts = 4 / kToks;
    __m512i masks[kParts];
    BITLAB_UNROLL for (int i = 0; i < kParts; ++i) masks[i] = _mm512_set1_epi8(static_cast<char>(3 << (2 * i)));
    const int8_t* q = p.q + token * p.q_stride;
    const Some last = some(w.rows - kRows * (kRegs - 1));
    const int64_t step_bytes = w.step_bytes;
    const uint8_t* bytes = w.first;
    const Runs runs = Runs::of(p, w.steps);
    Ints<16> acc[kRegs][kToks];
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) acc[r][t] =
        all_ints<16>(-sums[t]);
    for (int64_t begin = 0, end; begin < w.steps; begin = end) {
      end = begin + kScaledSteps < w.steps ? begin + kScaledSteps : w.steps;
      if (runs.end(begin) < end) end = runs.end(begin);
      const int8_t* run = runs.origin(q, begin);
      __m512i part[kRegs][kToks][kParts];
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t)
          BITLAB_UNROLL for (int i = 0; i < kParts; ++i) part[r][t][i] = _mm512_setzero_si512();
      for (int64_t s = begin; s < end; ++s, bytes += step_bytes) {
        Codes x[kRegs];
        load_codes<Vnni, kRegs, false>(x, bytes, last);
        prefetch<64 * kRegs>(bytes);
        BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_KEEP(x[r]);  // loaded once, not with every mask
        BITLAB_UNROLL for (int h = 0; h < kToks; ++h) {
          Quads q4[kToks][kParts];
          BITLAB_UNROLL for (int t = 0; t < kToks; ++t) BITLAB_UNROLL for (int i = 0; i < kParts; ++i) q4[t][i] =
              broadcast4(run + t * p.q_stride + s * kVnStep + 4 * (h * kParts + i));
          BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
            BITLAB_UNROLL for (int i = 0; i < kParts; ++i) {
              const Codes codes = _mm512_and_si512(x[r], masks[i]);
              BITLAB_UNROLL for (int t = 0; t < kToks; ++t) dot(part[r][t][i], codes, q4[t][i]);
            }
            if (h + 1 < kToks) x[r] = _mm512_srli_epi16(x[r], 2 * kParts);
          }
        }
      }
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t)
          BITLAB_UNROLL for (int i = 0; i < kParts; ++i) acc[r][t] += (Ints<16>)part[r][t][i] >> (2 * i);
    }
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) done[t * kRegs + r].sum =
        acc[r][t];
  }
};

}  // namespace

void ternary_gemm_x86_avx512vnni(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                 int64_t row_end, uint8_t* scratch) {
  vn_gemm<Vnni>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
