// Choosing a kernel: a pure function of the list of rows, the problem, the machine and the policy. Every row gets a verdict, so
// that a choice can be explained and a refusal says why.
#pragma once

#include <algorithm>
#include <any>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/machine.h"
#include "bitlab/base/result.h"

// BITLAB_BUILT_FOR_<target>(function): the function where the build is for that target, null elsewhere. A row of another
// architecture stays in its list.
#define BITLAB_BUILT_FOR_any(function) function
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

namespace bitlab::kernels {

enum class Verdict { kChosen, kSlower, kNotBuilt, kMissingFeature, kShapeNotAccepted, kLayoutMismatch, kDisabledByPolicy };

std::string_view name(Verdict verdict);  // "Chosen", "MissingFeature"

// The kernels of one op. What every Row has: `const char* name; FeatureSet needs; Fn* run` (null: not part of this build).
template <class Row>
struct KernelList {
  const char* op;
  std::span<const Row> rows;
};

// Says which rows are candidates: those of an op's list and the caller's own, unless it restricts them.
struct Policy {
  // A list like "ternary_gemm:x86_avx2,float_gemm:reference": an op that it names keeps only rows whose name begins with the text behind
  // the colon.
  std::string restrict_to;

  struct ExtraRow {
    std::string_view op;
    std::any row;  // const Row*, of the op's list
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
  // The rows of the list, then those that were added to it.
  template <class Row>
  std::vector<const Row*> candidates(const KernelList<Row>& list) const {
    std::vector<const Row*> rows;
    for (const Row& row : list.rows) rows.push_back(&row);
    for (const ExtraRow& extra : extra_rows)
      if (const auto* row = std::any_cast<const Row*>(&extra.row); row != nullptr && extra.op == list.op)
        rows.push_back(*row);
    return rows;
  }
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
Error no_kernel(std::string_view op, std::string_view problem, std::span<const RowVerdict> verdicts);

// `refuse(row)` returns the verdict and reason of a row that cannot serve the problem, `cost(row)` its relative time; the first of the
// cheapest rows is chosen.
template <class Row, class Refuse, class Cost>
Selection<Row> select_row(const KernelList<Row>& list, const Machine& machine, const Policy& policy, Refuse refuse,
                          Cost cost) {
  Selection<Row> selection;
  size_t best = 0;
  for (const Row* candidate : policy.candidates(list)) {
    const Row& row = *candidate;
    RowVerdict verdict{row.name, Verdict::kSlower, "", 0};
    if (!policy.allows(list.op, row.name)) {
      verdict = {row.name, Verdict::kDisabledByPolicy, "restricted to '" + policy.restrict_to + "'", 0};
    } else if (row.run == nullptr) {
      verdict = {row.name, Verdict::kNotBuilt, "not part of this build", 0};
    } else if (const FeatureSet missing = row.needs.minus(machine.features); !missing.empty()) {
      verdict = {row.name, Verdict::kMissingFeature, "the machine lacks " + missing.to_string(), 0};
    } else if (std::optional<RowVerdict> refused = refuse(row)) {
      verdict = *std::move(refused);
      verdict.row = row.name;
    } else {
      verdict.cost = cost(row);
      if (selection.row == nullptr || verdict.cost < selection.verdicts[best].cost) {
        best = selection.verdicts.size();
        selection.row = &row;
      }
    }
    selection.verdicts.push_back(std::move(verdict));
  }
  for (size_t i = 0; i < selection.verdicts.size() && selection.row != nullptr; ++i) {
    RowVerdict& verdict = selection.verdicts[i];
    if (i == best) {
      verdict.verdict = Verdict::kChosen;
    } else if (verdict.verdict == Verdict::kSlower) {
      verdict.reason =
          fmt::format("{:.1f} times the cost of {}", verdict.cost / selection.verdicts[best].cost, selection.row->name);
    }
  }
  return selection;
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
