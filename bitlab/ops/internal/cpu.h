// What the kernels of evaluation do for training on the CPU.
#pragma once

#include <optional>

#include "bitlab/ops/internal/bit_operands.h"

namespace bitlab::ops::cpu {

// The contract on exact sums, where s.is_exact(): the bits of evaluation, from its kernels, for codes that are packed for this call alone.
// None for what it does not serve: tensors without values, and few tokens, where packing would take
// longer than the product.
std::optional<at::Tensor> contract(const Settings& s, const Operands& operands, const OptionalTensor& bias);

}  // namespace bitlab::ops::cpu
