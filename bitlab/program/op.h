// Operations as data: names, exactness and schemas, from ops.def.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::program {

enum class Op {
#define BITLAB_OP(name, exactness, inputs, attributes) name,
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

enum class Exactness { kSameKernel, kIeeeExact, kBounded };
enum class InputKind { kActivation, kFloatConstant, kFloat, kTernaryConstant /* or kept in int8 */, kIndex };
enum class AttributeKind { kInt, kSizes, kText, kFloat };  // in the order of program.h's Attribute

struct InputSchema {
  std::string name;
  InputKind kind;
  bool optional;
};

struct AttributeSchema {
  std::string name;
  AttributeKind kind;
};

struct OpSchema {
  std::string name;
  Exactness exactness;
  std::vector<InputSchema> inputs;
  std::vector<AttributeSchema> attributes;
};

std::span<const OpSchema> op_schemas();  // in the order of ops.def
const OpSchema& schema(Op op);
std::string_view name(Op op);
std::string_view name(Exactness exactness);  // "same_kernel", "ieee_exact", "bounded"
Result<Op> parse_op(std::string_view name);  // error: UnknownName

}  // namespace bitlab::program
