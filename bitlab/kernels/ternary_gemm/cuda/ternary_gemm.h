// ternary_gemm on a CUDA device: the formula, the bits and the arguments of ../ternary_gemm.h, with pointers to the device's memory, and
//   weights  in kMma (layout.h), aligned to 16; there since the host last waited for the stream, or else has_new_weights is set
//   q        aligned to 16, q_stride a multiple of 16; each row readable up to depth rounded up to kMmaDepth, whatever stands there; run is 0
// One copy of the weights serves every number of tokens.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// The ways to a product, the quicker behind the slower. They differ in speed alone.
enum class CudaProduct : int32_t {
  kAny,        // the best for the problem
  kReference,  // a thread for each result; every depth
  kMma,        // mma.sync, sm_80 and newer; every scaling, depth up to kMmaMaxDepth
  kMmaTiles,   // mma.sync in blocks of many tokens; likewise
  kWgmma,      // wgmma, sm_90a; one scale, depth up to kMmaMaxDepth
};

// Starts the product on a stream (cudaStream_t) of the current device. Null, or what is wrong.
const char* cuda_ternary_gemm(const TernaryGemmArgs& args, int64_t tokens, CudaProduct product, void* stream);

// See CudaPlugin.
const char* cuda_finish_sums(const TernaryGemmArgs& args, const int32_t* sums, int64_t sum_stride, int64_t tokens,
                             void* stream);
const char* cuda_pack_ternary(const int8_t* t, int64_t rows, int64_t depth, uint8_t* packed, void* stream);

}  // namespace bitlab::kernels
