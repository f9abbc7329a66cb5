// Whether a config can be trained with: what the ranges of its fields cannot say.
#include <cmath>

#include "bitlab/config/io.h"
#include "bitlab/config/path_pattern.h"
#include "bitlab/train/device.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {

Status check(TrainingConfig c) {
  BITLAB_RETURN_IF_ERROR(config::check_ranges(config::table_of(c)));
  BITLAB_RETURN_IF_ERROR(check_device_name(c.device));
  if (c.nesterov && !(c.momentum > 0))
    return make_error(ErrorCode::kInvalidArgument, "[train] momentum > 0 with nesterov, got {}", c.momentum);
  if (c.ternary_delay + c.ternary_warmup > 1)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] ternary_delay and ternary_warmup of at most 1 together, got {} and {}", c.ternary_delay,
                      c.ternary_warmup);
  if (c.ternary_order != config::TernaryOrder::kTogether && c.ternary_warmup == 0)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] ternary_warmup > 0 for layers that turn one after another, got 0");
  if (c.ternary_gradients == config::Precision::kFloat16)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] ternary_gradients of float32 or bfloat16, as sums of float16 overflow, got float16");
  if (c.feature_distillation > 0 && c.feature_layers.empty())
    return make_error(ErrorCode::kInvalidArgument, "[train] feature_layers for feature_distillation, got none");
  for (const FeatureLayer& layer : c.feature_layers) BITLAB_RETURN_IF_ERROR(config::check_path_pattern(layer.path));
  for (const ParameterRule& rule : c.parameters) {
    BITLAB_RETURN_IF_ERROR(config::check_path_pattern(rule.path));
    if (!std::isfinite(rule.decay))
      return make_error(ErrorCode::kInvalidArgument, "[train] a number for decay, got {} (path={})", rule.decay, rule.path);
  }
  return {};
}

}  // namespace bitlab::train
