// For tests: what a program computes, as bytes.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "bitlab/runtime/session.h"

namespace bitlab::runtime {

// All outputs, one behind the other.
inline std::string output_bytes(const program::Program& p, const program::SymbolSizes& sizes,
                                const std::vector<TensorView>& inputs, int threads) {
  const auto session = Session::create(Model::create(p).value(), {threads, {}}).value();
  const auto outputs = session->run(inputs);
  EXPECT_TRUE(outputs.ok()) << outputs.error().message;
  std::string bytes;
  for (size_t i = 0; outputs.ok() && i < outputs->size(); ++i) {
    const program::Value& v = p.value(p.outputs[i].value);
    bytes.append((*outputs)[i].as<char>(), static_cast<size_t>(elements(v.shape, sizes) * size_of(v.dtype)));
  }
  return bytes;
}

}  // namespace bitlab::runtime
