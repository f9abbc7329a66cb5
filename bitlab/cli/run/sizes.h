// The sizes that a command runs a model at.
#pragma once

#include <string>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::cli {

// The batch, and "name=number" for other symbols, each of which is otherwise at its least size. States hold as many positions as one run appends.
// Errors: InvalidArgument (another form, a symbol that the program lacks, a size outside its range).
Result<program::SymbolSizes> symbol_sizes(const program::Program& program, int64_t batch,
                                          const std::vector<std::string>& sizes);

}  // namespace bitlab::cli
