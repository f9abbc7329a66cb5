#include "bitlab/data/dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace bitlab::data {
namespace {

struct Entry {
  std::string_view name;
  Result<ImageDataset> (*load)(Split, const DataOptions&);
};

constexpr std::array kDatasets{
#define BITLAB_DATASET(name) Entry{#name, load_##name},
#include "bitlab/data/datasets.def"
#undef BITLAB_DATASET
};

}  // namespace

Image ImageDataset::image(int64_t index) const {
  const auto first = pixels.begin() + index * spec.values();
  return {spec.channels, spec.height, spec.width, {first, first + spec.values()}};
}

Result<HeldOut> hold_out(const ImageDataset& set, double fraction) {
  if (!(fraction >= 0 && fraction < 1))
    return make_error(ErrorCode::kInvalidArgument, "[data] a fraction in [0, 1), got {}", fraction);
  HeldOut result{{set.spec, 0, {}, {}}, {set.spec, 0, {}, {}}};
  for (int64_t i = 0; i < set.count; ++i) {
    // Sample i is held out where the running count i * fraction passes a whole number.
    const bool out = std::floor(static_cast<double>(i + 1) * fraction) > std::floor(static_cast<double>(i) * fraction);
    ImageDataset& part = out ? result.held_out : result.kept;
    const auto first = set.pixels.begin() + i * set.spec.values();
    part.pixels.insert(part.pixels.end(), first, first + set.spec.values());
    part.labels.push_back(set.labels[static_cast<size_t>(i)]);
    ++part.count;
  }
  return result;
}

std::vector<std::string_view> dataset_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kDatasets) names.push_back(entry.name);
  return names;
}

Result<ImageDataset> load_dataset(std::string_view name, Split split, const DataOptions& options) {
  if (options.limit < 0)
    return make_error(ErrorCode::kInvalidArgument, "[data] a limit of at least 0, got {}", options.limit);
  const auto entry = std::find_if(kDatasets.begin(), kDatasets.end(), [name](const Entry& e) { return e.name == name; });
  if (entry == kDatasets.end()) {
    std::string list;
    for (const Entry& e : kDatasets) list.append(list.empty() ? "" : ", ").append(e.name);
    return make_error(ErrorCode::kUnknownName, "[data] a data set of {{{}}}, got '{}'", list, name);
  }
  return entry->load(split, options);
}

}  // namespace bitlab::data
