#include "bitlab/kernels/selection.h"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace bitlab::kernels {

std::string_view name(Verdict verdict) {
  constexpr std::array<std::string_view, 7> kNames{"Chosen",           "Slower",         "NotBuilt",        "MissingFeature",
                                                   "ShapeNotAccepted", "LayoutMismatch", "DisabledByPolicy"};
  return kNames.at(static_cast<size_t>(verdict));
}

std::vector<const void*> Policy::candidates(std::string_view op, const void* rows, size_t count, size_t size) const {
  std::vector<const void*> all;
  for (size_t i = 0; i < count; ++i) all.push_back(static_cast<const char*>(rows) + i * size);
  for (const ExtraRow& extra : extra_rows)
    if (extra.op == op) all.push_back(extra.row);
  return all;
}

Policy Policy::from_environment() {
  const char* text = std::getenv("BITLAB_KERNEL");
  return {text == nullptr ? "" : text};
}

bool Policy::allows(std::string_view op, std::string_view row) const {
  bool named = false;
  for (std::string_view rest = restrict_to; !rest.empty();) {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view item = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    const size_t colon = item.find(':');
    if (colon == std::string_view::npos || item.substr(0, colon) != op) continue;
    if (row.starts_with(item.substr(colon + 1))) return true;
    named = true;
  }
  return !named;
}

Choice choose(std::string_view op, std::span<const Candidate> candidates, const Machine& machine, const Policy& policy) {
  Choice choice;
  for (const Candidate& candidate : candidates) {
    RowVerdict verdict{candidate.name, Verdict::kSlower, "", 0};
    if (!policy.allows(op, candidate.name)) {
      verdict = {candidate.name, Verdict::kDisabledByPolicy, "restricted to '" + policy.restrict_to + "'", 0};
    } else if (!candidate.is_built) {
      verdict = {candidate.name, Verdict::kNotBuilt, "not part of this build", 0};
    } else if (const FeatureSet missing = candidate.needs.minus(machine.features); !missing.empty()) {
      verdict = {candidate.name, Verdict::kMissingFeature, "the machine lacks " + missing.to_string(), 0};
    } else if (candidate.refused) {
      verdict = *candidate.refused;
      verdict.row = candidate.name;
    } else {
      verdict.cost = candidate.cost;
      if (!choice.chosen || verdict.cost < choice.verdicts[*choice.chosen].cost) choice.chosen = choice.verdicts.size();
    }
    choice.verdicts.push_back(std::move(verdict));
  }
  if (!choice.chosen) return choice;
  RowVerdict& best = choice.verdicts[*choice.chosen];
  best.verdict = Verdict::kChosen;
  for (RowVerdict& verdict : choice.verdicts)
    if (verdict.verdict == Verdict::kSlower)
      verdict.reason = fmt::format("{:.1f} times the cost of {}", verdict.cost / best.cost, best.row);
  return choice;
}

std::string explain(std::span<const RowVerdict> verdicts) {
  std::string text;
  for (const RowVerdict& v : verdicts) {
    if (!text.empty()) text += "; ";
    text += fmt::format("{}: {}", v.row, name(v.verdict));
    if (!v.reason.empty()) text += fmt::format(" ({})", v.reason);
  }
  return text;
}

Failure no_kernel(std::string_view op, std::string_view problem, std::span<const RowVerdict> verdicts) {
  return make_error(ErrorCode::kNoKernel, "[{}] a kernel for {}, got none: {}", op, problem, explain(verdicts));
}

}  // namespace bitlab::kernels
