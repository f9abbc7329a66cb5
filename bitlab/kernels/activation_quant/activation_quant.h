// Quantization of activations to int8 or int4, by rows that share a scale:
//
//   inv[m] = limit / max(max over k of |x[m, k]|, 1e-5)      dynamic: float32, IEEE division; static: given
//   q[m, k] = clamp(rint(x[m, k] * inv[m]), -limit, limit)   half to even; limit is 127 for int8, 7 for int4 (a value a byte)
//   a[m] = 1 / inv[m]
//
// A row is a token for linear layers and a sample for convolutions. The maximum does not depend on an order, so neither does the
// result. Source: Hugging Face's BitNet (ActQuant).
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/activation_quant/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using ActivationQuantRow = KernelRow<ActivationQuantKernel>;
KernelList<ActivationQuantRow> activation_quant_kernels();

// x  float32 [rows, columns], rows x_stride floats apart
// q  int8 [rows, columns], rows q_stride bytes apart; bytes from columns to q_stride are set to zero
// a  float32 [rows]
// Error: NotFinite, naming `op` and the row.
Status activation_quant(const ActivationQuantRow& kernel, const char* op, const float* x, int64_t rows, int64_t columns,
                        int64_t x_stride, int8_t* q, int64_t q_stride, float* a, ThreadPool& pool,
                        ActivationScale scale = {});

}  // namespace bitlab::kernels
