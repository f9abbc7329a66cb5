// elementwise on a CUDA device, and what else works element by element; see CudaPlugin. Pointers are to the device's memory.
#pragma once

#include <cstdint>

#include "bitlab/kernels/cuda_type.h"
#include "bitlab/kernels/elementwise/arguments.h"

namespace bitlab::kernels {

inline constexpr int kCudaChain = 12;  // functions at most

// y_i = f_n(... f_1(x_i)), where a binary f_j has b[i % b_count] as its second operand; ../elementwise.h.
struct CudaChain {
  struct Function {
    Elementwise op;
    const float* b;
    int64_t b_count;
  };
  Function functions[kCudaChain];
  int32_t length;
  const float* x;
  float* y;  // may be x
  int64_t count;
};
const char* cuda_elementwise(const CudaChain& chain, void* stream);

// What is computed of two values of one type, of no float in 16 bits: arithmetic of integers (which wraps), comparisons (to bool) of all types. Of
// int64 and int32 alone: quotients that are rounded down, and shifts, by less than 0 or more than all bits to 0, or to the right to the sign.
enum class CudaBinary : int32_t {
  kAdd,
  kSub,
  kMul,
  kMinimum,
  kMaximum,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kAnd,
  kOr,
  kXor,
  kFloorDivide,
  kShiftLeft,
  kShiftRight,
};
constexpr bool is_comparison(CudaBinary op) { return op >= CudaBinary::kEqual && op <= CudaBinary::kLessEqual; }

// y_i = op(a_i, b[i % b_count]). `failed` becomes other than 0 where a divisor is 0.
struct CudaZip {
  CudaBinary op;
  CudaType type;
  const void *a, *b;
  int64_t b_count;
  void* y;
  int64_t count;
  uint32_t* failed;
};
const char* cuda_zip(const CudaZip& zip, void* stream);

// y_i = condition_i ? a_i : b_i, of elements of 1, 2, 4 or 8 bytes.
struct CudaWhere {
  const uint8_t* condition;
  const void *a, *b;
  void* y;
  int64_t element_bytes, count;
};
const char* cuda_where(const CudaWhere& where, void* stream);

// y_i = x_i as another type; runtime/internal/cast.h.
struct CudaCast {
  CudaType from, to;
  const void* x;
  void* y;
  int64_t count;
};
const char* cuda_cast(const CudaCast& cast, void* stream);

}  // namespace bitlab::kernels
