// Encoders by method, granularity and threads. Compare within one run, on an idle machine;
// --benchmark_enable_random_interleaving=true evens out noise. GB/s counts a weight once, as float32.
#include <random>

#include <benchmark/benchmark.h>

#include "bitlab/ternary/encode.h"
#include "bitlab/ternary/test_support.h"

namespace bitlab::ternary {
namespace {

void run_encode(benchmark::State& state, const WeightSpec& spec, int64_t rows, int64_t depth) {
  std::vector<float> w(static_cast<size_t>(rows * depth));
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, 0.05F);
  for (float& v : w) v = normal(generator);
  const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
  std::vector<int8_t> t(w.size());
  std::vector<float> scale(scales), scale_neg(info(spec.method).asymmetric ? scales : 0);
  const auto learned = test::learned_values(spec.method, static_cast<int64_t>(scales), [](int64_t count, uint32_t) {
    return std::vector<float>(static_cast<size_t>(count), 0.05F);
  });
  const auto pool = make_thread_pool(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    if (!encode(spec, w, rows, depth, learned.view(), {t, scale, scale_neg, {}}, pool.get()).ok())
      return state.SkipWithError("encode() failed");
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(w.size() * sizeof(float)));
}

void register_encoders() {
  struct Shape {
    int64_t rows, depth;
    Granularity granularity;
  };
  for (const Shape& shape : {Shape{4096, 4096, Granularity::kTensor},
                             {4096, 4096, Granularity::kChannel},
                             {3, 1 << 22, Granularity::kChannel},
                             {4096, 4096, Granularity::kGroup}})
    for (size_t m = 0; m < method_list().size(); ++m) {
      const WeightSpec spec{.method = static_cast<Method>(m), .granularity = shape.granularity};
      if (!validate(spec).ok()) continue;
      const std::string title = fmt::format("{}/{}x{}", to_text(spec), shape.rows, shape.depth);
      benchmark::RegisterBenchmark(title.c_str(),
                                   [=](benchmark::State& state) { run_encode(state, spec, shape.rows, shape.depth); })
          ->ArgName("threads")
          ->Arg(1)
          ->Arg(2)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
}

}  // namespace
}  // namespace bitlab::ternary

int main(int argc, char** argv) {
  bitlab::ternary::register_encoders();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
