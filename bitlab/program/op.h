// Operations as data: names, exactness and schemas, from ops.def.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/listed.h"
#include "bitlab/base/result.h"

// The operations that a build has, with a space between; all, unless the build was given some.
#ifndef BITLAB_OPS
#define BITLAB_OPS ""
#endif

namespace bitlab::program {

enum class Op {
#define BITLAB_OP(name, exactness, layout, inputs, attributes) name,
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

enum class Exactness { kSameKernel, kIeeeExact, kBounded };
// How the runtime's step of an operation reads and writes images (ops.def).
enum class ImageLayout { kRowMajor, kChannelsLast, kKept, kStrided };
enum class InputKind {
  kActivation,
  kFloatConstant,
  kFloat,
  kAny,
  kTernaryConstant,  // or kept in int8
  kIndex,
  kMask,
  kState,
  kStep,
};
enum class AttributeKind { kInt, kSizes, kText, kFloat, kShape };  // in the order of program.h's Attribute

struct InputSchema {
  std::string name;
  InputKind kind;
  bool optional;
  bool variadic;  // one or more
};

struct AttributeSchema {
  std::string name;
  AttributeKind kind;
  std::optional<int64_t> otherwise;  // of an integer that may be left out
};

struct OpSchema {
  std::string name;
  Exactness exactness;
  ImageLayout layout;
  std::vector<InputSchema> inputs;
  std::vector<AttributeSchema> attributes;

  // What the input in a place is; places behind the last are of a variadic one.
  const InputSchema& input(size_t place) const { return inputs[std::min(place, inputs.size() - 1)]; }
  bool is_variadic() const { return !inputs.empty() && inputs.back().variadic; }
  // The place of the input that is a weight of integers; nothing where there is none.
  std::optional<size_t> weight() const;
};

// The place of a named input. A name that the row of ops.def does not have does not compile.
consteval size_t input_of(Op op, std::string_view name) {
  constexpr std::string_view kInputs[] = {
#define BITLAB_OP(name, exactness, layout, inputs, attributes) inputs,
#include "bitlab/program/ops.def"
#undef BITLAB_OP
  };
  std::string_view left = kInputs[static_cast<size_t>(op)];
  for (size_t place = 0; !left.empty(); ++place) {
    const std::string_view input = left.substr(0, left.find(' '));
    if (input.substr(0, input.find_first_of(":?*")) == name) return place;
    left.remove_prefix(std::min(left.size(), input.size() + 1));
  }
  std::abort();  // not a constant expression
}

std::span<const OpSchema> op_schemas();  // in the order of ops.def
const OpSchema& schema(Op op);
std::string_view name(Op op);
std::string_view name(Exactness exactness);                // "same_kernel", "ieee_exact", "bounded"
Result<Exactness> parse_exactness(std::string_view name);  // error: UnknownName
Result<Op> parse_op(std::string_view name);                // error: UnknownName

}  // namespace bitlab::program
