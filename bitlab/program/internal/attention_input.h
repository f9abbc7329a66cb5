// The inputs of attention, by what they are.
#pragma once

#include "bitlab/program/op.h"

namespace bitlab::program::attention_input {

inline constexpr size_t kQuery = input_of(Op::attention, "q"), kKey = input_of(Op::attention, "k"),
                        kValue = input_of(Op::attention, "v"), kMask = input_of(Op::attention, "mask"),
                        kKeyState = input_of(Op::attention, "k_state"), kValueState = input_of(Op::attention, "v_state");

}  // namespace bitlab::program::attention_input
