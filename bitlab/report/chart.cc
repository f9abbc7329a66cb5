#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/core.h>

#include "bitlab/report/page.h"

namespace bitlab::report {
namespace {

constexpr double kChartWidth = 560, kChartHeight = 300, kLeftEdge = 62, kRightEdge = 24, kTopEdge = 12, kBottomEdge = 40;
constexpr int kColours = 8;

// A linear axis whose ends are round numbers, a tick apart.
struct LinearAxis {
  double least, most, tick;
  double begin, end;  // where they are drawn

  static LinearAxis around(double low, double high, double begin, double end) {
    constexpr double kTicks = 5;
    // Equal numbers, and those that are so large that nothing fits between them, get room.
    const double size = std::max(std::fabs(low), std::fabs(high)), room = size > 0 ? size * 1e-3 : 1;
    if (high - low < room) low -= room, high += room;
    const double raw = (high - low) / kTicks, decade = std::pow(10, std::floor(std::log10(raw)));
    const double tick = decade * (raw <= 1.5 * decade ? 1 : raw <= 3 * decade ? 2 : raw <= 7 * decade ? 5 : 10);
    return {std::floor(low / tick) * tick, std::ceil(high / tick) * tick, tick, begin, end};
  }
  double at(double value) const { return begin + (value - least) / (most - least) * (end - begin); }
  int ticks() const { return static_cast<int>(std::lround((most - least) / tick)); }
  // A tick as text: 0, not the rounding error of a sum.
  std::string label(int i) const {
    const double value = least + i * tick;
    return fmt::format("{:.6g}", std::fabs(value) < tick * 1e-6 ? 0 : value);
  }
};

bool is_drawn(const std::pair<double, double>& point) {
  constexpr double kMost = 1e300;  // so that differences are finite
  return std::fabs(point.first) < kMost && std::fabs(point.second) < kMost;
}

std::string chart_grid(const LinearAxis& x, const LinearAxis& y, const std::string& x_label) {
  std::string text;
  for (int i = 0; i <= x.ticks(); ++i) {
    const double at = x.at(x.least + i * x.tick);
    text += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4}</text>\n",
        at, kTopEdge, kChartHeight - kBottomEdge, kChartHeight - kBottomEdge + 16, x.label(i));
  }
  for (int i = 0; i <= y.ticks(); ++i) {
    const double at = y.at(y.least + i * y.tick);
    text += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5}</text>\n",
        kLeftEdge, kChartWidth - kRightEdge, at, kLeftEdge - 6, at + 4, y.label(i));
  }
  return text + fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeftEdge + kChartWidth) / 2,
                            kChartHeight - 6, escaped(x_label));
}

// A polyline, and a dot for each point where there are few: one alone would not be seen.
std::string chart_line(const Series& series, const LinearAxis& x, const LinearAxis& y, int colour) {
  constexpr size_t kFew = 60;
  std::string path, dots;
  for (const auto& point : series.points) {
    if (!is_drawn(point)) continue;
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x.at(point.first), y.at(point.second));
    if (series.points.size() <= kFew)
      dots += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"var(--c{})\"><title>{}: {:.6g} at {:g}</title></circle>\n",
          x.at(point.first), y.at(point.second), colour, escaped(series.name), point.second, point.first);
  }
  return fmt::format("<polyline class=\"line{}\" stroke=\"var(--c{})\" points=\"{}\"/>\n", series.is_faint ? " faint" : "",
                     colour, path) +
         dots;
}

}  // namespace

std::string line_chart(const Chart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double low_x = kInfinity, high_x = -kInfinity, low_y = kInfinity, high_y = -kInfinity;
  for (const Series& series : chart.series)
    for (const auto& point : series.points)
      if (is_drawn(point)) {
        low_x = std::min(low_x, point.first), high_x = std::max(high_x, point.first);
        low_y = std::min(low_y, point.second), high_y = std::max(high_y, point.second);
      }
  if (low_x > high_x) return "";
  const LinearAxis x = LinearAxis::around(low_x, high_x, kLeftEdge, kChartWidth - kRightEdge);
  const LinearAxis y = LinearAxis::around(low_y, high_y, kChartHeight - kBottomEdge, kTopEdge);
  std::string keys, lines;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const auto colour = static_cast<int>(i) % kColours;
    lines += chart_line(chart.series[i], x, y, colour);
    if (chart.series.size() > 1)
      keys += fmt::format("<span class=\"key\" style=\"background:var(--c{})\"></span>{}", colour,
                          escaped(chart.series[i].name));
  }
  return fmt::format(
      "<figure><figcaption>{0}{1}</figcaption>\n<svg id=\"{2}\" viewBox=\"0 0 {3} {4}\" role=\"img\" "
      "aria-label=\"{0}\">\n{5}{6}</svg></figure>\n",
      escaped(chart.title), keys, escaped(chart.id), kChartWidth, kChartHeight, chart_grid(x, y, chart.x_label), lines);
}

}  // namespace bitlab::report
