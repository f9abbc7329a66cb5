// Every row of ternary_gemm on the shapes that matter: a token, a few, many; products that fit a cache and one that does not.
// GOP/s = 2 M N K / t, one thread. Compare rows within one run; --benchmark_enable_random_interleaving=true evens out noise.
#include <benchmark/benchmark.h>

#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

void run_row(benchmark::State& state, const TernaryGemmRow& row) {
  const int64_t tokens = state.range(0), rows = state.range(1), depth = state.range(2), stride = round_up(depth, kVnStep);
  const auto t = test::random_int8(rows * depth, 1, -1, 1);
  const PackedTernary packed = pack_ternary(test::packed(t, rows, depth), rows, depth, row.layout).value();
  std::vector<int8_t> q(static_cast<size_t>(tokens * stride));
  const auto values = test::random_int8(tokens * depth, 2, -127, 127);
  for (int64_t m = 0; m < tokens; ++m) std::copy_n(values.begin() + m * depth, depth, q.begin() + m * stride);
  const std::vector<float> a(static_cast<size_t>(tokens), 0.01F), scale{0.5F};
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  const TernaryGemmArgs args{.weights = packed.data.data(),
                             .rows = rows,
                             .depth = depth,
                             .scale = scale.data(),
                             .q = q.data(),
                             .q_stride = stride,
                             .a = a.data(),
                             .a_stride = 1,
                             .y = y.data(),
                             .y_stride = rows};
  AlignedBuffer scratch = AlignedBuffer::allocate(static_cast<size_t>(ternary_gemm_scratch_bytes(row, depth))).value();
  for (auto _ : state) {
    row.run(args, 0, tokens, 0, rows, scratch.data());
    benchmark::ClobberMemory();
  }
  const auto operations = static_cast<double>(2 * tokens * rows * depth);
  state.counters["GOP/s"] = benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void register_rows() {
  for (const TernaryGemmRow& row : ternary_gemm_kernels().rows) {
    if (row.run == nullptr || !row.needs.minus(this_machine().features).empty()) continue;
    auto* bench = benchmark::RegisterBenchmark(fmt::format("ternary_gemm/{}", row.name).c_str(),
                                               [&row](benchmark::State& state) { run_row(state, row); });
    bench->ArgNames({"tokens", "rows", "depth"});
    for (int64_t tokens : {1, 2, 8, 12, 16, 32, 64, 128, 512})
      for (auto [rows, depth] : {std::pair<int64_t, int64_t>{50, 500}, {2048, 2048}, {8192, 8192}}) {
        const bool slow = row.layout == TernaryLayout::kRows && rows * tokens > 1 << 14;
        if (!slow) bench->Args({tokens, rows, depth});
      }
  }
}

}  // namespace
}  // namespace bitlab::kernels

int main(int argc, char** argv) {
  bitlab::kernels::register_rows();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
