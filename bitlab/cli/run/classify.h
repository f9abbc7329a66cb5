// Image classification with a deployed model: what `run` and `demo` do with the runtime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "bitlab/data/image_spec.h"
#include "bitlab/runtime/session.h"

namespace bitlab::cli {

// How the model wants its images, from the file's metadata. Errors: InvalidArgument (a model of another kind), Corrupt.
Result<data::ImageSpec> image_spec_of(const runtime::Model& model);

struct Classification {
  int64_t count = 0;
  int64_t classes = 0;
  std::vector<float> logits;  // [count, classes]
  double seconds = 0;         // in the runtime, without decoding and normalization

  int64_t best(int64_t image) const;  // index of the largest logit; the first of equals
};

// pixels: uint8 [count, channels, height, width]. `progress` gets the number of images done.
Result<Classification> classify(runtime::Session& session, const data::ImageSpec& spec, std::span<const uint8_t> pixels,
                                int64_t count, int64_t batch, const std::function<void(int64_t)>& progress = {});

// Fraction of images whose best class is the label.
double accuracy(const Classification& result, std::span<const int64_t> labels);

// Raw little-endian float32, [count, classes], written atomically.
Status write_logits(const Classification& result, const std::filesystem::path& path);

}  // namespace bitlab::cli
