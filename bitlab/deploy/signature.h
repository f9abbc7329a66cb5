// What a network takes, from an example and the sizes that differ from run to run; and inputs of other sizes, made of the example.
#pragma once

#include <optional>

#include "bitlab/nn/named_tensors.h"
#include "bitlab/program/shape.h"

namespace bitlab::deploy {

using nn::Forward;
using nn::NamedTensors;
using program::Signature;

// Integers that programs have no type of: they compute with int32, and cut off what an operator makes, as LibTorch does.
inline bool is_narrow(at::ScalarType type) { return type == at::kByte || type == at::kChar || type == at::kShort; }
program::DType dtype_of(at::ScalarType type);  // Throws Unsupported, for others than those of DType.
at::ScalarType scalar_type(program::DType dtype);
// The type that a program takes an input of a tensor's type in: integers of fewer than 32 bits as int32, float64 as float32. Throws as dtype_of().
program::DType input_dtype(at::ScalarType type);

// The inputs of `example`: those that `declared` names, with its shapes; without it every input has the batch as its first size. An example is
// on the CPU, and has at least one element of each size. Errors: InvalidArgument (a name that is missing or unknown, another dtype, device, rank
// or size, one symbol with two sizes).
Result<Signature> signature_of(const NamedTensors& example, const std::optional<Signature>& declared);

// Sizes for two recordings, and for a third one where the ranges have so many: of each symbol two primes, no two the same, so that sizes in the recordings tell
// which product of symbols they are a multiple of, and a multiple of 12, by which parts of them are told. Those of a symbol are next to each other, or, where `apart`, half as much again. Error: Unsupported, for
// a range without two such numbers.
Result<std::vector<program::SymbolSizes>> recording_sizes(const program::Symbols& symbols,
                                                          const program::SymbolSizes& least = program::kOnes,
                                                          bool apart = false);

// The largest size of each symbol that has a bound; of others, that in `otherwise`.
program::SymbolSizes largest_sizes(const program::Symbols& symbols, const program::SymbolSizes& otherwise);

// The example's elements, repeated in turn or cut so that symbols have the given sizes.
NamedTensors resized(const Signature& signature, const NamedTensors& example, const program::SymbolSizes& sizes);

// The size that is `found` at each of these sizes of symbols, two or three from recording_sizes: a multiple of a product of symbols; or else one of these
// and of the sums that are `known`; or else a multiple of either with a number added, the smallest there is; or else a whole part of one, or of
// that a multiple which is no larger or no smaller than the whole. Nothing where it is none of them.
std::optional<program::Dim> dim_of(std::span<const int64_t> found, std::span<const program::SymbolSizes> sizes,
                                   size_t symbols, std::span<const program::Dim> known = {});
// All forms of these, best first: parts that are rounded may be the same at these sizes, and differ at others.
std::vector<program::Dim> dims_of(std::span<const int64_t> found, std::span<const program::SymbolSizes> sizes,
                                  size_t symbols, std::span<const program::Dim> known = {});
// Sizes of symbols, from the least ones on, at which most of these forms differ: `otherwise`, but for one symbol. Nothing where they do not differ.
std::optional<program::SymbolSizes> telling_sizes(std::span<const program::Dim> forms, const program::Symbols& symbols,
                                                  const program::SymbolSizes& least, const program::SymbolSizes& otherwise);

}  // namespace bitlab::deploy
