// The type of forward passes in training.
#pragma once

#include "bitlab/config/enums.h"

namespace bitlab::train {

// LibTorch's autocast on the CPU for its lifetime, where the precision is below float32; its copies of parameters end with it. Then as it was before.
class Autocast {
 public:
  explicit Autocast(config::Precision precision);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool is_on_, was_enabled_ = false;
};

}  // namespace bitlab::train
