// Rows of tables on a CUDA device, ternary ones and those of floats; see CudaPlugin. Pointers are to the device's memory.
#pragma once

#include <cstdint>

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

enum class CudaTable : int32_t {
  kTernary,  // in kMma
  kInt8,     // int8 [rows, depth]
  kFloat32,
  kFloat16,
  kBFloat16,
  kPanels,  // float32 in the layout of float_gemm
};

// y [tokens, depth] = the rows of the table, as ../ternary_embedding.h says of ternary and int8 ones. `failed` becomes other than 0 for an index outside
// [0, rows).
struct CudaEmbedding {
  CudaTable table;
  TernaryGemmArgs p;  // the table as weights, rows, depth and, of ternary and int8 ones, their scales
  const int64_t* indices;
  float* y;
  int64_t count;  // values of y
  uint32_t* failed;
};
const char* cuda_embedding(const CudaEmbedding& embedding, void* stream);

}  // namespace bitlab::kernels
