// What the forms of operations in C have in common.
#pragma once

#include <string_view>
#include <vector>

#include "bitlab/format/c/internal/emitter.h"

namespace bitlab::format::c {

// An operation, and what emits it.
struct Row;
using Emit = Status (*)(Emitter&, const program::Node&, const Row&);
struct Row {
  program::Op op;
  Emit emit;
  std::string_view floats{};    // the formula of a, b, c
  std::string_view integers{};  // the same of integers; T is their type, U the one without sign
  bool libm = false;            // whether the C library has a part in the result
};

// products.cc
Status ternary_linear(Emitter& e, const program::Node& node, const Row& row);
Status ternary_conv(Emitter& e, const program::Node& node, const Row& row);
Status ternary_recurrent(Emitter& e, const program::Node& node, const Row& row);
Status ternary_embedding(Emitter& e, const program::Node& node, const Row& row);
Status linear(Emitter& e, const program::Node& node, const Row& row);
Status conv(Emitter& e, const program::Node& node, const Row& row);
Status recurrent(Emitter& e, const program::Node& node, const Row& row);
Status embedding(Emitter& e, const program::Node& node, const Row& row);
Status matmul(Emitter& e, const program::Node& node, const Row& row);
Status attention(Emitter& e, const program::Node& node, const Row& row);

// Error: Unsupported, naming the node.
Error refuse(const program::Node& node, std::string_view why);
// The product of the sizes from `begin` to `end`.
int64_t volume(const std::vector<int64_t>& sizes, size_t begin, size_t end);

}  // namespace bitlab::format::c
