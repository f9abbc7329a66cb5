// A profile as one page that needs nothing else: no network, no other file.
#include <algorithm>
#include <cmath>

#include "bitlab/base/text.h"
#include "bitlab/profile/internal/report.h"
#include "bitlab/report/page.h"

namespace bitlab::profile {
namespace {

using report::escaped;

// A logarithmic axis of whole decades in a drawing.
struct Axis {
  double least, most;  // powers of ten
  double begin, end;   // where they are drawn

  static Axis around(double low, double high, double begin, double end) {
    const double least = std::floor(std::log10(low)), most = std::ceil(std::log10(high));
    return {least, std::max(most, least + 1), begin, end};
  }
  double at(double value) const {
    const double place = (std::log10(value) - least) / (most - least);
    return begin + std::clamp(place, 0.0, 1.0) * (end - begin);
  }
};

constexpr double kWidth = 1000, kHeight = 460, kLeft = 70, kRight = 20, kTop = 20, kBottom = 50;

std::string grid(const Axis& x, const Axis& y) {
  std::string text;
  for (double power = x.least; power <= x.most; ++power) {
    const double at = x.at(std::pow(10, power));
    text += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:g}</text>\n",
        at, kTop, kHeight - kBottom, kHeight - kBottom + 18, std::pow(10, power));
  }
  for (double power = y.least; power <= y.most; ++power) {
    const double at = y.at(std::pow(10, power));
    text += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:g}</text>\n",
        kLeft, kWidth - kRight, at, kLeft - 6, at + 4, std::pow(10, power));
  }
  return text + fmt::format(
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">operations a byte</text>\n"
                    "<text x=\"14\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {})\">10⁹ operations a "
                    "second</text>\n",
                    (kLeft + kWidth) / 2, kHeight - 10, kHeight / 2, kHeight / 2);
}

// The slanted line of a memory level, up to the highest roof of products, and the level line of each kind of product.
std::string roof_lines(const Roofs& roofs, const Axis& x, const Axis& y) {
  std::string text;
  const auto line = [&](double x0, double y0, double x1, double y1, const std::string& label, double label_x, double label_y,
                        std::string_view anchor) {
    text += fmt::format(
        "<line class=\"roof\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{:.1f}\" "
        "y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
        x0, y0, x1, y1, label_x, label_y, anchor, escaped(label));
  };
  const double highest = 2e-9 * std::max(roofs.int8_macs_per_s, roofs.float32_macs_per_s);
  for (const MemoryRoof& level : roofs.memory) {
    const double gigabytes = level.bytes_per_s * 1e-9;
    const double from = std::max(std::pow(10, x.least), std::pow(10, y.least) / gigabytes), to = highest / gigabytes;
    line(x.at(from), y.at(from * gigabytes), x.at(to), y.at(highest),
         fmt::format("{} {}B/s", level.level, format_count(level.bytes_per_s)), x.at(from) + 6, y.at(from * gigabytes) - 8,
         "start");
  }
  for (const auto& [rate, kind] :
       {std::pair(roofs.int8_macs_per_s, "int8"), std::pair(roofs.float32_macs_per_s, "float32")}) {
    const double operations = 2e-9 * rate;
    line(x.at(operations / (roofs.memory.front().bytes_per_s * 1e-9)), y.at(operations), x.end, y.at(operations),
         fmt::format("{} {}op/s", kind, format_count(2 * rate)), x.end - 4, y.at(operations) - 6, "end");
  }
  return text;
}

// Steps that have products, as circles whose areas are their shares of the time.
std::string points(const Profile& p, const Axis& x, const Axis& y) {
  constexpr double kLargest = 26, kSmallest = 3;
  std::string text;
  for (const StepProfile* step : by_time(p)) {
    const double rate = operations_per_s(*step) * 1e-9;
    if (step->cost.macs == 0 || rate <= 0) continue;
    text += fmt::format(
        "<circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"><title>{}: {}, {:.1f} 10⁹ operations a "
        "second, {} of the roof, {} of the time</title></circle>\n",
        x.at(step->cost.intensity()), y.at(rate), std::max(kSmallest, kLargest * std::sqrt(step->share)),
        escaped(step->name), escaped(step->ops), rate, format_share(step->roof_share), format_share(step->share));
  }
  return text;
}

std::string roofline(const Profile& p) {
  if (!p.roofs) return "";
  double low_x = 0.1, high_x = 1000;
  double high_y = 2e-9 * std::max(p.roofs->int8_macs_per_s, p.roofs->float32_macs_per_s), low_y = high_y / 1e4;
  int64_t without = 0;
  for (const StepProfile& step : p.steps) {
    if (step.cost.macs == 0 || step.times.median_seconds <= 0) {
      ++without;
      continue;
    }
    low_x = std::min(low_x, step.cost.intensity()), high_x = std::max(high_x, step.cost.intensity());
    low_y = std::min(low_y, operations_per_s(step) * 1e-9), high_y = std::max(high_y, operations_per_s(step) * 1e-9);
  }
  const Axis x = Axis::around(low_x, high_x, kLeft, kWidth - kRight);
  const Axis y = Axis::around(low_y, high_y, kHeight - kBottom, kTop);
  return fmt::format(
      "<h2>Roofline</h2>\n<p>What this machine could do with {} threads, measured right after the runs, and where the steps "
      "are: circles by "
      "their share of the time. {} steps have no products and are in the table alone.</p>\n"
      "<svg id=\"roofline\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Roofline\">\n{}{}{}</svg>\n",
      p.roofs->threads, without, kWidth, kHeight, grid(x, y), roof_lines(*p.roofs, x, y), points(p, x, y));
}

std::string cell_text(const Cell& cell) {
  constexpr double kBar = 7;  // rem of the longest
  if (!cell.number) return fmt::format("<td>{}</td>", escaped(cell.text));
  if (cell.heading != kShareHeading)
    return fmt::format("<td class=\"number\" data-value=\"{}\">{}</td>", *cell.number, escaped(cell.text));
  return fmt::format("<td class=\"time\" data-value=\"{}\"><span class=\"bar\" style=\"width:{:.2f}rem\"></span>{}</td>",
                     *cell.number, kBar * *cell.number, cell.text);
}

std::string steps_table(const Profile& p) {
  std::string text =
      fmt::format("<h2>{}</h2>\n<p>{} A heading sorts.</p>\n<div class=\"scroll\"><table id=\"steps\"><thead><tr><th>#</th>",
                  p.is_training() ? "Layers" : "Steps",
                  p.is_training() ? "What reads no parameter stands under its operator's name."
                                  : "A step is a node, or several that run in one walk.");
  for (const Cell& cell : cells_of(p, p.steps.empty() ? StepProfile{} : p.steps[0]))
    text += fmt::format("<th>{}</th>", cell.heading);
  text += "</tr></thead><tbody>\n";
  for (const StepProfile* step : by_time(p)) {
    const auto number = step - p.steps.data() + 1;
    text += "<tr>" + cell_text({"#", std::to_string(number), static_cast<double>(number)});
    for (const Cell& cell : cells_of(p, *step)) text += cell_text(cell);
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string memory_text(const Profile& p) {
  const MemoryTracker& m = p.memory;
  if (p.is_training())
    return fmt::format("What lives behind each layer, forward and back. At the peak: {}, the dashed line.",
                       format_bytes(m.arena_bytes));
  return fmt::format(
      "Values that live during each step, and its scratch. Placed: {}, {:.2f} of the dashed line, {}, below which no "
      "placement comes.",
      format_bytes(m.planned_bytes), m.planned_ratio(), format_bytes(m.lower_bound_bytes));
}

// Bytes step by step: values that live, and the kernel's scratch on top of them.
std::string memory_chart(const Profile& p) {
  const MemoryTracker& m = p.memory;
  constexpr double kChart = 220, kFloor = kChart - 20;
  const auto most = static_cast<double>(std::max<int64_t>(m.arena_bytes, 1));
  const double width = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(m.steps.size(), 1));
  const auto height = [&](int64_t bytes) { return (kFloor - kTop) * static_cast<double>(bytes) / most; };
  std::string text = fmt::format(
      "<h2>Memory</h2>\n<p>{}</p>\n<svg id=\"memory\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Memory by step\">\n",
      memory_text(p), kWidth, kChart);
  for (size_t i = 0; i < m.steps.size(); ++i) {
    const StepMemory& step = m.steps[i];
    const double x = kLeft + width * static_cast<double>(i), live = height(step.live_bytes),
                 scratch = height(step.scratch_bytes);
    text += fmt::format(
        "<g><title>{}: {} of values, {} of scratch</title><rect class=\"live\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" "
        "height=\"{:.1f}\"/><rect class=\"scratch\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\"/></g>\n",
        escaped(step.step), format_bytes(step.live_bytes), format_bytes(step.scratch_bytes), x, kFloor - live, width * 0.9,
        live, x, kFloor - live - scratch, width * 0.9, scratch);
  }
  const int64_t line = p.is_training() ? m.arena_bytes : m.lower_bound_bytes;
  const double bound = kFloor - height(line);
  return text + fmt::format(
                    "<line class=\"bound\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{}\" y=\"{:.1f}\" "
                    "text-anchor=\"end\">{}</text>\n</svg>\n",
                    kLeft, kWidth - kRight, bound, bound, kLeft - 6, bound + 4, format_bytes(line));
}

}  // namespace

std::string Profile::html() const {
  std::string body = fmt::format("<p>{}, {} threads, {}</p>\n", escaped(cpu), threads, escaped(sizes_text(*this)));
  body += report::fact_list(facts_of(*this)) + roofline(*this) + steps_table(*this) + memory_chart(*this);
  body += "<script type=\"application/json\" id=\"profile\">" + report::embedded(json()) + "</script>\n";
  return report::page(model.empty() ? "Profile" : model, body);
}

}  // namespace bitlab::profile
