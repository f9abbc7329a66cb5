// Requantization in registers: what one ternary convolution writes and others alone read, all by the same static step, lies in memory as their int8.
// The float expressions are those of a walk of its own, so the bits are; a value takes a quarter of the memory, and is written and read once.
#pragma once

#include <vector>

#include "bitlab/runtime/internal/chain.h"

namespace bitlab::runtime {

// The static step by which a step's node quantizes its first input; none where it does not, or reads it otherwise, too.
Narrow narrow_input(const StepContext& context);

// Whether a step can write int8: a ternary convolution that computes all of the chain in registers, without another input, and whose results are
// finite, whatever its static activations are. A walk of its own refuses what is not finite; int8 could not say it.
bool can_narrow(const StepContext& context);

// By value; none: float32.
std::vector<Narrow> narrow_values(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes,
                                  const std::vector<Fusion>& fusions, const std::vector<Chain>& chains);

}  // namespace bitlab::runtime
