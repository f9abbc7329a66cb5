// What the runtime costs beside its kernels: a run of a network of three ternary layers of 64, whose kernels take next to no time, and the same kernels
// called by hand. Compare within one run; --benchmark_enable_random_interleaving=true evens out noise.
#include <benchmark/benchmark.h>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/session.h"

namespace bitlab::runtime {
namespace {

constexpr int64_t kSize = 64;
constexpr int kLayers = 3;

std::vector<uint8_t> codes(int layer) {
  return kernels::test::packed(kernels::test::random_int8(kSize * kSize, static_cast<uint32_t>(layer), -1, 1), kSize, kSize);
}

void run_session(benchmark::State& state) {
  program::ProgramBuilder b;
  program::ValueId x = b.input("x", {program::kBatch, kSize});
  for (int i = 0; i < kLayers; ++i) {
    const program::ValueId weight = b.ternary(fmt::format("weight{}", i), {kSize, kSize}, codes(i), {.scale = {0.01F}});
    const program::ValueId bias = b.floats(fmt::format("bias{}", i), {kSize}, std::vector<float>(kSize, 0.1F));
    if (i > 0) x = b.node(program::Op::relu, fmt::format("relu{}", i), {x}).value();
    x = b.node(program::Op::ternary_linear, fmt::format("layer{}", i), {x, weight, bias},
               {{"activation", std::string("int8")}})
            .value();
  }
  const auto session = Session::create(Model::create(b.finish({x}).value()).value(), {1, {}}).value();
  const int64_t tokens = state.range(0);
  const auto input = kernels::test::random_floats(tokens * kSize, 4);
  const TensorView view{{tokens, kSize}, input.data()};
  for (auto _ : state) benchmark::DoNotOptimize(session->run({&view, 1}).value()[0].data);
}

void run_kernels(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const std::unique_ptr<ThreadPool> pool = make_thread_pool(1);
  const std::vector<float> scale{0.01F}, bias(kSize, 0.1F);
  std::vector<kernels::PackedTernary> packed;
  std::vector<kernels::TernaryWeight> weights;
  const kernels::TernaryLayout layout =
      kernels::select_ternary_layout(ternary::ActKind::kInt8, kSize, kSize, this_machine(), {}).value();
  for (int i = 0; i < kLayers; ++i) packed.push_back(kernels::pack_ternary(codes(i), kSize, kSize, layout).value());
  for (const kernels::PackedTernary& weight : packed) weights.push_back({&weight, scale.data(), 0, bias.data()});
  const auto chosen =
      kernels::select_ternary(ternary::ActKind::kInt8, weights[0].problem(tokens), layout, this_machine(), {}).value();
  const auto* row = kernels::select(kernels::elementwise_kernels(), this_machine(), {}).value();
  AlignedBuffer scratch =
      AlignedBuffer::allocate(static_cast<size_t>(ternary_linear_scratch_bytes(chosen, weights[0], tokens, 1))).value();
  const auto input = kernels::test::random_floats(tokens * kSize, 4);
  std::vector<float> a(input), y(input);
  for (auto _ : state) {
    const float* x = input.data();
    for (int i = 0; i < kLayers; ++i) {
      float* out = i == 1 ? y.data() : a.data();
      benchmark::DoNotOptimize(
          ternary_linear(chosen, weights[static_cast<size_t>(i)], {.x = x}, tokens, out, scratch.data(), *pool).ok());
      if (i + 1 < kLayers) elementwise(*row, {.op = kernels::Elementwise::relu, .a = out, .y = out}, tokens * kSize, *pool);
      x = out;
    }
  }
}

BENCHMARK(run_session)->ArgName("tokens")->Arg(1)->Arg(8);
BENCHMARK(run_kernels)->ArgName("tokens")->Arg(1)->Arg(8);

}  // namespace
}  // namespace bitlab::runtime

BENCHMARK_MAIN();
