// What the forms of a report have in common.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/profile/profiler.h"
#include "bitlab/report/page.h"

namespace bitlab::profile {

// "batch 1, tokens 128"
std::string sizes_text(const Profile& profile);
// 1.2e6 as "1.2 M", with units of thousands.
std::string format_count(double count);
std::string format_ms(double seconds);
// A share in per cent, with one place.
std::string format_share(double share);

// Operations and bytes a second of a step's median call; 0 where no time was measured.
double operations_per_s(const StepProfile& step);
double bytes_per_s(const StepProfile& step);

// What a report says of a step, a cell each: `number` is what a column is sorted by.
struct Cell {
  std::string_view heading;
  std::string text;
  std::optional<double> number{};
};
std::vector<Cell> cells_of(const Profile& profile, const StepProfile& step);
constexpr std::string_view kShareHeading = "time";

// What a report says of the whole.
using report::Fact;
std::vector<Fact> facts_of(const Profile& profile);

// The steps, those that take longest first.
std::vector<const StepProfile*> by_time(const Profile& profile);

}  // namespace bitlab::profile
