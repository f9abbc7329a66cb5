#include "bitlab/kernels/elementwise/elementwise.h"

#include <algorithm>

namespace bitlab::kernels {
namespace {

template <class Operation>
void for_each(int64_t count, ThreadPool& pool, Operation operation) {
  constexpr int64_t kBlock = 1 << 15;
  pool.run((count + kBlock - 1) / kBlock, [&](int64_t block, int) {
    const int64_t end = std::min(count, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; ++i) operation(i);
  });
}

}  // namespace

void relu(const float* x, float* y, int64_t count, ThreadPool& pool) {
  for_each(count, pool, [=](int64_t i) { y[i] = x[i] < 0.0F ? 0.0F : x[i]; });
}

void add(const float* a, const float* b, float* y, int64_t count, ThreadPool& pool) {
  for_each(count, pool, [=](int64_t i) { y[i] = a[i] + b[i]; });
}

}  // namespace bitlab::kernels
