#include "bitlab/cli/train/compare.h"

#include <algorithm>
#include <chrono>

#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>

namespace bitlab::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Seconds a call, over one round of calls.
template <class Call>
double time_round(int64_t calls, Call call) {
  const auto start = Clock::now();
  for (int64_t i = 0; i < calls; ++i) call();
  return seconds(Clock::now() - start) / static_cast<double>(calls);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace

Result<Speed> compare_speed(runtime::Session& session, models::Model& float_model, const data::ImageSpec& image,
                            int64_t batch) {
  constexpr int kRounds = 21;
  constexpr double kRoundSeconds = 0.05;
  const c10::InferenceMode inference;
  at::set_num_threads(session.threads());
  float_model.eval();
  const at::Tensor input = at::randn({batch, image.channels, image.height, image.width});
  const runtime::TensorView view{input.sizes().vec(), input.const_data_ptr<float>()};
  BITLAB_RETURN_IF_ERROR(session.run({&view, 1}));
  const auto run_runtime = [&] { static_cast<void>(session.run({&view, 1})); };
  const auto run_libtorch = [&] { float_model.forward(input); };
  const auto calls_for = [&](double once) { return std::max<int64_t>(1, static_cast<int64_t>(kRoundSeconds / once)); };
  time_round(3, run_libtorch);  // warm
  const int64_t runtime_calls = calls_for(time_round(3, run_runtime)),
                libtorch_calls = calls_for(time_round(3, run_libtorch));
  std::vector<double> runtime, libtorch;
  for (int round = 0; round < kRounds; ++round) {
    runtime.push_back(time_round(runtime_calls, run_runtime));
    libtorch.push_back(time_round(libtorch_calls, run_libtorch));
  }
  return Speed{median(runtime), median(libtorch)};
}

}  // namespace bitlab::cli
