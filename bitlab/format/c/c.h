// A program as source in C99, for machines without an operating system: one function, its weights as constants, no heap.
//
//   int <name>_run(const float *in_<input>, ..., float *out_<output>, ...);
//   void <name>_run_integers(const int8_t *in_<input>, ..., int32_t *out_<output>, ...);   of variants in integers
//
// Values are row-major. The arithmetic is that of docs/numerics.md, so the results have the runtime's bits; functions of the C library (exp, tanh, ...),
// where the program has them, make them equal within rounding. In integers (docs/decisions/0041) values are requantized by a factor and a shift: results
// are the same everywhere, and differ from the runtime's by that rounding. Memory is static: what the values that live at the same time take.
#pragma once

#include <string>

#include "bitlab/program/program.h"

namespace bitlab::format::c {

struct Options {
  std::string name;  // an identifier in C, which all names begin with
  std::string variant =
      "2bit";  // how weights are packed: "2bit", four a byte; "base3", five; "integer", "integer_base3": so, and in integers
  program::SymbolSizes sizes = program::kOnes;
};

struct Source {
  std::string header, source;  // `header` is included as "<name>.h"
};

// What a name becomes as an identifier in C.
std::string identifier(std::string_view name);

// The program must be verified. Errors: Unsupported, naming the node or value: an operation without a form in C, states, float16 and bfloat16
// activations, more than 2^31 bytes; in integers what needs floats: activations without static steps, float weights, functions.
Result<Source> serialize(const program::Program& program, const Options& options);

}  // namespace bitlab::format::c
