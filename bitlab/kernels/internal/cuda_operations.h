// The operations of the plug-in's table (cuda_table.h), the same for a device and for the host's form of the library.
#pragma once

#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"
#include "bitlab/kernels/attention/cuda/attention.h"
#include "bitlab/kernels/elementwise/cuda/elementwise.h"
#include "bitlab/kernels/float_gemm/cuda/float_gemm.h"
#include "bitlab/kernels/grid_sample/cuda/grid_sample.h"
#include "bitlab/kernels/internal/cuda_table.h"
#include "bitlab/kernels/movement/cuda/movement.h"
#include "bitlab/kernels/pool/cuda/pool.h"
#include "bitlab/kernels/recurrent/cuda/recurrent.h"
#include "bitlab/kernels/reduction/cuda/reduction.h"
#include "bitlab/kernels/resample/cuda/resample.h"
#include "bitlab/kernels/rotary/cuda/rotary.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.h"

namespace bitlab::kernels {

// A function of a reference as one of a pointer, which is what may cross a library's border.
template <auto kFunction>
struct OfPointer;
template <class Args, const char* (*kFunction)(const Args&, void*)>
struct OfPointer<kFunction> {
  static const char* call(const Args* args, void* stream) { return kFunction(*args, stream); }
};

inline void add_operations(CudaPlugin& table) {
  table.version = CudaPlugin::kVersion;
  table.activation_quant = OfPointer<cuda_activation_quant>::call;
  table.elementwise = OfPointer<cuda_elementwise>::call;
  table.zip = OfPointer<cuda_zip>::call;
  table.where = OfPointer<cuda_where>::call;
  table.cast = OfPointer<cuda_cast>::call;
  table.copy_elements = OfPointer<cuda_copy>::call;
  table.take = OfPointer<cuda_take>::call;
  table.count = OfPointer<cuda_count>::call;
  table.append = OfPointer<cuda_append>::call;
  table.ternary_conv = OfPointer<cuda_ternary_conv>::call;
  table.patches = OfPointer<cuda_patches>::call;
  table.int8_gemm = OfPointer<cuda_int8_gemm>::call;
  table.ternary_gemm_f32 = OfPointer<cuda_ternary_gemm_f32>::call;
  table.float_gemm = OfPointer<cuda_float_gemm>::call;
  table.embedding = OfPointer<cuda_embedding>::call;
  table.pool = OfPointer<cuda_pool>::call;
  table.resample = OfPointer<cuda_resample>::call;
  table.rotary = OfPointer<cuda_rotary>::call;
  table.attention = OfPointer<cuda_attention>::call;
  table.rows = OfPointer<cuda_rows>::call;
  table.sort = OfPointer<cuda_sort>::call;
  table.scatter = OfPointer<cuda_scatter>::call;
  table.grid_sample = OfPointer<cuda_grid_sample>::call;
  table.cell = OfPointer<cuda_cell>::call;
  table.reduction = [](const ReductionArgs* args, int64_t rows, void* stream) {
    return cuda_reduction(*args, rows, stream);
  };
  table.argmax = [](const void* x, int32_t is_float, int64_t rows, int64_t columns, int64_t* y, void* stream) {
    return cuda_argmax(x, is_float != 0, rows, columns, y, stream);
  };
}

}  // namespace bitlab::kernels
