// What a network takes, from an example and the sizes that differ from run to run; and inputs of other sizes, made of the example.
#pragma once

#include <optional>

#include "bitlab/nn/named_tensors.h"
#include "bitlab/program/shape.h"

namespace bitlab::deploy {

using nn::Forward;
using nn::NamedTensors;
using program::Signature;

program::DType dtype_of(at::ScalarType type);  // Throws Unsupported, for others than those of DType.
at::ScalarType scalar_type(program::DType dtype);

// The inputs of `example`: those that `declared` names, with its shapes; without it every input has the batch as its first size. An example is
// on the CPU, and has at least one element of each size. Errors: InvalidArgument (a name that is missing or unknown, another dtype, device, rank
// or size, one symbol with two sizes).
Result<Signature> signature_of(const NamedTensors& example, const std::optional<Signature>& declared);

// Two sizes for every symbol, all primes and no two the same: sizes in two recordings tell which product of symbols they are a multiple of.
// Error: Unsupported, for a range without two such numbers.
Result<std::pair<program::SymbolSizes, program::SymbolSizes>> recording_sizes(
    const program::Symbols& symbols, const program::SymbolSizes& least = program::kOnes);

// The largest size of each symbol that has a bound; of others, that in `otherwise`.
program::SymbolSizes largest_sizes(const program::Symbols& symbols, const program::SymbolSizes& otherwise);

// The example's elements, repeated in turn or cut so that symbols have the given sizes.
NamedTensors resized(const Signature& signature, const NamedTensors& example, const program::SymbolSizes& sizes);

// The size that is `size` with some sizes of symbols and `twin` with others, each from recording_sizes. Nothing where it is no multiple of a
// product of symbols.
std::optional<program::Dim> dim_of(int64_t size, int64_t twin, const program::SymbolSizes& sizes,
                                   const program::SymbolSizes& twin_sizes, size_t symbols);

}  // namespace bitlab::deploy
