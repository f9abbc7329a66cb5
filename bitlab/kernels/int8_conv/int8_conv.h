// A convolution of int8 activations with int8 weights, for layers that are kept at 8 bits: patches gathered in tiles, then int8_gemm.
//
//   q [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, rows], both channels last
//   weight [rows, K] with K = at most 2^17 values in the order (kd, kh, kw, c), by pack_int8 with geometry.groups groups
#pragma once

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/int8_gemm/int8_gemm.h"

namespace bitlab::kernels {

int64_t int8_conv_scratch_bytes(const ConvGeometry& geometry, int threads);

// `layer` is the whole layer: all rows, depth = geometry.depth(), scale and bias of each row, q [batch, sample_values] as it lies in memory
// (|q| <= 127), a [sample * a_stride], and y or y_q for every output pixel of the batch; q_stride is not used. `scratch` is aligned to 64
// and holds int8_conv_scratch_bytes for at least pool.threads() threads.
void int8_conv(const Int8GemmRow& row, const Int8GemmArgs& layer, const ConvGeometry& geometry, uint8_t* scratch,
               ThreadPool& pool);

}  // namespace bitlab::kernels
