// 64-bit Arm with the dot product instructions: sdot takes int8 weights as they are.
#include "bitlab/kernels/int8_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/internal/arm_isa.h"

namespace bitlab::kernels {
namespace {

struct Int8DotProduct : ArmDotProduct {
  static constexpr bool kInt8 = true;
  static constexpr uint32_t kExcess = 0;
  BITLAB_INLINE int32_t sum_of(const int8_t*, int64_t) { return 0; }  // nothing is subtracted
};

}  // namespace

void int8_gemm_arm_dotprod(const Int8GemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                           uint8_t* scratch) {
  vn_range<Int8DotProduct, Scales::kPlain>(p, token_begin, token_end, row_begin, row_end,
                                           reinterpret_cast<int32_t*>(scratch));
}

}  // namespace bitlab::kernels
