#include "bitlab/train/internal/calls.h"

namespace bitlab::train {

std::string short_name(std::string_view op) {
  const size_t colons = op.rfind("::");
  return std::string(colons == std::string_view::npos ? op : op.substr(colons + 2));
}

std::string owner_of(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? "(model)" : parameter.substr(0, dot);
}

}  // namespace bitlab::train
