#include "bitlab/train/weight_statistics.h"

#include <ATen/ops/eq.h>
#include <ATen/ops/ne.h>

namespace bitlab::train {
namespace {

double share_of(const at::Tensor& is_so) {
  return static_cast<double>(is_so.sum().item<int64_t>()) / static_cast<double>(std::max<int64_t>(is_so.numel(), 1));
}

}  // namespace

std::vector<WeightStatistics> statistics_of(const std::vector<TernaryWeight>& weights, State& before) {
  std::vector<WeightStatistics> list;
  for (const TernaryWeight& weight : weights) {
    at::Tensor& last = before[weight.name];
    const bool is_comparable = last.defined() && last.sizes() == weight.rows.sizes();
    const at::Tensor is_zero = weight.rows.eq(0);
    list.push_back({.name = weight.name,
                    .flips = is_comparable ? share_of(weight.rows.ne(last.to(weight.rows.device()))) : 0,
                    .zeros = share_of(is_zero),
                    .dead = share_of(is_zero.all(1))});
    last = weight.rows;
  }
  return list;
}

}  // namespace bitlab::train
