#include "bitlab/train/internal/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace bitlab::train {

double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps) {
  const auto warmup = static_cast<int64_t>(std::floor(config.warmup * static_cast<double>(steps)));
  if (step < warmup) return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (config.schedule == config::Schedule::kConstant) return config.learning_rate;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(steps - warmup, 1));
  return config.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps) {
  const double turning = config.ternary_warmup * static_cast<double>(steps);
  return turning < 1 ? 1.0 : std::min(1.0, static_cast<double>(step) / turning);
}

}  // namespace bitlab::train
