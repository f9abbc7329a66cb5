// Other programs.
#pragma once

#include <string>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab {

// What is read of a program: its standard output, its standard error being ours; or its errors, while it reads and writes nothing else.
enum class Capture { kOutput, kErrors };

struct Finished {
  int exit_code = 0;  // -1: a signal ended it
  std::string text;   // that was captured
};

// Runs a program, found as a shell finds it, with its arguments, and waits for its end. Errors: NotFound (no such program), IoError.
Result<Finished> run_process(const std::vector<std::string>& command, Capture capture);

}  // namespace bitlab
