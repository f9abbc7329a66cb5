// The table of functions that crosses the border of libbitlab_cuda.so (cuda_plugin.h). A plain header: nvcc compiles it, too.
//
// Pointers are to the memory of the current device, the stream is a cudaStream_t, and a function returns as soon as its work is on the stream: null, or
// what is wrong. Results have the bits of the CPU. NaN and infinity raise no error, which the host would have to wait for: they make NaN of the scales
// that depend on them, and so of every result.
#pragma once

#include <cstdint>

#include "bitlab/kernels/reduction/arguments.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

struct CudaActivationQuant;
struct CudaAppend;
struct CudaAttention;
struct CudaCast;
struct CudaCell;
struct CudaChain;
struct CudaCopy;
struct CudaCount;
struct CudaEmbedding;
struct CudaFloatGemm;
struct CudaGridSample;
struct CudaInt8Gemm;
struct CudaPatches;
struct CudaPool;
struct CudaResample;
struct CudaRotary;
struct CudaRows;
struct CudaScatter;
struct CudaSort;
struct CudaTake;
struct CudaTernaryConv;
struct CudaTernaryF32;
struct CudaWhere;
struct CudaZip;

struct CudaPlugin {
  static constexpr int32_t kVersion = 5;  // of this struct
  int32_t version;

  // ternary/encode.h for absmean: w float32 [parts, length], where a part shares a scale -> t int8, scale and threshold float32 [parts]. scratch:
  // float64 [2 * parts * ceil(length / 4096)].
  const char* (*encode_absmean)(const float* w, int64_t parts, int64_t length, int8_t* t, float* scale, float* threshold,
                                double* scratch, void* stream);

  // Of t in {-1, 0, 1}, int8 [rows, depth]: the weights of ternary_gemm, ternary_gemm/cuda/layout.h.
  const char* (*pack_ternary)(const int8_t* t, int64_t rows, int64_t depth, uint8_t* packed, void* stream);

  // What follows exact sums in ternary_gemm, by one scale a row, for sums that others made: int32 [tokens, rows], sum_stride apart.
  const char* (*finish_sums)(const TernaryGemmArgs* args, const int32_t* sums, int64_t sum_stride, int64_t tokens,
                             void* stream);

  // ternary_gemm/cuda/ternary_gemm.h; `product` is a CudaProduct.
  const char* (*ternary_gemm)(const TernaryGemmArgs* args, int64_t tokens, int32_t product, void* stream);

  // --- Devices, memory and streams, for callers without a CUDA runtime of their own.
  const char* (*count_devices)(int32_t* count);                // wrong where there is no driver
  const char* (*use_device)(int32_t device, int32_t* before);  // of the calling thread; before: null, or the one that it had
  const char* (*allocate)(int64_t bytes, void** memory);
  void (*release)(void* memory);  // null: nothing
  // Between the host's memory and a device's, or within one. Memory of the host is free to change when this returns; what it holds is there behind
  // synchronize().
  const char* (*copy)(void* to, const void* from, int64_t bytes, void* stream);
  const char* (*zero)(void* to, int64_t bytes, void* stream);
  const char* (*make_stream)(void** stream);
  void (*release_stream)(void* stream);
  const char* (*synchronize)(void* stream);
  // What goes to the stream between the two is written down in a graph, and does not run.
  const char* (*begin_graph)(void* stream);
  const char* (*end_graph)(void* stream, void** graph);
  const char* (*run_graph)(void* graph, void* stream);
  void (*release_graph)(void* graph);
  // Whether what goes to the stream is written down, by whoever began it.
  const char* (*is_capturing)(void* stream, int32_t* answer);

  // --- Operations; their arguments stand in <op>/cuda/.
  const char* (*activation_quant)(const CudaActivationQuant*, void* stream);
  const char* (*elementwise)(const CudaChain*, void* stream);
  const char* (*zip)(const CudaZip*, void* stream);
  const char* (*where)(const CudaWhere*, void* stream);
  const char* (*cast)(const CudaCast*, void* stream);
  const char* (*copy_elements)(const CudaCopy*, void* stream);
  const char* (*take)(const CudaTake*, void* stream);
  const char* (*count)(const CudaCount*, void* stream);
  const char* (*append)(const CudaAppend*, void* stream);
  const char* (*ternary_conv)(const CudaTernaryConv*, void* stream);
  const char* (*patches)(const CudaPatches*, void* stream);
  const char* (*int8_gemm)(const CudaInt8Gemm*, void* stream);
  const char* (*ternary_gemm_f32)(const CudaTernaryF32*, void* stream);
  const char* (*float_gemm)(const CudaFloatGemm*, void* stream);
  const char* (*embedding)(const CudaEmbedding*, void* stream);
  const char* (*pool)(const CudaPool*, void* stream);
  const char* (*resample)(const CudaResample*, void* stream);
  const char* (*rotary)(const CudaRotary*, void* stream);
  const char* (*attention)(const CudaAttention*, void* stream);
  const char* (*reduction)(const ReductionArgs*, int64_t rows, void* stream);
  const char* (*argmax)(const void* x, int32_t is_float, int64_t rows, int64_t columns, int64_t* y, void* stream);
  const char* (*rows)(const CudaRows*, void* stream);
  const char* (*sort)(const CudaSort*, void* stream);
  const char* (*scatter)(const CudaScatter*, void* stream);
  const char* (*grid_sample)(const CudaGridSample*, void* stream);
  const char* (*cell)(const CudaCell*, void* stream);
};

}  // namespace bitlab::kernels
