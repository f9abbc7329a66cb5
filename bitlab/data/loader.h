// Batches of a data set, epoch after epoch: in order or shuffled, changed at random, prepared ahead by threads. Which samples a batch has, and
// what becomes of them, follows from seed, epoch and index alone: neither the number of threads nor where a run was interrupted changes a bit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "bitlab/data/dataset.h"
#include "bitlab/data/transform.h"

namespace bitlab::data {

struct LoaderOptions {
  int64_t batch_size = 128;
  bool shuffle = false;    // in another order each epoch
  uint64_t seed = 1;       // of the order and of the transforms
  bool drop_last = false;  // leaves out a last batch of fewer samples
  int64_t workers = 0;     // threads that prepare batches; 0: next() does
  int64_t prefetch = 2;    // batches that each of them prepares ahead
  int64_t rank = 0;  // which of `world` processes this is: each gets as many samples, where they do not divide some twice
  int64_t world = 1;
  std::vector<Transform> transforms{};
};

// The samples with these indices, changed one by one where `change` is given, stacked and preprocessed. Errors: those of the data set and of
// `change`, and where samples differ in form.
Result<Sample> make_batch(const Dataset& set, const Preprocess& preprocess, std::span<const int64_t> indices,
                          const std::function<Status(Sample&, int64_t index)>& change = {});

// The samples of an epoch (from 1) for one process, in order.
std::vector<int64_t> order_of_epoch(int64_t size, int64_t epoch, const LoaderOptions& options);

class Loader {
 public:
  // Where in the data a run is.
  struct State {
    int64_t epoch = 1;
    int64_t position = 0;  // batches of the epoch that next() has returned
  };

  // Errors: InvalidArgument (no samples, options outside their ranges, drop_last with no whole batch).
  static Result<std::unique_ptr<Loader>> create(DatasetPtr set, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches() const;  // of an epoch
  int64_t samples() const;  // of an epoch

  // The next batch, preprocessed as the data set says; nothing where the epoch ends, and then the next epoch begins. Errors: those of the data set
  // and of transforms.
  Result<std::optional<Sample>> next();

  State state() const { return state_; }
  // Goes on from there. Error: InvalidArgument (a place that no epoch has).
  Status seek(State state);

 private:
  class Workers;
  Loader(DatasetPtr set, LoaderOptions options);
  Result<Sample> make(int64_t epoch, int64_t batch) const;
  void begin_epoch();

  DatasetPtr set_;
  LoaderOptions options_;
  Preprocess preprocess_;
  State state_;
  std::vector<int64_t> order_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace bitlab::data
