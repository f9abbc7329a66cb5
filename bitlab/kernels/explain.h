// Every list of kernels as text: what `bitlab kernels` shows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

struct RowInfo {
  std::string op, row, layout;  // layout is empty where an op has none
  std::string needs;            // CPU features, "" for none
  bool built;
};

// The ops that have a list, for help and errors: "ternary_gemm, activation_quant, ...".
std::string kernel_ops();

// Every row of every list, in order.
std::vector<RowInfo> list_kernels();

// UnknownName where a part of `restrict_to` names no row: it would restrict nothing, or everything.
Status check_policy(const Policy& policy);

// What is asked for: an op, and the shape of the product if that is ternary_gemm; the others' verdicts depend on no shape.
struct Question {
  std::string op;  // empty: every op
  int64_t tokens = 1, rows = 2048, depth = 2048;
  int64_t group = 0;        // k that share a scale; 0: one scale a row
  bool asymmetric = false;  // two scales a row
};

struct Answer {
  std::string op, layout;
  std::vector<RowVerdict> verdicts;
  bool chosen = false;  // whether a row can serve
};

// The verdict on every row of the op's list, or of every list. Error: UnknownName, listing the ops.
Result<std::vector<Answer>> explain_kernels(const Question& question, const Machine& machine, const Policy& policy);

}  // namespace bitlab::kernels
