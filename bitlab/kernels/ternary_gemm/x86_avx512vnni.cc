// AVX-512 VNNI on the tiles of vn_tile.h, and a tile of its own for one token.
#include "bitlab/kernels/ternary_gemm/x86_avx512.h"

namespace bitlab::kernels {
namespace {

struct Vnni : Avx512Vnni {
  static constexpr bool kHasOneToken = true;

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
        load_codes<Vnni, kRegs, false>(x, bytes, last);
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
  vn_gemm<Vnni>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
