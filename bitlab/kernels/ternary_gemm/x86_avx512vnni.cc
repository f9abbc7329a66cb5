// AVX-512 VNNI: vpdpbusd multiplies codes by int8 into int32, modulo 2^32. The difference to the sum of q fits int32, so the wrapping of
// what came before does not matter.
#include "bitlab/kernels/ternary_gemm/x86_avx512.h"

namespace bitlab::kernels {
namespace {

struct Avx512Vnni : Avx512 {
  static constexpr bool kHasOneToken = true;
  static constexpr int64_t kWiden = int64_t{1} << 40;
  using Sum = __m512i;

  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) {
    sum = _mm512_dpbusd_epi32(sum, codes, q4);
    BITLAB_KEEP(sum);
  }
  BITLAB_INLINE Ints<16> widen(Sum sum) { return (Ints<16>)sum; }
  BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
    const __m512i ones = _mm512_set1_epi8(1);
    const int64_t bytes = steps * kVnStep, whole = bytes / 64 * 64;
    const __mmask64 rest = (__mmask64{1} << (bytes - whole)) - 1;
    __m512i total = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_maskz_loadu_epi8(rest, q + whole));
    for (int64_t i = 0; i < whole; i += 64) total = _mm512_dpbusd_epi32(total, ones, _mm512_loadu_si512(q + i));
    return _mm512_reduce_add_epi32(total);
  }

  // One token: each field of a byte is multiplied where it stands, as 1, 4, 16 or 64 times its code, into sums of its own. They are added up
  // before they wrap: 4 x 2 x 64 x 127 a step, times 32,768, is below 2^31.
  template <int kRegs>
  BITLAB_NOINLINE void one_token(const TernaryGemmArgs& p, const VnWeights& w, int64_t token, int64_t row, int32_t sum) {
    constexpr int64_t kScaledSteps = 32768;
    const __m512i fields[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48), _mm512_set1_epi8(static_cast<char>(192))};
    const int8_t* q = p.q + token * p.q_stride;
    const Some last = some(w.rows - kRows * (kRegs - 1));
    const int64_t step_bytes = w.step_bytes;
    const uint8_t* bytes = w.first;
    const Runs runs = Runs::of(p, w.steps);
    Finished<16> done[kRegs];
    Ints<16> acc[kRegs];
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) acc[r] = all_ints<16>(-sum);
    for (int64_t begin = 0, end; begin < w.steps; begin = end) {
      end = begin + kScaledSteps < w.steps ? begin + kScaledSteps : w.steps;
      if (runs.end(begin) < end) end = runs.end(begin);
      const int8_t* run = runs.origin(q, begin);
      __m512i part[kRegs][4];
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int f = 0; f < 4; ++f) part[r][f] = _mm512_setzero_si512();
      for (int64_t s = begin; s < end; ++s, bytes += step_bytes) {
        Codes x[kRegs];
        Quads q4[4];
        BITLAB_UNROLL for (int f = 0; f < 4; ++f) q4[f] = broadcast4(run + s * kVnStep + 4 * f);
        load_codes<Avx512Vnni, kRegs, false>(x, bytes, last);
        prefetch<64 * kRegs>(bytes);
        BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_KEEP(x[r]);  // loaded once, not with every mask
        BITLAB_UNROLL for (int r = 0; r < kRegs; ++r)
          BITLAB_UNROLL for (int f = 0; f < 4; ++f) dot(part[r][f], _mm512_and_si512(x[r], fields[f]), q4[f]);
      }
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) acc[r] += (Ints<16>)part[r][0] + ((Ints<16>)part[r][1] >> 2) +
                                                              ((Ints<16>)part[r][2] >> 4) + ((Ints<16>)part[r][3] >> 6);
    }
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) done[r].sum = acc[r];
    finish_tile<16, Scales::kPlain>(p, done, kRegs, 1, token, row);
  }
};

}  // namespace

void ternary_gemm_x86_avx512vnni(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                                 uint8_t* scratch) {
  vn_gemm<Avx512Vnni>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
