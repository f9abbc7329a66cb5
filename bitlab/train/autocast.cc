#include "bitlab/train/internal/autocast.h"

#include <ATen/autocast_mode.h>

namespace bitlab::train {

Autocast::Autocast(config::Precision precision) : is_on_(precision == config::Precision::kBFloat16) {
  if (!is_on_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(at::kCPU);
  at::autocast::increment_nesting();
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
}

Autocast::~Autocast() {
  if (!is_on_) return;
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, was_enabled_);
}

}  // namespace bitlab::train
