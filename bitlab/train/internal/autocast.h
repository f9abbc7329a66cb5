// The type of forward passes in training.
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

#include "bitlab/config/enums.h"

namespace bitlab::train {

// LibTorch's autocast on a kind of device for its lifetime, where the precision is below float32; its copies of parameters end with it. Then as it was before.
class Autocast {
 public:
  Autocast(config::Precision precision, c10::DeviceType device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool is_on_, was_enabled_ = false;
  c10::ScalarType type_before_ = c10::ScalarType::Undefined;
};

}  // namespace bitlab::train
