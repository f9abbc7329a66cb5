// AVX-512 VNNI: vpdpbusd multiplies w + 128, unsigned, by q into int32, modulo 2^32; 128 times the sum of q is subtracted.
#include "bitlab/kernels/int8_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/internal/x86_avx512.h"

namespace bitlab::kernels {
namespace {

struct Int8Vnni : Avx512Vnni {
  static constexpr bool kInt8 = true;
  static constexpr uint32_t kExcess = 128;

  BITLAB_INLINE Codes load_some(const uint8_t* bytes, Some rows) { return biased(Avx512::load_some(bytes, rows)); }
  BITLAB_INLINE Codes load(const uint8_t* bytes) { return biased(Avx512::load(bytes)); }
  BITLAB_INLINE Codes biased(Codes w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
};

}  // namespace

void int8_gemm_x86_avx512vnni(const Int8GemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                              int64_t row_end, uint8_t* scratch) {
  vn_range<Int8Vnni, Scales::kPlain>(p, token_begin, token_end, row_begin, row_end, reinterpret_cast<int32_t*>(scratch));
}

}  // namespace bitlab::kernels
