// The generators that training draws from, as dropout does.
#pragma once

#include <ATen/Context.h>

namespace bitlab::train {

inline at::Generator random_numbers(at::Device device = at::kCPU) { return at::globalContext().defaultGenerator(device); }

// How far they are: that of the CPU, and that of the device of the network, which there is none of on the CPU.
struct RandomState {
  at::Tensor cpu, device{};
};

inline RandomState random_state(at::Device device) {
  RandomState state{random_numbers().get_state()};
  if (!device.is_cpu()) state.device = random_numbers(device).get_state();
  return state;
}

inline void set_random_state(at::Device device, const RandomState& state) {
  random_numbers().set_state(state.cpu);
  if (state.device.defined()) random_numbers(device).set_state(state.device);
}

}  // namespace bitlab::train
