// Runs another program of BitLab.
#pragma once

#include <string>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::cli {

// Runs the program `name` that lies beside this one and returns what it wrote to stdout; its stderr is ours. Errors: NotFound, IoError
// (it could not be started), Internal (it failed, with its exit code).
Result<std::string> run_sibling(const std::string& name, const std::vector<std::string>& arguments);

}  // namespace bitlab::cli
