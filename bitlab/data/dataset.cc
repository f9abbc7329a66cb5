#include "bitlab/data/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/ranges.h>

namespace bitlab::data {
namespace {

struct Entry {
  std::string_view name;
  Result<DatasetPtr> (*load)(Split, const DataOptions&);
  std::vector<std::string_view> own;
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> list{
#define BITLAB_DATASET(name, ...) Entry{#name, load_##name, {__VA_ARGS__}},
#include "bitlab/data/datasets.def"
#undef BITLAB_DATASET
  };
  return list;
}

Status check_options(const Entry& entry, const DataOptions& options) {
  if (options.limit < 0)
    return make_error(ErrorCode::kInvalidArgument, "[data] a limit of at least 0, got {}", options.limit);
  for (const auto& [key, value] : options.own)
    if (std::find(entry.own.begin(), entry.own.end(), key) == entry.own.end())
      return make_error(ErrorCode::kUnknownName, "[data] an option of {{{}}}, got '{}' (data={})",
                        fmt::join(entry.own, ", "), key, entry.name);
  return {};
}

}  // namespace

Result<HeldOut> hold_out(const DatasetPtr& set, double fraction) {
  if (!(fraction >= 0 && fraction < 1))
    return make_error(ErrorCode::kInvalidArgument, "[data] a fraction in [0, 1), got {}", fraction);
  std::vector<int64_t> kept, held_out;
  for (int64_t i = 0; i < set->size(); ++i) {
    // Sample i is held out where the running count i * fraction passes a whole number.
    const bool out = std::floor(static_cast<double>(i + 1) * fraction) > std::floor(static_cast<double>(i) * fraction);
    (out ? held_out : kept).push_back(i);
  }
  return HeldOut{std::make_shared<Subset>(set, std::move(kept)), std::make_shared<Subset>(set, std::move(held_out))};
}

DatasetPtr first(DatasetPtr set, int64_t count) {
  if (count >= set->size()) return set;
  std::vector<int64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), int64_t{0});
  return std::make_shared<Subset>(std::move(set), std::move(indices));
}

Result<DatasetPtr> ImageDataset::create(ImageSpec spec, std::vector<uint8_t> pixels, std::vector<int64_t> labels) {
  if (pixels.size() != labels.size() * static_cast<size_t>(spec.values()))
    return make_error(ErrorCode::kInvalidArgument, "[data] {} values for each of {} labels, got {} in all", spec.values(),
                      labels.size(), pixels.size());
  const auto classes = static_cast<int64_t>(spec.labels.size());
  for (const int64_t label : labels)
    if (label < 0 || label >= classes)
      return make_error(ErrorCode::kInvalidArgument, "[data] labels from 0 to {}, got {}", classes - 1, label);
  return DatasetPtr(new ImageDataset(std::move(spec), std::move(pixels), std::move(labels)));
}

Result<Sample> ImageDataset::get(int64_t index) const {
  const auto values = static_cast<size_t>(spec_.values());
  const std::span pixels = std::span(pixels_).subspan(static_cast<size_t>(index) * values, values);
  return Sample{{Array::of<uint8_t>("image", {spec_.channels, spec_.height, spec_.width}, pixels),
                 Array::of<int64_t>("label", {}, std::span(labels_).subspan(static_cast<size_t>(index), 1))}};
}

std::vector<std::string_view> dataset_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : entries()) names.push_back(entry.name);
  return names;
}

Result<DatasetPtr> load_dataset(std::string_view name, Split split, const DataOptions& options) {
  const auto entry = std::find_if(entries().begin(), entries().end(), [name](const Entry& e) { return e.name == name; });
  if (entry == entries().end())
    return make_error(ErrorCode::kUnknownName, "[data] a data set of {{{}}}, got '{}'", fmt::join(dataset_names(), ", "),
                      name);
  BITLAB_RETURN_IF_ERROR(check_options(*entry, options));
  BITLAB_TRY(DatasetPtr set, entry->load(split, options));
  return options.limit > 0 ? first(std::move(set), options.limit) : set;
}

}  // namespace bitlab::data
