// The generator that training draws from, as dropout does.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

namespace bitlab::train {

inline at::Generator random_numbers() { return at::detail::getDefaultCPUGenerator(); }

}  // namespace bitlab::train
