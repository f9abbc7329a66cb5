// Where the NaN or the infinity of a loss comes from.
#pragma once

#include <string>

#include "bitlab/train/hooks.h"

namespace bitlab::train {

// The end of a sentence: a parameter that has one already; a tensor of the batch that has one; or, after the forward pass and the loss once more, with
// the operators that they call watched, the first that makes one of finite numbers: "it begins in layer 'fc2' (bit_linear)". A mask of -inf begins
// nothing. Changes running statistics as a forward pass in training does.
std::string origin_of_not_finite(StepContext& step);

}  // namespace bitlab::train
