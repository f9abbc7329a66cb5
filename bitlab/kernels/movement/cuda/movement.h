// Copies on a CUDA device; see CudaPlugin. Pointers are to the device's memory.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

inline constexpr int kCudaCopyRank = 10;

// The elements of one strided array to those of another with the same sizes; strides in elements, which may be 0 or below.
struct CudaCopy {
  int32_t rank;
  int64_t sizes[kCudaCopyRank], from[kCudaCopyRank], to[kCudaCopyRank];
  int64_t from_offset, to_offset;  // of the element at 0
  const void* source;
  void* target;
  int64_t element_bytes;  // 1, 2, 4 or 8
  int64_t count;          // the product of the sizes
};
const char* cuda_copy(const CudaCopy& copy, void* stream);

// y[o, i] = x[o, indices[i]], of x [outer, size, inner], in words of element_bytes; an index below 0 counts from the end. `failed` becomes other than 0
// where one is outside. `by_outer`: indices are [outer, count, inner], one an element (gather); else [count], one for `inner` elements (take).
struct CudaTake {
  const void* x;
  const int64_t* indices;
  void* y;
  int64_t outer, size, inner;
  int64_t indexed;  // elements of y between one of `outer` and the next
  int64_t element_bytes;
  int64_t count;  // elements of y
  bool by_outer;
  bool from_end;  // whether indices below 0 count from the end; else they are outside
  uint32_t* failed;
};
const char* cuda_take(const CudaTake& take, void* stream);

// What becomes of a value that is there, and one that is scattered to it; integers wrap, and NaN stays NaN.
enum class CudaScatterMode : int32_t { kReplace, kAdd, kMultiply, kMinimum, kMaximum };

// y[o, indices[o, i, c], c] = mode(there, values[o, i, c]), of y [outer, size, inner] and indices and values [outer, indexed / inner, inner], in the order of i.
// An index below 0 counts from the end. Elements are float32, or integers of element_bytes.
struct CudaScatter {
  CudaScatterMode mode;
  const int64_t* indices;
  const void* values;
  void* y;
  int64_t outer, size, inner;
  int64_t indexed;  // indices of one of `outer`
  bool is_float;
  int64_t element_bytes;
  int64_t count;     // outer inner: those that do not meet
  uint32_t* failed;  // becomes other than 0 where an index is outside
};
const char* cuda_scatter(const CudaScatter& scatter, void* stream);

// y_i = (*first, where it is given, else 0) + i
struct CudaCount {
  const int64_t* first;
  int64_t* y;
  int64_t count;
};
const char* cuda_count(const CudaCount& positions, void* stream);

// Appends tokens [outer, count, depth] to a state [outer, capacity, depth] behind its first *position rows.
struct CudaAppend {
  const float* tokens;
  float* state;
  const int64_t* position;
  int64_t rows, depth, capacity;  // of tokens and of the state, for one of `outer`
  int64_t count;                  // elements of the tokens
};
const char* cuda_append(const CudaAppend& append, void* stream);

}  // namespace bitlab::kernels
