#include "bitlab/kernels/recurrent/cuda/recurrent.h"

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/internal/float_math.h"

namespace bitlab::kernels {
namespace {

BITLAB_HOST_DEVICE float sigmoid_of(float x) { return lane(sigmoid(F32x16(x))); }
BITLAB_HOST_DEVICE float tanh_of(float x) { return lane(tanh(F32x16(x))); }

// A thread takes a value of a state.
struct EachState : CudaCell {
  BITLAB_HOST_DEVICE float lstm(const float* xs, const float* us, int64_t i) const {
    const auto gate = [&](int k) { return xs[k * hidden] + us[k * hidden]; };
    const float input = sigmoid_of(gate(0)), forget = sigmoid_of(gate(1)), next = tanh_of(gate(2)), output = sigmoid_of(gate(3));
    c[i] = forget * c[i] + input * next;
    return output * tanh_of(c[i]);
  }
  BITLAB_HOST_DEVICE float gru(const float* xs, const float* us, int64_t i) const {
    const float reset = sigmoid_of(xs[0] + us[0]), update = sigmoid_of(xs[hidden] + us[hidden]);
    const float next = tanh_of(xs[2 * hidden] + reset * us[2 * hidden]);
    return next + update * (h[i] - next);
  }
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t b = cuda::divided(i, hidden), own = i - b * hidden, token = b * tokens + t, gates = (is_lstm ? 4 : 3) * hidden;
    const float *xs = x + token * gates + own, *us = u + b * gates + own;
    h[i] = is_lstm ? lstm(xs, us, i) : gru(xs, us, i);
    y[token * hidden + own] = h[i];
  }
};

}  // namespace

const char* cuda_cell(const CudaCell& cell, void* stream) { return cuda::for_each(EachState{cell}, stream); }

}  // namespace bitlab::kernels
