// A deployed model over a data set: what `run` does with the runtime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "bitlab/data/dataset.h"
#include "bitlab/runtime/session.h"

namespace bitlab::cli {

// How the model wants its data, images or texts, from the file's metadata. Errors: InvalidArgument (a model of another kind), Corrupt.
Result<data::Preprocess> preprocess_of(const runtime::Model& model);

struct DatasetRun {
  const data::Dataset& set;
  const data::Preprocess& preprocess;
  int64_t batch = 64;
  std::function<void(int64_t)> progress{};  // gets the number of samples done
};

struct Classification {
  int64_t count = 0;
  int64_t classes = 0;
  std::vector<float> logits;    // [count, classes]
  std::vector<int64_t> labels;  // empty where the samples have none
  double seconds = 0;           // in the runtime, without decoding and normalization

  int64_t best(int64_t sample) const;  // index of the largest logit; the first of equals
  double accuracy() const;             // the fraction of samples whose best class is the label
};
Result<Classification> classify(runtime::Session& session, const DatasetRun& run);

struct Perplexity {
  int64_t tokens = 0;
  double loss = 0;     // the mean of -log of the next token's probability
  double seconds = 0;  // in the runtime
};
// Of a language model. Error: InvalidArgument (samples without `next`).
Result<Perplexity> perplexity(runtime::Session& session, const DatasetRun& run);

// Raw little-endian float32, [count, classes], written atomically.
Status write_logits(const Classification& result, const std::filesystem::path& path);

}  // namespace bitlab::cli
