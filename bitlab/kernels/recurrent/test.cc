// Recurrent layers step by step against the oracle's product and cells in double, on every kernel; threads, batches and the order of tokens change no bit.
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/recurrent/recurrent.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

struct RecurrentCase {
  RecurrentCell cell;
  int64_t batch, tokens, hidden;
  bool reverse, has_bias, begins;  // with states
};

std::vector<RecurrentCase> recurrent_cases() {
  std::vector<RecurrentCase> list;
  bool flag = false;
  for (const RecurrentCell cell : {RecurrentCell::kLstm, RecurrentCell::kGru})
    for (const int64_t hidden : {1, 17, 65})
      for (const int64_t tokens : {1, 7})
        for (const int64_t batch : {1, 3}) {
          flag = !flag;
          list.push_back({cell, batch, tokens, hidden, flag, tokens > 1 || flag, batch > 1});
          list.push_back({cell, batch, tokens, hidden, !flag, flag, tokens > 1});
        }
  return list;
}

std::string describe(const RecurrentCase& c) {
  return fmt::format("{} batch {} tokens {} hidden {} reverse {}", name(c.cell), c.batch, c.tokens, c.hidden, c.reverse);
}

struct RecurrentLayer {
  RecurrentCase c;
  int64_t gates;
  std::vector<int8_t> t;
  std::vector<float> scale, bias, x, h0, c0;

  explicit RecurrentLayer(const RecurrentCase& of, float spread = 1.0F)
      : c(of),
        gates(gates_of(c.cell) * c.hidden),
        t(test::random_int8(gates * c.hidden, 1, -1, 1)),
        scale(test::random_floats(gates, 2, 0.3F)),
        x(test::random_floats(c.batch * c.tokens * gates, 4, spread)) {
    if (c.has_bias) bias = test::random_floats(gates, 3, 0.5F);
    if (c.begins) h0 = test::random_floats(c.batch * c.hidden, 5, 0.7F), c0 = test::random_floats(c.batch * c.hidden, 6);
  }
};

struct RecurrentResult {
  std::vector<float> y, h_n, c_n;
  bool operator==(const RecurrentResult& other) const {
    return test::same_bits(y, other.y) && test::same_bits(h_n, other.h_n) && test::same_bits(c_n, other.c_n);
  }
};

// Its inputs and outputs end at pages that fault.
struct RecurrentRun {
  RecurrentKernels kernels;
  LayerActivation activation;
  TernaryLayout layout;
  int threads = 1;

  Result<RecurrentResult> operator()(const RecurrentLayer& l) const {
    const RecurrentCase& c = l.c;
    const PackedTernary packed = *pack_ternary(test::packed(l.t, l.gates, c.hidden), l.gates, c.hidden, layout);
    const TernaryWeight weight{&packed, l.scale.data(), 1, l.bias.empty() ? nullptr : l.bias.data()};
    const auto values = static_cast<size_t>(c.batch * c.hidden);
    test::GuardedBytes x(l.x.size() * 4), h0(l.h0.size() * 4), c0(l.c0.size() * 4);
    test::GuardedBytes y(values * static_cast<size_t>(c.tokens) * 4), h_n(values * 4), c_n(values * 4);
    RecurrentArgs args{c.cell, c.batch, c.tokens, c.hidden, c.reverse, x.fill<float>(l.x)};
    if (c.begins) args.h0 = h0.fill<float>(l.h0);
    if (c.begins && c.cell == RecurrentCell::kLstm) args.c0 = c0.fill<float>(l.c0);
    args.y = y.as<float>(), args.h_n = h_n.as<float>(), args.c_n = c_n.as<float>();
    AlignedBuffer scratch =
        *AlignedBuffer::allocate(static_cast<size_t>(recurrent_scratch_bytes(kernels, weight, args, threads)));
    BITLAB_RETURN_IF_ERROR(recurrent(kernels, weight, activation, args, scratch.data(), *make_thread_pool(threads)));
    RecurrentResult result{{args.y, args.y + values * static_cast<size_t>(c.tokens)}, {args.h_n, args.h_n + values}, {}};
    if (c.cell == RecurrentCell::kLstm) result.c_n.assign(args.c_n, args.c_n + values);
    return result;
  }
};

RecurrentRun reference_run() {
  const auto kernels = *select_ternary(ternary::ActKind::kInt8, {1, 1, 1}, TernaryLayout::kRows, this_machine(), {});
  return {{kernels, *select(elementwise_kernels(), this_machine(), {})}, {}, TernaryLayout::kRows};
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// The next h of value i of a sample whose token is this one, in double, from its own gates and those of the hidden states; c becomes the next one.
double next_h(const RecurrentLayer& l, size_t token, size_t i, const auto& u, double h, double& c) {
  const auto n = static_cast<size_t>(l.c.hidden);
  const auto x = [&](size_t gate) { return static_cast<double>(l.x[token * static_cast<size_t>(l.gates) + gate * n + i]); };
  const auto sum = [&](size_t gate) { return x(gate) + static_cast<double>(u[gate * n + i]); };
  if (l.c.cell == RecurrentCell::kLstm) {
    c = logistic(sum(1)) * c + logistic(sum(0)) * std::tanh(sum(2));
    return logistic(sum(3)) * std::tanh(c);
  }
  const double z = logistic(sum(1)), next = std::tanh(x(2) + logistic(sum(0)) * static_cast<double>(u[2 * n + i]));
  return (1 - z) * next + z * h;
}

// Every step of a result, from the h that the step before it gave: its product is the oracle's, its cell is computed in double.
void expect_steps(const RecurrentLayer& l, const RecurrentResult& found, ternary::oracle::Activation activation) {
  const RecurrentCase& c = l.c;
  const auto n = static_cast<size_t>(c.hidden), tokens = static_cast<size_t>(c.tokens);
  for (size_t b = 0; b < static_cast<size_t>(c.batch); ++b) {
    std::vector<float> h(n);
    std::vector<double> state(n);
    if (c.begins) {
      std::copy_n(l.h0.begin() + static_cast<std::ptrdiff_t>(b * n), n, h.begin());
      std::copy_n(l.c0.begin() + static_cast<std::ptrdiff_t>(b * n), n, state.begin());
    }
    for (size_t step = 0; step < tokens; ++step) {
      const size_t token = b * tokens + (c.reverse ? tokens - 1 - step : step);
      const ternary::oracle::Weight weight{.t = l.t, .scale = l.scale, .bias = l.bias};
      const auto u = ternary::oracle::linear(h, 1, weight, l.gates, c.hidden, activation);
      for (size_t i = 0; i < n; ++i) {
        const double expected = next_h(l, token, i, u, static_cast<double>(h[i]), state[i]);
        EXPECT_NEAR(found.y[token * n + i], expected, 2e-6) << "token " << token << " value " << i;
      }
      std::copy_n(found.y.begin() + static_cast<std::ptrdiff_t>(token * n), n, h.begin());
    }
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(found.h_n[b * n + i], h[i]);
      if (c.cell == RecurrentCell::kLstm) {
        EXPECT_NEAR(found.c_n[b * n + i], state[i], 1e-5);
      }
    }
  }
}

TEST(Recurrent, StepsAreTheOraclesProductsAndCells) {
  for (const RecurrentCase& c : recurrent_cases()) {
    SCOPED_TRACE(describe(c));
    const RecurrentLayer layer(c);
    RecurrentRun run = reference_run();
    expect_steps(layer, run(layer).value(), {});
    run.activation = {ternary::ActKind::kInt4Static, 0.125F};
    expect_steps(layer, run(layer).value(), {.limit = 7, .step = 0.125F});
  }
}

TEST(Recurrent, EveryKernelAndThreadGivesTheSameBits) {
  for (const RecurrentCase& c : recurrent_cases()) {
    SCOPED_TRACE(describe(c));
    const RecurrentLayer layer(c);
    const RecurrentResult expected = reference_run()(layer).value();
    for (const TernaryGemmRow* gemm : test::runnable(ternary_gemm_kernels()))
      for (const int threads : {1, 3}) {
        RecurrentRun run = reference_run();
        run.kernels.product.product = gemm;
        run.layout = gemm->layout, run.threads = threads;
        EXPECT_EQ(run(layer).value(), expected) << gemm->name;
      }
    for (const ElementwiseRow* elementwise : test::runnable(elementwise_kernels())) {
      RecurrentRun run = reference_run();
      run.kernels.elementwise = elementwise;
      EXPECT_EQ(run(layer).value(), expected) << elementwise->name;
    }
  }
}

// A sample's states do not depend on the others; backwards is forwards on tokens in the other order.
TEST(Recurrent, SamplesAreOnTheirOwnAndTokensTurnRound) {
  for (const RecurrentCase& c : recurrent_cases()) {
    SCOPED_TRACE(describe(c));
    const RecurrentLayer layer(c);
    const RecurrentRun run = reference_run();
    const RecurrentResult whole = run(layer).value();
    const auto row = c.tokens * layer.gates, out = c.tokens * c.hidden;
    for (int64_t b = 0; b < c.batch; ++b) {
      RecurrentLayer one = layer;
      one.c.batch = 1, one.c.reverse = !c.reverse;
      one.x.clear();
      for (int64_t t = c.tokens; t-- > 0;)
        one.x.insert(one.x.end(), layer.x.begin() + b * row + t * layer.gates,
                     layer.x.begin() + b * row + (t + 1) * layer.gates);
      if (c.begins) {
        one.h0.assign(layer.h0.begin() + b * c.hidden, layer.h0.begin() + (b + 1) * c.hidden);
        one.c0.assign(layer.c0.begin() + b * c.hidden, layer.c0.begin() + (b + 1) * c.hidden);
      }
      const RecurrentResult found = run(one).value();
      for (int64_t t = 0; t < c.tokens; ++t)
        EXPECT_TRUE(
            test::same_bits({found.y.data() + t * c.hidden, static_cast<size_t>(c.hidden)},
                            {whole.y.data() + b * out + (c.tokens - 1 - t) * c.hidden, static_cast<size_t>(c.hidden)}));
    }
  }
}

// All |q| are 127 and all t are 1: saturated gates keep h at its largest, and the sums at theirs.
TEST(Recurrent, WorstCasesAreExact) {
  for (const RecurrentCell cell : {RecurrentCell::kLstm, RecurrentCell::kGru}) {
    RecurrentLayer layer({cell, 2, 3, 1040, false, false, true});
    std::fill(layer.t.begin(), layer.t.end(), int8_t{1});
    std::fill(layer.h0.begin(), layer.h0.end(), -1.0F);
    std::fill(layer.scale.begin(), layer.scale.end(), 0.001F);
    std::fill(layer.x.begin(), layer.x.end(), 0.0F);
    expect_steps(layer, reference_run()(layer).value(), {});
  }
}

TEST(Recurrent, StatesAreFinite) {
  for (const RecurrentCell cell : {RecurrentCell::kLstm, RecurrentCell::kGru}) {
    RecurrentLayer layer({cell, 2, 3, 17, false, true, true});
    layer.h0[20] = NAN;
    const auto refused = reference_run()(layer);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().message, "[ternary_recurrent] finite input, got NaN or infinity (row=1)");
  }
  EXPECT_EQ(parse_recurrent_cell("rnn").error().message, "a cell of lstm, gru, got 'rnn'");
}

struct FloatRun {
  const FloatGemmRow* product = *select(float_gemm_kernels(), this_machine(), {});
  const ElementwiseRow* elementwise = *select(elementwise_kernels(), this_machine(), {});
  int threads = 1;

  // With the codes as weights.
  RecurrentResult operator()(const RecurrentLayer& l) const {
    const RecurrentCase& c = l.c;
    AlignedBuffer panels = *AlignedBuffer::allocate(static_cast<size_t>(float_panel_bytes(l.gates, c.hidden)));
    pack_float_rows(weights(l).data(), l.gates, c.hidden, reinterpret_cast<float*>(panels.data()));
    const auto values = static_cast<size_t>(c.batch * c.hidden);
    test::GuardedBytes x(l.x.size() * 4), h0(l.h0.size() * 4), c0(l.c0.size() * 4);
    test::GuardedBytes y(values * static_cast<size_t>(c.tokens) * 4), h_n(values * 4), c_n(values * 4);
    RecurrentArgs args{c.cell, c.batch, c.tokens, c.hidden, c.reverse, x.fill<float>(l.x)};
    if (c.begins) args.h0 = h0.fill<float>(l.h0), args.c0 = c0.fill<float>(l.c0);
    args.y = y.as<float>(), args.h_n = h_n.as<float>(), args.c_n = c_n.as<float>();
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(float_recurrent_scratch_bytes(args)));
    const FloatRecurrent layer{product, elementwise, reinterpret_cast<const float*>(panels.data()),
                               l.bias.empty() ? nullptr : l.bias.data()};
    EXPECT_TRUE(float_recurrent(layer, args, scratch.data(), *make_thread_pool(threads)).ok());
    RecurrentResult result{{args.y, args.y + values * static_cast<size_t>(c.tokens)}, {args.h_n, args.h_n + values}, {}};
    if (c.cell == RecurrentCell::kLstm) result.c_n.assign(args.c_n, args.c_n + values);
    return result;
  }
  static std::vector<float> weights(const RecurrentLayer& l) {
    return test::random_floats(l.gates * l.c.hidden, 7, 1.0F / std::sqrt(static_cast<float>(l.c.hidden)));
  }
};

// All in double.
std::vector<double> float_steps(const RecurrentLayer& l) {
  const RecurrentCase& c = l.c;
  const std::vector<float> w = FloatRun::weights(l);
  const auto n = static_cast<size_t>(c.hidden), tokens = static_cast<size_t>(c.tokens), gates = static_cast<size_t>(l.gates);
  std::vector<double> y(static_cast<size_t>(c.batch) * tokens * n);
  for (size_t b = 0; b < static_cast<size_t>(c.batch); ++b) {
    std::vector<double> h(n), state(n), u(gates);
    for (size_t i = 0; c.begins && i < n; ++i) h[i] = l.h0[b * n + i], state[i] = l.c0[b * n + i];
    for (size_t step = 0; step < tokens; ++step) {
      const size_t token = b * tokens + (c.reverse ? tokens - 1 - step : step);
      for (size_t row = 0; row < gates; ++row) {
        u[row] = l.bias.empty() ? 0 : static_cast<double>(l.bias[row]);
        for (size_t k = 0; k < n; ++k) u[row] += static_cast<double>(w[row * n + k]) * h[k];
      }
      for (size_t i = 0; i < n; ++i) {
        h[i] = next_h(l, token, i, u, h[i], state[i]);
        y[token * n + i] = h[i];
      }
    }
  }
  return y;
}

TEST(Recurrent, FloatWeightsAreWithinRoundingAndOfTheSameBits) {
  for (const RecurrentCase& c : recurrent_cases()) {
    SCOPED_TRACE(describe(c));
    const RecurrentLayer layer(c);
    const RecurrentResult whole = FloatRun()(layer);
    const std::vector<double> expected = float_steps(layer);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(whole.y[i], expected[i], 5e-6) << i;
    for (const FloatGemmRow* product : test::runnable(float_gemm_kernels()))
      for (const int threads : {1, 3})
        EXPECT_EQ((FloatRun{.product = product, .threads = threads}(layer)), whole) << product->name;
    for (const ElementwiseRow* elementwise : test::runnable(elementwise_kernels()))
      EXPECT_EQ((FloatRun{.elementwise = elementwise}(layer)), whole) << elementwise->name;
  }
}

}  // namespace
}  // namespace bitlab::kernels
