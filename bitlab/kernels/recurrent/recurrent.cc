#include "bitlab/kernels/recurrent/recurrent.h"

#include <algorithm>

namespace bitlab::kernels {
namespace {

// Functions of one sample's values.
struct Functions {
  const ElementwiseRow& row;

  void operator()(Elementwise op, const float* a, const float* b, float* y, int64_t count) const {
    row.run({.op = op, .a = a, .b = b, .b_count = count, .y = y}, 0, count);
  }
  void operator()(Elementwise op, float* y, int64_t count) const { (*this)(op, y, nullptr, y, count); }
};

// One step of a sample: h and c become the next ones. x and u: its gates; u is overwritten.
void lstm_step(const Functions& f, int64_t n, const float* x, float* u, float* h, float* c) {
  float *input = u, *forget = u + n, *cell = u + 2 * n, *output = u + 3 * n;
  f(Elementwise::add, x, u, u, 4 * n);
  f(Elementwise::sigmoid, input, 2 * n);
  f(Elementwise::tanh, cell, n);
  f(Elementwise::sigmoid, output, n);
  f(Elementwise::mul, forget, c, c, n);
  f(Elementwise::mul, input, cell, cell, n);
  f(Elementwise::add, c, cell, c, n);
  f(Elementwise::tanh, c, nullptr, cell, n);
  f(Elementwise::mul, output, cell, h, n);
}

void gru_step(const Functions& f, int64_t n, const float* x, float* u, float* h) {
  float *reset = u, *update = u + n, *next = u + 2 * n;
  f(Elementwise::add, x, u, u, 2 * n);
  f(Elementwise::sigmoid, reset, 2 * n);
  f(Elementwise::mul, reset, next, next, n);
  f(Elementwise::add, x + 2 * n, next, next, n);
  f(Elementwise::tanh, next, n);
  f(Elementwise::sub, h, next, h, n);
  f(Elementwise::mul, update, h, h, n);
  f(Elementwise::add, next, h, h, n);
}

int64_t gate_bytes(const RecurrentArgs& p) {
  return round_up(p.batch * gates_of(p.cell) * p.hidden * static_cast<int64_t>(sizeof(float)), kAlignment);
}

void begin(const float* from, int64_t count, float* state) {
  if (from == nullptr) {
    std::fill_n(state, count, 0.0F);
  } else {
    std::copy_n(from, count, state);
  }
}

// product(h, u): u [batch, gates hidden] of all samples' h.
template <class Product>
Status run(const ElementwiseRow& elementwise, const RecurrentArgs& p, float* u, ThreadPool& pool, const Product& product) {
  const int64_t n = p.hidden, gates = gates_of(p.cell) * n;
  const Functions functions{elementwise};
  begin(p.h0, p.batch * n, p.h_n);
  if (p.cell == RecurrentCell::kLstm) begin(p.c0, p.batch * n, p.c_n);
  for (int64_t step = 0; step < p.tokens; ++step) {
    const int64_t t = p.reverse ? p.tokens - 1 - step : step;
    BITLAB_RETURN_IF_ERROR(product(p.h_n, u));
    pool.run(p.batch, [&](int64_t b, int) {
      const int64_t token = b * p.tokens + t;
      float* h = p.h_n + b * n;
      if (p.cell == RecurrentCell::kLstm) {
        lstm_step(functions, n, p.x + token * gates, u + b * gates, h, p.c_n + b * n);
      } else {
        gru_step(functions, n, p.x + token * gates, u + b * gates, h);
      }
      std::copy_n(h, n, p.y + token * n);
    });
  }
  return {};
}

}  // namespace

Result<RecurrentCell> parse_recurrent_cell(std::string_view name) {
  for (const RecurrentCell cell : {RecurrentCell::kLstm, RecurrentCell::kGru})
    if (name == kernels::name(cell)) return cell;
  return make_error(ErrorCode::kUnknownName, "a cell of lstm, gru, got '{}'", name);
}

int64_t recurrent_scratch_bytes(const RecurrentKernels& kernels, const TernaryWeight& weight, const RecurrentArgs& args,
                                int threads) {
  return gate_bytes(args) + ternary_linear_scratch_bytes(kernels.product, weight, args.batch, threads);
}

Status recurrent(const RecurrentKernels& kernels, const TernaryWeight& weight, const LayerActivation& activation,
                 const RecurrentArgs& args, uint8_t* scratch, ThreadPool& pool) {
  uint8_t* rest = scratch + gate_bytes(args);
  return run(*kernels.elementwise, args, reinterpret_cast<float*>(scratch), pool, [&](const float* h, float* u) {
    const LayerInput input{.op = "ternary_recurrent", .x = h, .activation = activation};
    return ternary_linear(kernels.product, weight, input, args.batch, u, rest, pool);
  });
}

int64_t float_recurrent_scratch_bytes(const RecurrentArgs& args) { return gate_bytes(args); }

Status float_recurrent(const FloatRecurrent& layer, const RecurrentArgs& args, uint8_t* scratch, ThreadPool& pool) {
  const int64_t n = args.hidden, gates = gates_of(args.cell) * n;
  return run(*layer.elementwise, args, reinterpret_cast<float*>(scratch), pool, [&](const float* h, float* u) -> Status {
    float_gemm(*layer.product, {layer.panels, gates, n, h, n, layer.bias, u, gates}, args.batch, pool);
    return {};
  });
}

}  // namespace bitlab::kernels
