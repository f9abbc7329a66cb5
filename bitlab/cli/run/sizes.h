// The sizes that a command runs a model at.
#pragma once

#include <string>
#include <vector>

#include "bitlab/runtime/random_inputs.h"

namespace bitlab::cli {

// "name=number" each. Error: InvalidArgument (another form).
Result<std::vector<runtime::NamedSize>> named_sizes(const std::vector<std::string>& sizes);

// runtime::sizes_of these.
Result<program::SymbolSizes> symbol_sizes(const program::Program& program, int64_t batch,
                                          const std::vector<std::string>& sizes);

}  // namespace bitlab::cli
