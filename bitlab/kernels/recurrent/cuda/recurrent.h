// The cell of a recurrent layer on a CUDA device: see CudaPlugin.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// One step of all samples, behind the product u of their hidden states; the formulas of ../recurrent.h. Pointers are to the device's memory.
struct CudaCell {
  bool is_lstm;  // else a GRU
  int64_t tokens, hidden;
  int64_t t;       // the token of the step
  const float* x;  // [batch, tokens, gates hidden]
  const float* u;  // [batch, gates hidden]
  float* h;        // [batch, hidden], in place
  float* c;        // likewise, of an LSTM
  float* y;        // [batch, tokens, hidden]
  int64_t count;   // batch hidden
};
const char* cuda_cell(const CudaCell& cell, void* stream);

}  // namespace bitlab::kernels
