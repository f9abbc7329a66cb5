// Labelled pictures in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/data/image.h"
#include "bitlab/data/image_spec.h"

namespace bitlab::data {

enum class Split { kTrain, kTest };

struct DataOptions {
  std::filesystem::path root;  // folder of the data set; empty: the one that comes with BitLab
  int64_t limit = 0;           // at most this many samples; 0: all
};

struct ImageDataset {
  ImageSpec spec;
  int64_t count = 0;
  std::vector<uint8_t> pixels;  // [count, channels, height, width]
  std::vector<uint8_t> labels;  // [count]

  Image image(int64_t index) const;
};

struct HeldOut {
  ImageDataset kept, held_out;
};

// Takes every n-th sample out, as many as the fraction in [0, 1) says: the same ones every time. Error: InvalidArgument.
Result<HeldOut> hold_out(const ImageDataset& set, double fraction);

// Errors: UnknownName (listing the names), NotFound, Corrupt, InvalidArgument (a negative limit).
Result<ImageDataset> load_dataset(std::string_view name, Split split, const DataOptions& options = {});

// The names of datasets.def.
std::vector<std::string_view> dataset_names();

#define BITLAB_DATASET(name) Result<ImageDataset> load_##name(Split split, const DataOptions& options);
#include "bitlab/data/datasets.def"
#undef BITLAB_DATASET

}  // namespace bitlab::data
