// Data sets: any number of samples of one form, by index. Pictures and text are kinds of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/data/preprocess.h"
#include "bitlab/data/sample.h"
#include "bitlab/data/tokenizer.h"

namespace bitlab::data {

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  // The sample with an index in [0, size()), the same one every time; from any number of threads at once. Errors: those of reading it.
  virtual Result<Sample> get(int64_t index) const = 0;
  // How samples become a network's inputs.
  virtual Preprocess preprocess() const { return {}; }
};

using DatasetPtr = std::shared_ptr<const Dataset>;

// Some samples of another set, which stays one copy.
class Subset final : public Dataset {
 public:
  Subset(DatasetPtr whole, std::vector<int64_t> indices) : whole_(std::move(whole)), indices_(std::move(indices)) {}
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  Result<Sample> get(int64_t index) const override { return whole_->get(indices_.at(static_cast<size_t>(index))); }
  Preprocess preprocess() const override { return whole_->preprocess(); }

 private:
  DatasetPtr whole_;
  std::vector<int64_t> indices_;
};

struct HeldOut {
  DatasetPtr kept, held_out;
};

// Takes every n-th sample out, as many as the fraction in [0, 1) says: the same ones every time. Error: InvalidArgument.
Result<HeldOut> hold_out(const DatasetPtr& set, double fraction);

// The first `count` samples, or all where there are fewer.
DatasetPtr first(DatasetPtr set, int64_t count);

// Labelled pictures in memory. Samples: image uint8 [channels, height, width]; label int64 [].
class ImageDataset final : public Dataset {
 public:
  // pixels: [count, channels, height, width]. `labels` in [0, number of names). Error: InvalidArgument (sizes that do not fit, a label).
  static Result<DatasetPtr> create(ImageSpec spec, std::vector<uint8_t> pixels, std::vector<int64_t> labels);
  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  Result<Sample> get(int64_t index) const override;
  Preprocess preprocess() const override { return {spec_}; }

 private:
  ImageDataset(ImageSpec spec, std::vector<uint8_t> pixels, std::vector<int64_t> labels)
      : spec_(std::move(spec)), pixels_(std::move(pixels)), labels_(std::move(labels)) {}
  ImageSpec spec_;
  std::vector<uint8_t> pixels_;
  std::vector<int64_t> labels_;
};

// Windows of a text that do not overlap. Samples: tokens int64 [T]; next int64 [T], the token behind each.
class TextDataset final : public Dataset {
 public:
  // Error: InvalidArgument (tokens below 1, a text that is shorter than a window and the token behind it), those of the tokenizer.
  static Result<DatasetPtr> create(std::string_view text, int64_t tokens, const Tokenizer& tokenizer = *byte_tokenizer());
  int64_t size() const override { return (static_cast<int64_t>(ids_.size()) - 1) / tokens_; }
  Result<Sample> get(int64_t index) const override;
  Preprocess preprocess() const override { return {TextSpec{vocabulary_, tokens_, {}}}; }

 private:
  TextDataset(std::vector<int32_t> ids, int64_t vocabulary, int64_t tokens)
      : ids_(std::move(ids)), vocabulary_(vocabulary), tokens_(tokens) {}
  std::vector<int32_t> ids_;
  int64_t vocabulary_, tokens_;
};

enum class Split { kTrain, kTest };

struct DataOptions {
  std::filesystem::path root;                // folder or file of the data set; empty: the one that comes with BitLab
  int64_t limit = 0;                         // at most this many samples; 0: all
  std::map<std::string, std::string> own{};  // what the data set alone takes
};

// Errors: UnknownName (a data set, an option; listing the names), NotFound, Corrupt, InvalidArgument (a negative limit).
Result<DatasetPtr> load_dataset(std::string_view name, Split split, const DataOptions& options = {});

// The names of datasets.def.
std::vector<std::string_view> dataset_names();

#define BITLAB_DATASET(name, ...) Result<DatasetPtr> load_##name(Split split, const DataOptions& options);
#include "bitlab/data/datasets.def"
#undef BITLAB_DATASET

}  // namespace bitlab::data
