// Pictures in a folder or a tar, PNG and JPEG, a class for each folder: [train/ or test/] <class>/<picture>. Where there is no train/, every tenth picture of all
// is one to test on. Samples
// are in a random order that is always the same, so that a limit or a part that is held out has all classes.
#include <algorithm>
#include <map>
#include <set>

#include "bitlab/data/image.h"
#include "bitlab/data/internal/file_set.h"
#include "bitlab/data/internal/options.h"
#include "bitlab/data/loader.h"

namespace bitlab::data {
namespace {

constexpr std::string_view kFolder = "folder";

struct Picture {
  size_t file = 0;
  std::string name;  // that is left below the folder of the split
};

// The first part of a path; empty where it is the last one, too.
std::string_view first_part(std::string_view path) {
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? "" : path.substr(0, slash);
}

bool is_picture(std::string_view name) {
  std::string ending(name.substr(std::min(name.rfind('.'), name.size())));
  std::transform(ending.begin(), ending.end(), ending.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

// All pictures, without the folders that all have in front.
std::vector<Picture> pictures_of(const FileSet& files) {
  std::vector<Picture> list;
  for (size_t i = 0; i < files.names().size(); ++i)
    if (is_picture(files.names()[i])) list.push_back({i, files.names()[i]});
  const auto shared = [&] {
    const std::string first(list.empty() ? "" : first_part(list[0].name));
    return std::all_of(list.begin(), list.end(),
                       [&](const Picture& p) {
                         return first_part(p.name) == first &&
                                !first_part(std::string_view(p.name).substr(first.size() + 1)).empty();
                       })
               ? first
               : "";
  };
  for (std::string first = shared(); !first.empty() && first != "train" && first != "test"; first = shared())
    for (Picture& picture : list) picture.name.erase(0, first.size() + 1);
  return list;
}

// Those of a split.
std::vector<Picture> split_of(const std::vector<Picture>& all, Split split) {
  const auto below = [&](std::string_view folder) {
    std::vector<Picture> list;
    for (const Picture& picture : all)
      if (first_part(picture.name) == folder) list.push_back({picture.file, picture.name.substr(folder.size() + 1)});
    return list;
  };
  const std::vector<Picture> training = below("train");
  if (!training.empty()) return split == Split::kTrain ? training : below("test");
  std::vector<Picture> list;
  for (size_t i = 0; i < all.size(); ++i)
    if (is_in_split(i, split)) list.push_back(all[i]);
  return list;
}

std::vector<std::string> classes_of(const std::vector<Picture>& pictures) {
  std::set<std::string> names;
  for (const Picture& picture : pictures) names.emplace(first_part(picture.name));
  return {names.begin(), names.end()};
}

class FolderDataset final : public Dataset {
 public:
  struct Item {
    size_t file = 0;
    int64_t label = 0;
  };
  FolderDataset(std::shared_ptr<const FileSet> files, ImageSpec spec, std::vector<Item> items)
      : files_(std::move(files)), spec_(std::move(spec)), items_(std::move(items)) {}

  int64_t size() const override { return static_cast<int64_t>(items_.size()); }
  Preprocess preprocess() const override { return {spec_}; }
  Result<Sample> get(int64_t index) const override {
    const Item& item = items_.at(static_cast<size_t>(index));
    BITLAB_TRY(const Image image, read(*files_, item.file, spec_));
    return Sample{{Array::of<uint8_t>("image", {spec_.channels, spec_.height, spec_.width}, image.pixels),
                   Array::of<int64_t>("label", {}, std::span(&item.label, 1))}};
  }
  // Of a size of the spec's, where that has one.
  static Result<Image> read(const FileSet& files, size_t file, const ImageSpec& spec) {
    BITLAB_TRY(const std::vector<uint8_t> bytes, files.read(file));
    Result<Image> image = decode_image(bytes, spec.channels);
    if (!image.ok()) return make_error(image.error().code, "{} (path={})", image.error().message, files.describe(file));
    if (spec.height == 0 || (image->height == spec.height && image->width == spec.width)) return image;
    return resize(*image, spec.height, spec.width);
  }

 private:
  std::shared_ptr<const FileSet> files_;
  ImageSpec spec_;
  std::vector<Item> items_;
};

// Sizes are those of the first picture to train on that can be read, unless they are given.
Status take_sizes(ImageSpec& spec, const FileSet& files, const std::vector<Picture>& training, bool skips) {
  for (const Picture& picture : training) {
    if (spec.height != 0) return {};
    const Result<Image> image = FolderDataset::read(files, picture.file, spec);
    if (!image.ok() && !skips) return image.error();
    if (image.ok()) spec.height = image->height, spec.width = image->width;
  }
  return {};
}

// Without labels, and without sizes where none are given.
Result<ImageSpec> spec_of(const DataOptions& options) {
  ImageSpec spec;
  BITLAB_TRY(spec.channels, whole_option(options, kFolder, "channels", 3));
  BITLAB_TRY(spec.height, whole_option(options, kFolder, "height", 0));
  BITLAB_TRY(spec.width, whole_option(options, kFolder, "width", 0));
  if (spec.height < 0 || spec.width < 0 || (spec.height == 0) != (spec.width == 0))
    return make_error(ErrorCode::kInvalidArgument, "[folder] a height and a width, or neither, got {} and {}", spec.height,
                      spec.width);
  const auto by_channel = [&](float value) {
    return std::vector<float>(static_cast<size_t>(std::clamp<int64_t>(spec.channels, 0, 3)), value);
  };
  BITLAB_TRY(spec.mean, floats_option(options, kFolder, "mean", by_channel(0.5F)));
  BITLAB_TRY(spec.std, floats_option(options, kFolder, "std", by_channel(0.25F)));
  if (static_cast<int64_t>(spec.mean.size()) != spec.channels || spec.std.size() != spec.mean.size() ||
      std::any_of(spec.std.begin(), spec.std.end(), [](float s) { return !(s > 0); }))
    return make_error(ErrorCode::kInvalidArgument,
                      "[folder] a mean and a positive std for each of {} channels, got {} and {}", spec.channels,
                      spec.mean.size(), spec.std.size());
  return spec;
}

}  // namespace

Result<DatasetPtr> load_folder(Split split, const DataOptions& options) {
  if (options.root.empty())
    return make_error(ErrorCode::kInvalidArgument, "[folder] a folder or a tar to read (data.root), got none");
  BITLAB_TRY(ImageSpec spec, spec_of(options));
  BITLAB_TRY(const bool skips, skips_errors(options, kFolder));
  BITLAB_TRY(const auto files, FileSet::open(options.root));
  const std::vector<Picture> all = pictures_of(*files), own = split_of(all, split), training = split_of(all, Split::kTrain);
  spec.labels = classes_of(training);
  if (own.empty() || (spec.labels.size() == 1 && spec.labels[0].empty()))
    return make_error(ErrorCode::kNotFound, "[folder] pictures to {} as <class>/<name>.png or .jpg, got none (path={})",
                      split == Split::kTrain ? "train on" : "test on", options.root.string());
  BITLAB_RETURN_IF_ERROR(take_sizes(spec, *files, training, skips));
  std::vector<FolderDataset::Item> items;
  int64_t skipped = 0;
  std::string first_error;
  for (const int64_t at : order_of_epoch(static_cast<int64_t>(own.size()), 1, {.shuffle = true, .seed = 0})) {
    const Picture& picture = own[static_cast<size_t>(at)];
    const std::string name(first_part(picture.name));
    const auto label = std::lower_bound(spec.labels.begin(), spec.labels.end(), name);
    Result<Image> image = Image{};
    if (label == spec.labels.end() || *label != name)
      image = make_error(ErrorCode::kCorrupt, "[folder] a class that there are pictures to train on of, got '{}' (path={})",
                         name, files->describe(picture.file));
    else if (skips)
      image = FolderDataset::read(*files, picture.file, spec);
    if (!image.ok() && !skips) return image.error();
    if (!image.ok()) {
      if (skipped++ == 0) first_error = image.error().message;
      continue;
    }
    items.push_back({picture.file, label - spec.labels.begin()});
  }
  warn_of_skipped(kFolder, skipped, static_cast<int64_t>(own.size()), first_error);
  if (items.empty())
    return make_error(ErrorCode::kCorrupt, "[folder] a picture that can be read, got none: {}", first_error);
  return DatasetPtr(std::make_shared<FolderDataset>(files, std::move(spec), std::move(items)));
}

}  // namespace bitlab::data
