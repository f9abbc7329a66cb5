// Pages that need nothing else, no network and no other file: the style and the parts that reports share.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitlab::report {

// Text in an element or in an attribute between double quotes.
std::string escaped(std::string_view text);

// JSON in an element of a page: nothing in it ends the element.
std::string embedded(std::string json);

// A whole page with `body` below its title. Tables with a head sort by the heading that is clicked, numbers by data-value.
std::string page(std::string_view title, std::string_view body);

// A few facts in a row.
struct Fact {
  std::string name, text;
};
std::string fact_list(std::span<const Fact> facts);

// Lines over numbers, a colour each; points that are not finite are left out.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x rises
  bool is_faint = false;                          // drawn behind the others
};
struct Chart {
  std::string id, title, x_label;
  std::vector<Series> series;
};
// A figure with axes and a legend; empty where there is no point.
std::string line_chart(const Chart& chart);

}  // namespace bitlab::report
