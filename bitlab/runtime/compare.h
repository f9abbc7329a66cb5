// Two programs beside each other: what they take and give, their weights, and what they compute.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitlab/runtime/random_inputs.h"

namespace bitlab::runtime {

struct CompareOptions {
  int64_t samples = 4;             // the batch of random inputs
  uint32_t seed = 1;               // of these
  std::vector<NamedSize> sizes{};  // of symbols of the first program; the others are at their least
};

struct OutputDifference {
  std::string name;
  int64_t count = 0;      // of values
  int64_t different = 0;  // of them not equal bit by bit
  double largest = 0;     // |difference|, of values as float64; infinite where one is NaN and the other is not
  double magnitude = 0;   // largest |value| of the first program
};

struct Comparison {
  std::string signature;  // how inputs and outputs differ; empty where they do not
  std::string weight;     // the first tensor that differs, by name, and how; empty where none does
  double weights = 0;     // largest difference of float weights
  std::string
      node;  // the first node that is another one. That alone makes no difference: formats write one thing in several ways
  std::vector<OutputDifference> outputs;  // empty where the inputs of one do not fit the other

  // Whether all is the same, outputs up to `tolerance` times their largest value. 0: to the bit.
  bool is_equal(double tolerance = 0) const;
  // The first difference, as a sentence; empty where is_equal(tolerance).
  std::string first(double tolerance = 0) const;
};

// Weights are paired in the order in which nodes read them: those of integers with codes and scales, which are the same or not, and float tensors of more
// than one value. Then both run on the same random inputs. Errors: InvalidArgument (a size), those of Model::create and of the runs.
Result<Comparison> compare(const program::Program& a, const program::Program& b, const CompareOptions& options = {});

}  // namespace bitlab::runtime
