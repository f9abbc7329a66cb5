// Recurrent layers in operators that have gradients, and the functions that they need.
#include "bitlab/ops/internal/recurrent.h"

#include <algorithm>
#include <span>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/torch_pool.h"
#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {
namespace {

using kernels::RecurrentCell;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

RecurrentCell cell_of(const char* op, std::string_view name) {
  const auto cell = kernels::parse_recurrent_cell(name);
  if (!cell.ok()) throw Exception(make_error(cell.error().code, "[{}] {}", op, cell.error().message));
  return *cell;
}

void check_state(const char* op, const char* argument, const OptionalTensor& state, const c10::SymInt& batch,
                 const c10::SymInt& hidden) {
  if (!given(state)) return;
  require_float32(op, argument, *state);
  require(state->dim() == 2 && state->sym_size(0) == batch && state->sym_size(1) == hidden, ErrorCode::kShapeMismatch,
          "[{}] {} [{}, {}], got {}", op, argument, show(batch), show(hidden), show(*state));
}

at::Tensor computed(kernels::Elementwise function, const at::Tensor& x) {
  const at::Tensor plain = x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
  at::Tensor y = at::empty_like(plain);  // in the same order in memory
  TorchPool pool;
  elementwise(elementwise_kernel(), {.op = function, .a = plain.const_data_ptr<float>(), .y = y.mutable_data_ptr<float>()},
              plain.numel(), pool);
  return y;
}

// A function whose gradient is one of its result.
template <FunctionOp* forward_of, at::Tensor (*backward_of)(const at::Tensor& g, const at::Tensor& y)>
struct Differentiable : torch::autograd::Function<Differentiable<forward_of, backward_of>> {
  static Variable forward(AutogradContext* ctx, const Variable& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor y = forward_of(x);
    ctx->save_for_backward({y});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    return {backward_of(outputs[0], ctx->get_saved_variables()[0])};
  }
};

// The states of one step.
struct Cell {
  at::Tensor h, c;

  void lstm(const at::Tensor& x, const at::Tensor& u) {
    const auto gates = (x + u).chunk(4, -1);
    c = redispatch::sigmoid(gates[1]) * c + redispatch::sigmoid(gates[0]) * redispatch::tanh(gates[2]);
    h = redispatch::sigmoid(gates[3]) * redispatch::tanh(c);
  }
  void gru(const at::Tensor& x, const at::Tensor& u) {
    const auto xs = x.chunk(3, -1), us = u.chunk(3, -1);
    const at::Tensor reset = redispatch::sigmoid(xs[0] + us[0]), update = redispatch::sigmoid(xs[1] + us[1]);
    const at::Tensor next = redispatch::tanh(xs[2] + reset * us[2]);
    h = next + update * (h - next);
  }
};

// From state to state, whose product is multiply(h).
template <class Multiply>
ThreeTensors step_by_step(const BitRecurrentCall& c, const Multiply& multiply) {
  check_recurrent_weight(c);
  const auto [unused, h, c_n] = recurrent_outputs("bit_recurrent", {c.x, c.weight.sym_size(0), c.h0, c.c0, c.cell});
  const bool is_lstm = cell_of("bit_recurrent", c.cell) == RecurrentCell::kLstm;
  const auto begin = [&c, &shape = h](const OptionalTensor& state) {
    return given(state) ? *state : at::zeros_symint(shape.sym_sizes(), c.x.options());
  };
  Cell cell{begin(c.h0), is_lstm ? begin(c.c0) : c_n};
  std::vector<at::Tensor> steps = c.x.unbind(1);
  if (c.reverse) std::ranges::reverse(steps);
  for (at::Tensor& step : steps) {
    const at::Tensor u = multiply(cell.h);
    is_lstm ? cell.lstm(step, u) : cell.gru(step, u);
    step = cell.h;
  }
  if (c.reverse) std::ranges::reverse(steps);
  return {at::stack(steps, 1), cell.h, cell.c};
}

// Of a packed sequence: tokens that as many samples have, from a row of x on.
struct Segment {
  int64_t first, tokens, batch;
};
std::vector<Segment> segments_of(const char* op, const at::Tensor& x, const at::Tensor& batch_sizes) {
  require(
      batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.is_cpu() && batch_sizes.numel() > 0,
      ErrorCode::kShapeMismatch, "[{}] batch_sizes int64 [T] on the CPU, got {}", op, show(batch_sizes));
  const at::Tensor plain = batch_sizes.contiguous();
  const std::span<const int64_t> sizes(plain.const_data_ptr<int64_t>(), static_cast<size_t>(plain.numel()));
  std::vector<Segment> segments;
  int64_t row = 0;
  for (const int64_t size : sizes) {
    require(size > 0 && (segments.empty() || size <= segments.back().batch), ErrorCode::kInvalidArgument,
            "[{}] batch_sizes from 1 that do not grow, got {}", op, size);
    if (segments.empty() || size < segments.back().batch) segments.push_back({row, 0, size});
    ++segments.back().tokens;
    row += size;
  }
  require(x.dim() == 2 && x.size(0) == row, ErrorCode::kShapeMismatch, "[{}] x [{}, gates H] of as many tokens, got {}", op,
          row, show(x));
  return segments;
}

// Tokens that as many samples have are a sequence of its own, which begins with the states that the one before it left; samples that end, or have not
// begun, keep theirs. `layer` computes one sequence.
template <class Layer>
ThreeTensors packed(const BitRecurrentCall& c, const at::Tensor& batch_sizes, const Layer& layer) {
  constexpr const char* kOp = "bit_recurrent";
  check_recurrent_weight(c);
  const std::vector<Segment> segments = segments_of(kOp, c.x, batch_sizes);
  const int64_t batch = segments[0].batch, hidden = c.weight.size(1);
  const bool is_lstm = cell_of(kOp, c.cell) == RecurrentCell::kLstm;
  check_state(kOp, "h0", c.h0, batch, hidden);
  check_state(kOp, "c0", c.c0, batch, hidden);
  const auto begin = [&](const OptionalTensor& state) {
    return given(state) ? *state : at::zeros({batch, hidden}, c.x.options());
  };
  OptionalTensor h = begin(c.h0), state = is_lstm ? OptionalTensor(begin(c.c0)) : c.c0;
  std::vector<at::Tensor> outputs(segments.size());
  for (size_t i = 0; i < segments.size(); ++i) {
    const size_t at = c.reverse ? segments.size() - 1 - i : i;
    const auto [first, tokens, samples] = segments[at];
    const at::Tensor x = c.x.narrow(0, first, tokens * samples).unflatten(0, {tokens, samples}).transpose(0, 1);
    const auto of_samples = [n = samples](const OptionalTensor& all) {
      return given(all) ? OptionalTensor(all->narrow(0, 0, n)) : all;
    };
    const auto with_rest = [&, n = samples](const at::Tensor& next, const OptionalTensor& all) {
      return at::cat({next, all->narrow(0, n, batch - n)});
    };
    const OptionalTensor h0 = of_samples(h), c0 = of_samples(state);
    const auto [y, h_n, c_n] =
        layer({x, c.weight, c.bias, h0, c0, c.cell, c.reverse, c.spec, c.activation, c.learned, c.act_scale, c.blend});
    outputs[at] = y.transpose(0, 1).flatten(0, 1);
    h = with_rest(h_n, h);
    if (is_lstm) state = with_rest(c_n, state);
  }
  return {at::cat(outputs), *h, is_lstm ? *state : at::empty({0}, c.x.options())};
}

ThreeTensors float_steps(const BitRecurrentCall& c) {
  return step_by_step(c, [&](const at::Tensor& h) { return at::linear(h, c.weight, c.bias); });
}

}  // namespace

ThreeTensors recurrent_outputs(const char* op, const RecurrentFacts& f) {
  const RecurrentCell cell = cell_of(op, f.cell);
  const int64_t gates = kernels::gates_of(cell);
  require_float32(op, "x", f.x);
  require(f.x.dim() == 3 && f.x.sym_size(2) == f.rows && f.rows % gates == 0, ErrorCode::kShapeMismatch,
          "[{}] x [B, T, {} H] for a weight of as many rows, got {} and {} rows", op, gates, show(f.x), show(f.rows));
  require(f.x.sym_size(1) >= 1, ErrorCode::kShapeMismatch, "[{}] at least one token, got {}", op, show(f.x));
  const c10::SymInt batch = f.x.sym_size(0), hidden = f.rows / gates;
  const bool has_cell = cell == RecurrentCell::kLstm;
  require(has_cell || !given(f.c0), ErrorCode::kInvalidArgument, "[{}] no c0 of a gru, got one", op);
  check_state(op, "h0", f.h0, batch, hidden);
  check_state(op, "c0", f.c0, batch, hidden);
  const auto state = [&] { return at::empty_symint({batch, hidden}, f.x.options()); };
  return {at::empty_symint({batch, f.x.sym_size(1), hidden}, f.x.options()), state(),
          has_cell ? state() : at::empty({0}, f.x.options())};
}

void check_recurrent_weight(const BitRecurrentCall& c) {
  const int64_t gates = kernels::gates_of(cell_of("bit_recurrent", c.cell));
  require(c.weight.dim() == 2 && c.weight.sym_size(0) == gates * c.weight.sym_size(1), ErrorCode::kShapeMismatch,
          "[bit_recurrent] a weight [{} H, H], got {}", gates, show(c.weight));
}

ThreeTensors packed_bit_recurrent(const BitRecurrentCall& c, const at::Tensor& batch_sizes) {
  return packed(c, batch_sizes, redispatch::bit_recurrent);
}

ThreeTensors plain_recurrent(const BitRecurrentCall& c, const at::Tensor& batch_sizes) {
  return batch_sizes.defined() ? packed(c, batch_sizes, float_steps) : float_steps(c);
}

at::Tensor multiplied_states(const RecurrentInputs& inputs, const RecurrentStates& states) {
  const at::Tensor &y = states.y, &sizes = inputs.batch_sizes;
  const at::Tensor first = inputs.h0.defined() ? inputs.h0 : at::zeros_like(states.h_n);
  if (!sizes.defined()) return at::cat({first, y.narrow(1, inputs.reverse ? 1 : 0, y.size(1) - 1).flatten(0, 1)});
  std::vector<at::Tensor> rows{first};
  int64_t row = 0;
  for (int64_t t = 0; t + 1 < sizes.numel(); ++t) {
    const int64_t here = sizes[t].item<int64_t>(), next = sizes[t + 1].item<int64_t>();
    rows.push_back(y.narrow(0, inputs.reverse ? row + here : row, next));
    row += here;
  }
  return at::cat(rows);
}

namespace cpu {

at::Tensor sigmoid(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? computed(kernels::Elementwise::sigmoid, x) : at::sigmoid(x);
}
at::Tensor tanh(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? computed(kernels::Elementwise::tanh, x) : at::tanh(x);
}

}  // namespace cpu

namespace any_device {

at::Tensor sigmoid(const at::Tensor& x) { return at::sigmoid(x); }
at::Tensor tanh(const at::Tensor& x) { return at::tanh(x); }

// A product for each step, whose weight is quantized each time.
ThreeTensors bit_recurrent(const BitRecurrentCall& c) {
  return step_by_step(c, [&](const at::Tensor& h) {
    return redispatch::bit_product(
        {h, c.weight, c.bias, std::nullopt, c.spec, c.activation, c.learned, c.act_scale, c.blend});
  });
}

}  // namespace any_device

namespace autograd {

at::Tensor sigmoid(const at::Tensor& x) { return Differentiable<redispatch::sigmoid, at::sigmoid_backward>::apply(x); }
at::Tensor tanh(const at::Tensor& x) { return Differentiable<redispatch::tanh, at::tanh_backward>::apply(x); }

}  // namespace autograd
}  // namespace bitlab::ops
