// Element by element: functions and arithmetic ("ieee_exact" or "bounded", as elementwise.def says).
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/elementwise/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using ElementwiseRow = KernelRow<ElementwiseKernel>;
KernelList<ElementwiseRow> elementwise_kernels();

// All `count` elements, on the pool's threads.
void elementwise(const ElementwiseRow& row, const ElementwiseArgs& args, int64_t count, ThreadPool& pool);

}  // namespace bitlab::kernels
