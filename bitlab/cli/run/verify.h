// bitlab verify, of two files.
#pragma once

#include <string>
#include <vector>

#include "bitlab/cli/program.h"

namespace bitlab::cli {

struct VerifyOptions {
  std::string model, other;
  int64_t samples = 64;
  uint32_t seed = 1;
  double tolerance = 0;
  std::vector<std::string> sizes;
};
// The command and its options, without what it does.
CLI::App* declare_verify(CLI::App& app, VerifyOptions& options);
// Prints what differs. Error: Different, saying the first.
Status verify_files(const VerifyOptions& options);

}  // namespace bitlab::cli
