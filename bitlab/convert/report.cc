#include "bitlab/convert/report.h"

#include <algorithm>
#include <array>

#include "bitlab/base/internal/json.h"

namespace bitlab::convert {

std::string_view name(Action action) {
  constexpr std::array<std::string_view, 5> kNames{"built", "replaced", "intercepted", "kept", "skipped"};
  return kNames.at(static_cast<size_t>(action));
}

int64_t ConversionReport::parameters() const {
  int64_t count = 0;
  for (const LayerReport& layer : layers) count += layer.parameters;
  return count;
}

int64_t ConversionReport::covered() const {
  int64_t count = 0;
  for (const LayerReport& layer : layers)
    if (layer.action != Action::kKept && layer.action != Action::kSkipped) count += layer.parameters;
  return count;
}

std::string ConversionReport::to_text() const {
  std::vector<std::array<std::string, 6>> table{{"layer", "type", "parameters", "action", "quantization", "reason"}};
  for (const LayerReport& l : layers)
    table.push_back({l.path, l.type, std::to_string(l.parameters), std::string(name(l.action)), l.quant, l.reason});
  std::array<size_t, 6> widths{};
  for (const auto& row : table)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : table) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  const double share = 100.0 * static_cast<double>(covered()) / static_cast<double>(std::max<int64_t>(1, parameters()));
  text += fmt::format("{} of {} parameters are ternary ({:.1f} %)\n", covered(), parameters(), share);
  for (const std::string& rule : unused_rules) text += fmt::format("{} fits no layer\n", rule);
  return text;
}

std::string ConversionReport::to_json() const {
  Json list = Json::array();
  for (const LayerReport& l : layers)
    list.push_back({{"path", l.path},
                    {"type", l.type},
                    {"action", name(l.action)},
                    {"reason", l.reason},
                    {"quant", l.quant},
                    {"parameters", l.parameters}});
  return json_text({{"layers", list}, {"parameters", parameters()}, {"covered", covered()}, {"unused_rules", unused_rules}},
                   2);
}

}  // namespace bitlab::convert
