#include "bitlab/format/c/internal/pooling.h"

#include <algorithm>
#include <limits>

#include "bitlab/format/c/internal/integers.h"

namespace bitlab::format::c {
namespace {

using program::Node;
using program::Op;
using program::Program;
using program::Sizes;

// Windows along one dimension: the fewest and the most values inside the image, and with padding.
struct Extent {
  int64_t least = std::numeric_limits<int64_t>::max(), most = 0, least_span = least, most_span = 0;
  void add(int64_t taps, int64_t span) {
    least = std::min(least, taps), most = std::max(most, taps);
    least_span = std::min(least_span, span), most_span = std::max(most_span, span);
  }
};

// The places of docs/numerics.md and ops.def, as `part_at` of the source in C has them.
std::vector<Extent> extents(const Program& p, const Node& node, const program::SymbolSizes& sizes) {
  const std::vector<int64_t> x = shape_at(p.value(node.inputs[0]).shape, sizes),
                             y = shape_at(p.value(node.output()).shape, sizes);
  const bool is_adaptive = !node.attributes.contains("kernel_size");
  const auto attribute = [&](const char* key, size_t d) {
    return node.attributes.contains(key) ? node.attribute<Sizes>(key)[d] : 1;
  };
  std::vector<Extent> all;
  for (size_t d = 0; d + 2 < x.size(); ++d) {
    const int64_t in = x[d + 2], out = y[d + 2];
    Extent extent;
    for (int64_t o = 0; o < out; ++o) {
      if (is_adaptive) {
        const int64_t taps = ((o + 1) * in + out - 1) / out - o * in / out;
        extent.add(taps, taps);
        continue;
      }
      const int64_t kernel = attribute("kernel_size", d), step = attribute("dilation", d), padding = attribute("padding", d),
                    start = o * attribute("stride", d) - padding;
      int64_t taps = 0;
      for (int64_t k = 0; k < kernel; ++k) taps += start + k * step >= 0 && start + k * step < in ? 1 : 0;
      extent.add(taps, std::max<int64_t>(1, std::min(start + kernel, in + padding) - start));
    }
    all.push_back(extent);
  }
  return all;
}

}  // namespace

Result<Average> average_of(const Program& p, const Node& node, const program::SymbolSizes& sizes) {
  if (node.op == Op::mean) {
    const auto columns = static_cast<double>(shape_at(p.value(node.inputs[0]).shape, sizes).back());
    return Average{columns, columns};
  }
  const bool is_plain = node.op == Op::avg_pool;
  const bool counts_padding = is_plain && node.attribute<int64_t>("count_include_pad") != 0;
  Average average{1, 1};
  bool is_one_size = true;
  for (const Extent& e : extents(p, node, sizes)) {
    average.taps *= static_cast<double>(e.most);
    average.divisor *= static_cast<double>(counts_padding ? e.most_span : e.most);
    is_one_size = is_one_size && (counts_padding ? e.least_span == e.most_span : e.least == e.most);
  }
  if (is_plain && node.attribute<int64_t>("divisor") != 0) {
    average.divisor = static_cast<double>(node.attribute<int64_t>("divisor"));
    is_one_size = true;
  }
  if (!is_one_size) return no_integers(node, "windows that are divided by numbers that differ");
  return average;
}

Status check_maxima(const Program& p, const Node& node, const program::SymbolSizes& sizes) {
  for (const Extent& e : extents(p, node, sizes))
    if (e.least == 0) return no_integers(node, "a window without a value");
  return {};
}

}  // namespace bitlab::format::c
