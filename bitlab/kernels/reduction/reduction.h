// Reductions of rows: softmax, norms, sums ("bounded"; kMax and kMin are "ieee_exact").
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/reduction/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using ReductionRow = KernelRow<ReductionKernel>;
KernelList<ReductionRow> reduction_kernels();

// All rows, on the pool's threads.
void reduction(const ReductionRow& row, const ReductionArgs& args, int64_t rows, ThreadPool& pool);

}  // namespace bitlab::kernels
