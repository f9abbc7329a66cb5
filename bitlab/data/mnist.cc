// MNIST (Y. LeCun, C. Cortes, C. J. C. Burges), 28 x 28 grey digits, and Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747), clothes in the same
// form. Mean and standard deviation are those of the training pixels.
#include <algorithm>
#include <string>

#include <fmt/ranges.h>

#include "bitlab/data/internal/idx.h"
#include "bitlab/data/internal/locate.h"

namespace bitlab::data {
namespace {

constexpr int64_t kMnistSide = 28;
constexpr uint8_t kMnistClasses = 10;

Result<DatasetPtr> read_mnist(std::string_view set, const std::filesystem::path& image_path,
                              const std::filesystem::path& label_path, ImageSpec spec) {
  BITLAB_TRY(IdxArray images, read_idx(image_path));
  BITLAB_TRY(const IdxArray labels, read_idx(label_path));
  if (images.shape.size() != 3 || images.shape[1] != kMnistSide || images.shape[2] != kMnistSide)
    return make_error(ErrorCode::kCorrupt, "[{}] images [count, 28, 28], got [{}] (path={})", set,
                      fmt::join(images.shape, ", "), image_path.string());
  if (labels.shape != std::vector<int64_t>{images.shape[0]})
    return make_error(ErrorCode::kCorrupt, "[{}] {} labels, got [{}] (path={})", set, images.shape[0],
                      fmt::join(labels.shape, ", "), label_path.string());
  const auto wrong = std::find_if(labels.values.begin(), labels.values.end(), [](uint8_t l) { return l >= kMnistClasses; });
  if (wrong != labels.values.end())
    return make_error(ErrorCode::kCorrupt, "[{}] labels from 0 to 9, got {} (path={})", set, *wrong, label_path.string());
  return ImageDataset::create(std::move(spec), std::move(images.values), {labels.values.begin(), labels.values.end()});
}

struct FashionFiles {
  RemoteFile images, labels;
};

FashionFiles fashion_files(Split split) {
  const auto remote = [](std::string_view name, int64_t bytes, std::string_view sha256) {
    return RemoteFile{
        name, bytes, sha256, {"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/" + std::string(name)}};
  };
  if (split == Split::kTrain)
    return {
        remote("train-images-idx3-ubyte.gz", 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        remote("train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845")};
  return {remote("t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
          remote("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5")};
}

}  // namespace

Result<DatasetPtr> load_mnist(Split split, const DataOptions& options) {
  const std::string prefix = split == Split::kTrain ? "train" : "t10k";
  const auto find = [&](const std::string& name) { return locate("mnist", options.root, {name + ".gz", name}); };
  BITLAB_TRY(const auto image_path, find(prefix + "-images-idx3-ubyte"));
  BITLAB_TRY(const auto label_path, find(prefix + "-labels-idx1-ubyte"));
  ImageSpec spec{1, kMnistSide, kMnistSide, {0.1307F}, {0.3081F}, {}};
  for (int digit = 0; digit < kMnistClasses; ++digit) spec.labels.push_back(std::to_string(digit));
  return read_mnist("mnist", image_path, label_path, std::move(spec));
}

Result<DatasetPtr> load_fashion_mnist(Split split, const DataOptions& options) {
  const auto find = [&](const RemoteFile& remote) {
    const std::string name(remote.name);
    return locate("fashion_mnist", options.root, {name, name.substr(0, name.size() - 3)}, &remote);
  };
  const FashionFiles files = fashion_files(split);
  BITLAB_TRY(const auto image_path, find(files.images));
  BITLAB_TRY(const auto label_path, find(files.labels));
  return read_mnist(
      "fashion_mnist", image_path, label_path,
      {1,
       kMnistSide,
       kMnistSide,
       {0.2860F},
       {0.3530F},
       {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}});
}

}  // namespace bitlab::data
