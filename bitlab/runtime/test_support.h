// For tests of the runtime.
#pragma once

#include <memory>
#include <vector>

#include "bitlab/runtime/session.h"

namespace bitlab::runtime::test {

// What the standard library allocated so far, on all threads: states_test.cc counts.
int64_t allocations();

inline const program::Attributes kInt8{{"activation", std::string("int8")}};

inline std::unique_ptr<Session> session_of(program::Program p, int threads = 1) {
  return Session::create(Model::create(std::move(p)).value(), {threads, {}}).value();
}

inline int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

// The elements of a float32 result.
inline std::vector<float> floats_of(const TensorView& view) { return {view.as(), view.as() + count_of(view.shape)}; }

}  // namespace bitlab::runtime::test
