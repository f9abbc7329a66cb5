#include "bitlab/ops/internal/spec_cache.h"

#include <functional>
#include <string>
#include <unordered_map>

namespace bitlab::ops {
namespace {

// Looks texts up as they are, without a copy.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

constexpr size_t kMostSpecs = 256;  // a program has a few; beyond, texts come from somewhere that makes them up

}  // namespace

ternary::WeightSpec spec_of(std::string_view text) {
  thread_local std::unordered_map<std::string, ternary::WeightSpec, TextHash, std::equal_to<>> known;
  if (const auto found = known.find(text); found != known.end()) return found->second;
  const ternary::WeightSpec spec = ternary::parse_weight_spec(text).value();
  if (spec.draw != 0) return spec;
  if (known.size() >= kMostSpecs) known.clear();
  known.emplace(text, spec);
  return spec;
}

}  // namespace bitlab::ops
