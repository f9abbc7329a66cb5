// A recurrent layer in one direction, on the products of its inputs; what it multiplies its hidden states with is ternary or float. From gates
// x[b, t] = W_ih input[b, t] + b_ih, made for all steps at once, and u = W_hh h + b_hh, a ternary_linear or float_gemm of one row a sample:
//
//   LSTM (Hochreiter and Schmidhuber 1997)   i, f, g, o = x + u, of `hidden` values each
//                                            c = sigmoid(f) c + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)
//   GRU (Cho et al. 2014, arXiv:1406.1078)   r, z = sigmoid of the first two parts of x + u;  n = tanh(x_n + r u_n)
//                                            h = n + z (h - n), which is (1 - z) n + z h
//
//   x [batch, tokens, gates hidden], weight [gates hidden, hidden], bias [gates hidden]; h0, c0 [batch, hidden]
//   -> y [batch, tokens, hidden], the h of every step; h_n, c_n [batch, hidden], the last ones; float32, row-major
//
// Order of gates, and the place of the GRU's second bias, are those of torch.nn. `reverse`: the steps run from the last token to the first. Each
// operation rounds to float32, sigmoid and tanh are those of elementwise: neither the machine, nor the threads, nor the other samples change a bit.
// This is the one implementation behind the operator bitlab::ternary_recurrent of LibTorch and the nodes ternary_recurrent and recurrent of the runtime.
#pragma once

#include <optional>
#include <string_view>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::kernels {

enum class RecurrentCell : uint8_t { kLstm, kGru };
constexpr std::string_view name(RecurrentCell cell) { return cell == RecurrentCell::kLstm ? "lstm" : "gru"; }
// Error: UnknownName.
Result<RecurrentCell> parse_recurrent_cell(std::string_view name);
constexpr int64_t gates_of(RecurrentCell cell) { return cell == RecurrentCell::kLstm ? 4 : 3; }

struct RecurrentKernels {
  TernaryKernels product;  // for `batch` rows
  const ElementwiseRow* elementwise = nullptr;
};

struct RecurrentArgs {
  RecurrentCell cell = RecurrentCell::kLstm;
  int64_t batch = 0, tokens = 0, hidden = 0;
  bool reverse = false;
  const float* x = nullptr;
  const float *h0 = nullptr, *c0 = nullptr;  // null: zeros
  float *y = nullptr, *h_n = nullptr;
  float* c_n = nullptr;  // of an LSTM
};

int64_t recurrent_scratch_bytes(const RecurrentKernels& kernels, const TernaryWeight& weight, const RecurrentArgs& args,
                                int threads);

// `scratch` is aligned to 64 and holds recurrent_scratch_bytes for at least pool.threads() threads. Outputs overlap no inputs. batch and tokens are at
// least 1. Error: NotFinite, of a state.
Status recurrent(const RecurrentKernels& kernels, const TernaryWeight& weight, const LayerActivation& activation,
                 const RecurrentArgs& args, uint8_t* scratch, ThreadPool& pool);

// With a float weight; it refuses nothing.
struct FloatRecurrent {
  const FloatGemmRow* product = nullptr;
  const ElementwiseRow* elementwise = nullptr;
  const float* panels = nullptr;  // of the weight (float_gemm.h)
  const float* bias = nullptr;    // null: none
};
int64_t float_recurrent_scratch_bytes(const RecurrentArgs& args);
Status float_recurrent(const FloatRecurrent& layer, const RecurrentArgs& args, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
