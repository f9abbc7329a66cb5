// A model's answers on a data set, and the batches that training and evaluation feed.
#pragma once

#include <span>

#include "bitlab/data/dataset.h"
#include "bitlab/train/learner.h"

namespace bitlab::train {

// The samples with these indices, normalized as the data set says: input [B, channels, height, width], target [B].
Batch make_batch(const data::ImageDataset& set, std::span<const int64_t> indices);

struct Evaluation {
  at::Tensor logits;    // float32 [count, classes]
  double accuracy = 0;  // fraction whose largest logit, the first of equals, is the label's
};

// Sets the learner to eval and runs it without gradients; `progress` gets the number of samples done.
// Errors: InvalidArgument (no samples), those of the model.
Result<Evaluation> evaluate(Learner& learner, const data::ImageDataset& set, int64_t batch_size = 256,
                            const std::function<void(int64_t)>& progress = {});

}  // namespace bitlab::train
