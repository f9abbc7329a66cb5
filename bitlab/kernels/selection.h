// Choosing a kernel: a pure function of the list of rows, the problem, the machine and the policy. Every row gets a verdict, so
// that a choice can be explained and a refusal says why.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bitlab/base/listed.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/result.h"

// BITLAB_BUILT_FOR_<target>(function): the function where the build is for that target, null elsewhere. A row of another
// architecture stays in its list.
#define BITLAB_BUILT_FOR_any(function) function
// A reference beside a row for NEON, which every 64-bit Arm has: only where code need not be small.
#if defined(__aarch64__) && defined(BITLAB_FEW_TILES)
#define BITLAB_BUILT_FOR_spare(function) (bitlab::kernels::has_isa_of("arm_neon") ? nullptr : function)
#else
#define BITLAB_BUILT_FOR_spare(function) function
#endif
#if defined(__x86_64__)
#define BITLAB_BUILT_FOR_x86(function) function
#define BITLAB_BUILT_FOR_arm(function) nullptr
#elif defined(__aarch64__)
#define BITLAB_BUILT_FOR_x86(function) nullptr
#define BITLAB_BUILT_FOR_arm(function) function
#else
#define BITLAB_BUILT_FOR_x86(function) nullptr
#define BITLAB_BUILT_FOR_arm(function) nullptr
#endif

// BITLAB_BUILT(name, target, function): the same, and null where the row's instruction set, with which its name begins, is left out of the build.
#ifndef BITLAB_ISA
#define BITLAB_ISA ""
#endif
#define BITLAB_BUILT(name, target, function) \
  (bitlab::kernels::has_isa_of(#name) ? BITLAB_BUILT_FOR_##target(function) : nullptr)

namespace bitlab::kernels {

// Whether kernels of that name are built: of "arm_dotprod" where arm_dotprod is, of "reference" always.
constexpr bool has_isa_of(std::string_view row) {
  const size_t architecture = row.find('_');
  return architecture == std::string_view::npos || is_listed(BITLAB_ISA, row.substr(0, row.find('_', architecture + 1)));
}

enum class Verdict { kChosen, kSlower, kNotBuilt, kMissingFeature, kShapeNotAccepted, kLayoutMismatch, kDisabledByPolicy };

std::string_view name(Verdict verdict);  // "Chosen", "MissingFeature"

// The kernels of one op. What every Row has: `const char* name; FeatureSet needs; Fn* run` (null: not part of this build).
template <class Row>
struct KernelList {
  const char* op;  // of one list alone
  std::span<const Row> rows;
};

// Says which rows are candidates: those of an op's list and the caller's own, unless it restricts them.
struct Policy {
  // A list like "ternary_gemm:x86_avx2,float_gemm:reference": an op that it names keeps only rows whose name begins with the text behind
  // the colon.
  std::string restrict_to;

  struct ExtraRow {
    std::string_view op;
    const void* row;  // const Row*, of the op's list
  };
  std::vector<ExtraRow> extra_rows{};

  // Adds a row of the caller's own, which is judged behind those of the list by the same rules (examples/custom_kernel). It must outlive what
  // is selected with it.
  template <class Row>
  void add(const KernelList<Row>& list, const Row& row) {
    extra_rows.push_back({list.op, &row});
  }
  template <class Row>
  void add(const KernelList<Row>& list, const Row&& row) = delete;
  // `count` rows of a list, each `size` bytes behind the other, then those that were added to it.
  std::vector<const void*> candidates(std::string_view op, const void* rows, size_t count, size_t size) const;
  // Reads BITLAB_KERNEL.
  static Policy from_environment();
  bool allows(std::string_view op, std::string_view row) const;
};

struct RowVerdict {
  std::string row;
  Verdict verdict = Verdict::kSlower;
  std::string reason;  // empty for Chosen
  double cost = 0;     // relative; meaningful for Chosen and Slower
};

template <class Row>
struct Selection {
  const Row* row = nullptr;  // null where no row can serve
  std::vector<RowVerdict> verdicts;
};

// "row: Verdict (reason)" lines, for errors and for `kernels explain`.
std::string explain(std::span<const RowVerdict> verdicts);
Failure no_kernel(std::string_view op, std::string_view problem, std::span<const RowVerdict> verdicts);

// What a choice depends on, of a row of any kernel.
struct Candidate {
  const char* name;
  FeatureSet needs;
  bool is_built;
  std::optional<RowVerdict> refused;  // the verdict and reason of a row that cannot serve the problem
  double cost;                        // relative time
};

struct Choice {
  std::optional<size_t> chosen;  // the first of the cheapest candidates
  std::vector<RowVerdict> verdicts;
};

Choice choose(std::string_view op, std::span<const Candidate> candidates, const Machine& machine, const Policy& policy);

// `refuse(row)` returns what Candidate::refused says, `cost(row)` its relative time.
template <class Row, class Refuse, class Cost>
Selection<Row> select_row(const KernelList<Row>& list, const Machine& machine, const Policy& policy, Refuse refuse,
                          Cost cost) {
  const std::vector<const void*> rows = policy.candidates(list.op, list.rows.data(), list.rows.size(), sizeof(Row));
  std::vector<Candidate> candidates;
  for (const void* any : rows) {
    const Row& row = *static_cast<const Row*>(any);
    candidates.push_back({row.name, row.needs, row.run != nullptr, refuse(row), cost(row)});
  }
  Choice choice = choose(list.op, candidates, machine, policy);
  return {choice.chosen ? static_cast<const Row*>(rows[*choice.chosen]) : nullptr, std::move(choice.verdicts)};
}

// The chosen row, or NoKernel with the verdicts.
template <class Row>
Result<const Row*> chosen(std::string_view op, std::string_view problem, const Selection<Row>& selection) {
  if (selection.row == nullptr) return no_kernel(op, problem, selection.verdicts);
  return selection.row;
}

// Kernels of an op that differ in speed alone.
template <class Kernel>
struct KernelRow {
  const char* name;
  FeatureSet needs;
  double cost;  // nanoseconds for each element or product
  Kernel* run;  // null: not part of this build
};

template <class Kernel>
Selection<KernelRow<Kernel>> explain(const KernelList<KernelRow<Kernel>>& list, const Machine& machine,
                                     const Policy& policy) {
  return select_row(
      list, machine, policy, [](const KernelRow<Kernel>&) { return std::optional<RowVerdict>(); },
      [](const KernelRow<Kernel>& row) { return row.cost; });
}

template <class Kernel>
Result<const KernelRow<Kernel>*> select(const KernelList<KernelRow<Kernel>>& list, const Machine& machine,
                                        const Policy& policy) {
  return chosen(list.op, "any shape", explain(list, machine, policy));
}

}  // namespace bitlab::kernels
