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

// The elements [begin, end) of functions that follow each other on one array, in blocks that stay in the nearest cache: the bits of one function
// after the other. All have the same y, which the second and those behind it read as their `a`, too.
void elementwise(const ElementwiseRow& row, std::span<const ElementwiseArgs> functions, int64_t begin, int64_t end);

}  // namespace bitlab::kernels
