#include "bitlab/base/internal/nearest.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace bitlab {
namespace {

size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

const std::string* nearest(std::string_view name, std::span<const std::string> known, size_t at_most) {
  const std::string* best = nullptr;
  size_t best_distance = 0;
  for (const std::string& candidate : known) {
    const size_t d = distance(name, candidate);
    if (d > at_most || (best != nullptr && d >= best_distance)) continue;
    best = &candidate;
    best_distance = d;
  }
  return best;
}

}  // namespace bitlab
