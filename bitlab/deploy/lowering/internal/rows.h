// Rows of a tensor: what is reduced or put in order lies along the last dimension.
#pragma once

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {

// [kept..., values], or [1, values] where nothing is kept.
struct Rows {
  ValueId x;
  program::Dim values;  // that become one
};

// The dimensions that the call reduces are brought to the end and joined.
Result<Rows> rows_of(Lowering& lowering, const Call& call, ValueId x);

// What is reduced and ordered: there are no forms for int32.
at::ScalarType type_of(const Call& call);

// x with the dimension `dim` at the end, and back; of a vector a row, which the call's end makes a vector again.
Result<ValueId> with_dim_last(Lowering& lowering, ValueId x, int64_t dim);
Result<ValueId> with_last_dim_at(Lowering& lowering, ValueId x, int64_t dim);

// The call's second output, where something reads it.
template <class Make>
Status finish_second(Lowering& lowering, const Call& call, Make make) {
  if (call.outputs.size() < 2 || !lowering.is_read(call.outputs[1].toTensor())) return {};
  BITLAB_TRY(const ValueId y, make());
  return lowering.finish(call, y, call.outputs[1].toTensor());
}

}  // namespace bitlab::deploy
