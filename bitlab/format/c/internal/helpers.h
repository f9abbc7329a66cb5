// The functions in C that a network's source needs.
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>

namespace bitlab::format::c {

struct Helper {
  std::string_view name, needs;  // names of earlier ones, which blanks part
  std::string_view text;
};
std::span<const Helper> integer_helpers();  // of networks in integers, behind all others

class Helpers {
 public:
  // `variant`: of the packing of weights, "2bit" or "base3"; a helper x_<variant> is the one called x.
  explicit Helpers(std::string_view variant) : variant_(variant) {}
  // Names, which blanks part; with what those need.
  void need(std::string_view names);
  // All that are needed, each behind those that it needs.
  std::string text() const;

 private:
  std::string variant_;
  std::set<size_t> needed_;
};

}  // namespace bitlab::format::c
