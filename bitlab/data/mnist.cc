// MNIST (Y. LeCun, C. Cortes, C. J. C. Burges): 28 x 28 grey digits. Mean and standard deviation are those of the training pixels.
#include <algorithm>
#include <cstdlib>
#include <string>

#include <fmt/ranges.h>

#include "bitlab/base/file.h"
#include "bitlab/base/version.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/internal/idx.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMnistSide = 28;
constexpr uint8_t kClasses = 10;

// Where the files may be, in order: what the caller says, BITLAB_DATA_DIR, the checkout, the installation.
std::vector<fs::path> candidates(const DataOptions& options) {
  if (!options.root.empty()) return {options.root};
  std::vector<fs::path> folders;
  if (const char* data = std::getenv("BITLAB_DATA_DIR")) folders.push_back(fs::path(data) / "mnist");
  folders.push_back(fs::path(source_dir()) / "data" / "mnist");
  if (const fs::path prefix = installed_prefix(); !prefix.empty())
    folders.push_back(prefix / "share" / "bitlab" / "data" / "mnist");
  return folders;
}

Result<fs::path> find_file(const DataOptions& options, const std::string& name) {
  std::string looked;
  for (const fs::path& folder : candidates(options)) {
    std::error_code ignored;
    for (const char* ending : {".gz", ""})
      if (const fs::path path = folder / (name + ending); fs::exists(path, ignored)) return path;
    looked += (looked.empty() ? "" : ", ") + folder.string();
  }
  return make_error(ErrorCode::kNotFound, "[mnist] {}.gz in one of {{{}}}, got no such file", name, looked);
}

}  // namespace

Result<DatasetPtr> load_mnist(Split split, const DataOptions& options) {
  const std::string prefix = split == Split::kTrain ? "train" : "t10k";
  BITLAB_TRY(const fs::path image_path, find_file(options, prefix + "-images-idx3-ubyte"));
  BITLAB_TRY(const fs::path label_path, find_file(options, prefix + "-labels-idx1-ubyte"));
  BITLAB_TRY(IdxArray images, read_idx(image_path));
  BITLAB_TRY(const IdxArray labels, read_idx(label_path));
  if (images.shape.size() != 3 || images.shape[1] != kMnistSide || images.shape[2] != kMnistSide)
    return make_error(ErrorCode::kCorrupt, "[mnist] images [count, 28, 28], got [{}] (path={})",
                      fmt::join(images.shape, ", "), image_path.string());
  if (labels.shape != std::vector<int64_t>{images.shape[0]})
    return make_error(ErrorCode::kCorrupt, "[mnist] {} labels, got [{}] (path={})", images.shape[0],
                      fmt::join(labels.shape, ", "), label_path.string());
  const auto wrong = std::find_if(labels.values.begin(), labels.values.end(), [](uint8_t l) { return l >= kClasses; });
  if (wrong != labels.values.end())
    return make_error(ErrorCode::kCorrupt, "[mnist] labels from 0 to 9, got {} (path={})", *wrong, label_path.string());
  ImageSpec spec{1, kMnistSide, kMnistSide, {0.1307F}, {0.3081F}, {}};
  for (int digit = 0; digit < kClasses; ++digit) spec.labels.push_back(std::to_string(digit));
  return ImageDataset::create(std::move(spec), std::move(images.values), {labels.values.begin(), labels.values.end()});
}

}  // namespace bitlab::data
