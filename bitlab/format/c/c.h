// A program as source in C99, for machines without an operating system: one function, its weights as constants, no heap.
//
//   int <name>_run(const float *in_<input>, ..., float *out_<output>, ...);
//
// Values are row-major. The arithmetic is that of docs/numerics.md, so the results have the runtime's bits; functions of the C library (exp, tanh, ...),
// where the program has them, make them equal within rounding. Memory is static: what the values that live at the same time take.
#pragma once

#include <string>

#include "bitlab/program/program.h"

namespace bitlab::format::c {

struct Options {
  std::string name;              // an identifier in C, which all names begin with
  std::string variant = "2bit";  // how weights are packed: "2bit", four a byte; "base3", five
  program::SymbolSizes sizes = program::kOnes;
};

struct Source {
  std::string header, source;  // `header` is included as "<name>.h"
};

// What a name becomes as an identifier in C.
std::string identifier(std::string_view name);

// The program must be verified. Errors: Unsupported, naming the node or value: an operation without a form in C, states, float16 and bfloat16
// activations, more than 2^31 bytes.
Result<Source> serialize(const program::Program& program, const Options& options);

}  // namespace bitlab::format::c
