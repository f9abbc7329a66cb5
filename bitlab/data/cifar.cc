// CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009): 32 x 32 colour pictures, in the binary format of their
// publisher: records of one label, or of a coarse and a fine one, and the red, green and blue values row by row. Mean and standard deviation are those of the
// training pixels.
#include <array>

#include "bitlab/data/internal/file_set.h"
#include "bitlab/data/internal/locate.h"

namespace bitlab::data {
namespace {

constexpr int64_t kCifarSide = 32, kCifarChannels = 3;
constexpr size_t kCifarPixels = kCifarChannels * kCifarSide * kCifarSide;

struct Cifar {
  std::string_view set;
  RemoteFile archive;
  std::string folder;  // in it
  size_t label_bytes;  // of a record; the last one counts
  std::string_view label_names;
  std::vector<std::string> training, test;
  std::vector<float> mean, std;
  size_t classes;
};

Cifar cifar10() {
  return {"cifar10",
          {"cifar-10-binary.tar.gz",
           170052171,
           "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
           {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"}},
          "cifar-10-batches-bin",
          1,
          "batches.meta.txt",
          {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
          {"test_batch.bin"},
          {0.4914F, 0.4822F, 0.4465F},
          {0.2470F, 0.2435F, 0.2616F},
          10};
}

Cifar cifar100() {
  return {"cifar100",
          {"cifar-100-binary.tar.gz",
           168513733,
           "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
           {"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"}},
          "cifar-100-binary",
          2,
          "fine_label_names.txt",
          {"train.bin"},
          {"test.bin"},
          {0.5071F, 0.4865F, 0.4409F},
          {0.2673F, 0.2564F, 0.2762F},
          100};
}

// A name a line.
Result<std::vector<std::string>> read_label_names(const Cifar& cifar, const FileSet& files) {
  BITLAB_TRY(const size_t at, files.find(cifar.label_names));
  BITLAB_TRY(const std::vector<uint8_t> text, files.read(at));
  std::vector<std::string> names(1);
  for (const uint8_t c : text)
    if (c == '\n')
      names.emplace_back();
    else if (c != '\r')
      names.back() += static_cast<char>(c);
  while (!names.empty() && names.back().empty()) names.pop_back();
  if (names.size() != cifar.classes)
    return make_error(ErrorCode::kCorrupt, "[{}] {} names of classes, got {} (path={})", cifar.set, cifar.classes,
                      names.size(), files.describe(at));
  return names;
}

Result<DatasetPtr> load_cifar(const Cifar& cifar, Split split, const DataOptions& options) {
  const std::string archive(cifar.archive.name);
  std::filesystem::path path = options.root;  // a tar, or a folder with the files or with the tar
  std::error_code ignored;
  if (path.empty() || std::filesystem::exists(path / archive, ignored)) {
    BITLAB_TRY(path, locate(cifar.set, options.root, {archive, archive.substr(0, archive.size() - 3), cifar.folder},
                            &cifar.archive));
  }
  BITLAB_TRY(const auto files, FileSet::open(path));
  ImageSpec spec{kCifarChannels, kCifarSide, kCifarSide, cifar.mean, cifar.std, {}};
  BITLAB_TRY(spec.labels, read_label_names(cifar, *files));
  std::vector<uint8_t> pixels;
  std::vector<int64_t> labels;
  const size_t record = cifar.label_bytes + kCifarPixels;
  for (const std::string& name : split == Split::kTrain ? cifar.training : cifar.test) {
    BITLAB_TRY(const size_t at, files->find(name));
    BITLAB_TRY(const std::vector<uint8_t> bytes, files->read(at));
    if (bytes.empty() || bytes.size() % record != 0)
      return make_error(ErrorCode::kCorrupt, "[{}] records of {} bytes, got {} in all (path={})", cifar.set, record,
                        bytes.size(), files->describe(at));
    for (auto next = bytes.begin(); next != bytes.end(); next += static_cast<std::ptrdiff_t>(kCifarPixels)) {
      next += static_cast<std::ptrdiff_t>(cifar.label_bytes);
      labels.push_back(*(next - 1));
      if (labels.back() >= static_cast<int64_t>(cifar.classes))
        return make_error(ErrorCode::kCorrupt, "[{}] labels from 0 to {}, got {} (path={})", cifar.set, cifar.classes - 1,
                          labels.back(), files->describe(at));
      pixels.insert(pixels.end(), next, next + static_cast<std::ptrdiff_t>(kCifarPixels));
    }
  }
  return ImageDataset::create(std::move(spec), std::move(pixels), std::move(labels));
}

}  // namespace

Result<DatasetPtr> load_cifar10(Split split, const DataOptions& options) { return load_cifar(cifar10(), split, options); }

Result<DatasetPtr> load_cifar100(Split split, const DataOptions& options) { return load_cifar(cifar100(), split, options); }

}  // namespace bitlab::data
