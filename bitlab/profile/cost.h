// What a step of a program computes and moves, counted from its shapes.
#pragma once

#include <cstdint>
#include <string_view>

#include "bitlab/runtime/plan.h"

namespace bitlab::profile {

// What products multiply: activations in int8 by weights in ternary or int8, or floats. A node without products has none.
enum class Arithmetic { kNone, kInt8, kFloat32 };
std::string_view name(Arithmetic arithmetic);  // "none", "int8", "float32"

// Multiply-accumulates of a node, each a product and the addition of it, so two operations. y is the output, x the input:
//
//   linear, ternary_linear    elements(y) K, with K columns of the weight
//   conv, ternary_conv        elements(y) K, with K = taps channels / groups, padding counted; of a depthwise one K = taps.
//                             Transposed: elements(x) taps filters / groups
//   ternary_recurrent, recurrent   elements(x) K, of hidden states: x are the gates of all tokens, K the hidden size
//   matmul                    elements(y) k, for [..., m, k] by [..., k, n]
//   attention                 batch heads pairs (d + e), with the pairs of a query and a key that it may see: t s, or those up to the query
//                             where causal; states count as long as the context is
//   others                    0: they do little more than move values
//
// Counts saturate at program::kManyElements.
int64_t macs(const program::Program& program, const program::Node& node, const program::SymbolSizes& sizes);

// Of the products that macs() counts: int8 where the layer quantizes its activations.
Arithmetic arithmetic(const program::Node& node);

struct StepCost {
  int64_t macs = 0;   // of all nodes of the step
  int64_t bytes = 0;  // that it moves at least: each input, weight and output once
  Arithmetic arithmetic = Arithmetic::kNone;

  // Arithmetic intensity: operations a byte, 2 macs / bytes.
  double intensity() const { return bytes == 0 ? 0 : 2.0 * static_cast<double>(macs) / static_cast<double>(bytes); }
};

// Weights count as they lie in memory, packed and with their scales. What a step keeps to itself, between its nodes and in scratch, counts nothing.
// Of a table, and of what slice, take and gather read from, as much as the result takes counts; of states what `sizes` say that they hold.
StepCost cost(const runtime::Model& model, const runtime::Plan& plan, const runtime::PlannedStep& step,
              const program::SymbolSizes& sizes);

}  // namespace bitlab::profile
