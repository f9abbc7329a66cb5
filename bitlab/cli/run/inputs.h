// What a command feeds a model, for every input of it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bitlab/runtime/session.h"

namespace bitlab::cli {

class Inputs {
 public:
  // Random values, the same each time: normal ones of floats, others of 0 and 1, which any table has.
  Inputs(const program::Program& program, const program::SymbolSizes& sizes);

  // Reads inputs from files, "name=file" each, that hold the elements as they lie in memory, row-major and little-endian. The others stay as they are.
  // Errors: InvalidArgument (another form, a name that is no input), ShapeMismatch (another number of bytes), those of read_file().
  Status read(const std::vector<std::string>& files);

  std::span<const runtime::TensorView> views() const { return views_; }

 private:
  std::vector<std::string> names_;
  std::vector<std::vector<uint8_t>> data_;
  std::vector<runtime::TensorView> views_;
};

}  // namespace bitlab::cli
