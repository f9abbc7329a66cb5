#include "bitlab/train/internal/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace bitlab::train {

namespace {

bool is_second_half(int64_t step, int64_t steps) { return 2 * step >= steps; }

// From `begin` to `end` along half a cosine.
double along_cosine(double begin, double end, double part) {
  return end + (begin - end) * 0.5 * (1 + std::cos(std::numbers::pi * part));
}

double one_cycle(double warmup, int64_t step, int64_t steps) {
  constexpr double kBegin = 1.0 / 25, kEnd = kBegin / 1e4;
  const double top = warmup * static_cast<double>(steps) - 1, last = static_cast<double>(steps - 1);
  const auto at = static_cast<double>(step);
  if (at <= top) return along_cosine(kBegin, 1, top > 0 ? at / top : 1);
  return along_cosine(1, kEnd, last > top ? (at - top) / (last - top) : 1);
}

}  // namespace

double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps) {
  using config::Schedule;
  const double rate = config.learning_rate;
  if (config.schedule == Schedule::kOneCycle) return rate * one_cycle(config.warmup, step, steps);
  const auto warmup = static_cast<int64_t>(std::floor(config.warmup * static_cast<double>(steps)));
  if (step < warmup) return rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double t = static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(steps - warmup, 1));
  const double f = config.final_rate;
  switch (config.schedule) {
    case Schedule::kConstant:
      return rate;
    case Schedule::kLinear:
      return rate * (f + (1 - f) * (1 - t));
    case Schedule::kPolynomial:
      return rate * (f + (1 - f) * std::pow(1 - t, config.power));
    case Schedule::kStep:
      return rate * std::pow(config.step_factor, step * config.epochs / steps / config.step_epochs);
    case Schedule::kTwoPhase:
      return rate * (1 - t) * (is_second_half(step, steps) ? config.step_factor : 1);
    default:
      return rate * along_cosine(1, f, t);
  }
}

double decay_share(const TrainingConfig& config, int64_t step, int64_t steps) {
  return config.schedule == config::Schedule::kTwoPhase && is_second_half(step, steps) ? 0 : 1;
}

double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps) {
  const double turning = config.ternary_warmup * static_cast<double>(steps);
  const double since = static_cast<double>(step) - std::floor(config.ternary_delay * static_cast<double>(steps));
  if (since < 0) return 0;
  return turning < 1 ? 1.0 : std::min(1.0, since / turning);
}

double share_of_layer(config::TernaryOrder order, double share, int64_t layer, int64_t layers) {
  if (order == config::TernaryOrder::kTogether) return share;
  const int64_t place = order == config::TernaryOrder::kFirstToLast ? layer : layers - 1 - layer;
  return std::clamp(share * static_cast<double>(layers) - static_cast<double>(place), 0.0, 1.0);
}

}  // namespace bitlab::train
