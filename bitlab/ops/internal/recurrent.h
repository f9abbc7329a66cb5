// What the operators of recurrent layers check and return.
#pragma once

#include "bitlab/ops/internal/implementations.h"

namespace bitlab::ops {

struct RecurrentFacts {
  const at::Tensor& x;
  c10::SymInt rows;  // of the weight
  const OptionalTensor &h0, &c0;
  std::string_view cell;
};

// Results without values, of checked shapes: y [B, T, H], h_n [B, H], and c_n, of shape [0] where the cell has none.
ThreeTensors recurrent_outputs(const char* op, const RecurrentFacts& facts);

// The shape of the latent weight, [gates H, H].
void check_recurrent_weight(const BitRecurrentCall& call);

}  // namespace bitlab::ops
