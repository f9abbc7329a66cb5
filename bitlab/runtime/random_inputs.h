// Inputs for a program that is tried out: its sizes, and values that look like something.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::runtime {

using NamedSize = std::pair<std::string, int64_t>;

// The batch, and sizes of other symbols by name, each of which is otherwise at its least size. States hold as many positions as one run appends.
// Errors: InvalidArgument (a symbol that the program lacks, a size outside its range).
Result<program::SymbolSizes> sizes_of(const program::Program& program, int64_t batch, const std::vector<NamedSize>& sizes);

// The elements of each input, row-major, the same for the same seed: normal ones of floats, others of 0 and 1, which any table has.
std::vector<std::vector<uint8_t>> random_inputs(const program::Program& program, const program::SymbolSizes& sizes,
                                                uint32_t seed = 1);

}  // namespace bitlab::runtime
