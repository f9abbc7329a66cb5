// Why a network cannot be captured, in words that whoever wrote it can act on.
#pragma once

#include "bitlab/deploy/internal/recording.h"

namespace bitlab::deploy {

// Whether both recordings have the same operator as their call number i. Error: Unsupported.
Status check_same_call(const Recordings& recordings, size_t i);

// How another recording's operators differ from those of the first one; nothing where they do not.
std::optional<Error> other_calls(const Recordings& recordings, const Recording& other, const program::SymbolSizes& sizes);

// The error of lowering a call, with its line. Where the recordings have other operators, that is why; what is found before may follow from it, but for
// an operator that nothing lowers.
Error explained(const Recordings& recordings, size_t from, Error error);

// Of an operator that has no lowering.
Error unknown_operator(const Call& call);

}  // namespace bitlab::deploy
