#include "bitlab/train/internal/ranking.h"

#include <algorithm>
#include <numeric>

namespace bitlab::train {
namespace {

double value_of(const EvaluationReport& report, const Goal& goal) { return Evaluation{0, report.metrics}.at(goal.metric); }

}  // namespace

std::vector<size_t> ranking(const std::vector<EvaluationReport>& evaluations, const Goal& goal) {
  std::vector<size_t> order(evaluations.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return goal.better(value_of(evaluations[a], goal), value_of(evaluations[b], goal));
  });
  return order;
}

bool is_stalled(const std::vector<EvaluationReport>& evaluations, const Goal& goal, int64_t patience, double min_delta) {
  if (patience == 0 || evaluations.empty()) return false;
  const double least = goal.is_higher_better ? min_delta : -min_delta;
  double best = value_of(evaluations.front(), goal);
  int64_t since = 0;
  for (size_t i = 1; i < evaluations.size(); ++i) {
    const double value = value_of(evaluations[i], goal);
    const bool is_better = goal.better(value, best + least);
    if (is_better) best = value;
    since = is_better ? 0 : since + 1;
  }
  return since >= patience;
}

}  // namespace bitlab::train
