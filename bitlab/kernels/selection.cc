#include "bitlab/kernels/selection.h"

#include <array>
#include <cstdlib>

namespace bitlab::kernels {

std::string_view name(Verdict verdict) {
  constexpr std::array<std::string_view, 7> kNames{"Chosen",           "Slower",         "NotBuilt",        "MissingFeature",
                                                   "ShapeNotAccepted", "LayoutMismatch", "DisabledByPolicy"};
  return kNames.at(static_cast<size_t>(verdict));
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

std::string explain(std::span<const RowVerdict> verdicts) {
  std::string text;
  for (const RowVerdict& v : verdicts) {
    if (!text.empty()) text += "; ";
    text += fmt::format("{}: {}", v.row, name(v.verdict));
    if (!v.reason.empty()) text += fmt::format(" ({})", v.reason);
  }
  return text;
}

Error no_kernel(std::string_view op, std::string_view problem, std::span<const RowVerdict> verdicts) {
  return make_error(ErrorCode::kNoKernel, "[{}] a kernel for {}, got none: {}", op, problem, explain(verdicts));
}

}  // namespace bitlab::kernels
