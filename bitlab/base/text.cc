#include "bitlab/base/text.h"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/core.h>

namespace bitlab {

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

std::string one_line(std::string_view text) {
  std::string shown(text);
  std::replace_if(
      shown.begin(), shown.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return shown;
}

namespace {

struct Column {
  size_t width = 0;
  bool numbers = true;  // aligned to the right
};

std::string padded(const std::string& cell, const Column& column) {
  return column.numbers ? fmt::format("{:>{}}", cell, column.width) : fmt::format("{:<{}}", cell, column.width);
}

}  // namespace

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<Column> columns;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i >= columns.size()) columns.emplace_back();
      columns[i].width = std::max(columns[i].width, row[i].size());
      const bool number = row[i].empty() || std::isdigit(static_cast<unsigned char>(row[i][0])) != 0 || row[i][0] == '-';
      if (&row != &rows.front() && !number) columns[i].numbers = false;
    }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += (i == 0 ? "" : "  ") + padded(row[i], columns[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
    if (&row != &rows.front()) continue;
    size_t width = 0;
    for (const Column& column : columns) width += column.width + 2;
    text += std::string(width - 2, '-') + '\n';
  }
  return text;
}

}  // namespace bitlab
