// Sums of gradients over processes that train together.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "bitlab/train/learner.h"
#include "bitlab/train/peers.h"

namespace bitlab::train {

// They travel in buckets of parameters, last ones first, while the backward pass makes the others: Li et al. 2020, arXiv:2006.15704. Every process has the same
// buckets, and begins their sums in the same order.
class GradientSums {
 public:
  // Gradients of `narrow` parameters travel in bfloat16.
  GradientSums(std::shared_ptr<Peers> peers, std::set<std::string> narrow);
  ~GradientSums();
  GradientSums(const GradientSums&) = delete;
  GradientSums& operator=(const GradientSums&) = delete;

  // Before a backward pass whose gradients, added to those that are there, are to be summed. The parameters live until finish().
  void begin(const std::vector<NamedParameter>& parameters);
  // Behind it: each gradient is the sum over all processes. What no process has a gradient of stays without, as an optimizer would leave it alone.
  void finish();

 private:
  struct Bucket;
  class Watches;

  void gradient_is_there(size_t parameter);
  void send(Bucket& bucket);

  std::shared_ptr<Peers> peers_;
  std::set<std::string> narrow_;
  const std::vector<NamedParameter>* parameters_ = nullptr;
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;  // for each parameter
  std::vector<bool> is_there_;     // likewise: its gradient has its values of this pass
  size_t sent_ = 0;                // buckets
  std::unique_ptr<Watches> watches_;
  std::mutex mutex_;  // autograd has a thread for each device
};

}  // namespace bitlab::train
