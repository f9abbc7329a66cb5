#include "bitlab/data/dataset.h"

#include <algorithm>
#include <array>
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

std::vector<std::string_view> dataset_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kDatasets) names.push_back(entry.name);
  return names;
}

Result<ImageDataset> load_dataset(std::string_view name, Split split, const DataOptions& options) {
  if (options.limit < 0) return make_error(ErrorCode::kInvalidArgument, "[data] a limit of at least 0, got {}", options.limit);
  const auto entry = std::find_if(kDatasets.begin(), kDatasets.end(), [name](const Entry& e) { return e.name == name; });
  if (entry == kDatasets.end()) {
    std::string list;
    for (const Entry& e : kDatasets) list.append(list.empty() ? "" : ", ").append(e.name);
    return make_error(ErrorCode::kUnknownName, "[data] a data set of {{{}}}, got '{}'", list, name);
  }
  return entry->load(split, options);
}

}  // namespace bitlab::data
