#include "bitlab/train/internal/trainer_state.h"

#include <limits>
#include <type_traits>

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

namespace bitlab::train {
namespace {

constexpr std::string_view kMetric = "evaluations.metric.";

at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }
at::Tensor scalar(int64_t value) { return at::scalar_tensor(value, at::kLong); }

// One number a report, int64_t or double.
template <class Report, class F>
at::Tensor column(const std::vector<Report>& reports, F value) {
  using Number = std::invoke_result_t<F, const Report&>;
  std::vector<Number> values;
  for (const Report& report : reports) values.push_back(value(report));
  return at::tensor(values, c10::CppTypeToScalarType<Number>::value);
}

Result<at::Tensor> entry(const State& state, const std::string& name, at::ScalarType type, int64_t size) {
  const auto found = state.find(name);
  if (found == state.end())
    return make_error(ErrorCode::kCorrupt, "[train] a checkpoint of a training run, got none of '{}'", name);
  const at::Tensor& tensor = found->second;
  if (tensor.scalar_type() != type || (size >= 0 && tensor.numel() != size) || tensor.dim() > 1)
    return make_error(ErrorCode::kCorrupt, "[train] {} values of {} for '{}', got {} of {}", size, c10::toString(type), name,
                      c10::str(tensor.sizes()), c10::toString(tensor.scalar_type()));
  return tensor.contiguous();
}

Status read(const State& state, const std::string& name, int64_t& value) {
  BITLAB_TRY(const at::Tensor tensor, entry(state, name, at::kLong, 1));
  value = tensor.item<int64_t>();
  return {};
}

Status read(const State& state, const std::string& name, double& value) {
  BITLAB_TRY(const at::Tensor tensor, entry(state, name, at::kDouble, 1));
  value = tensor.item<double>();
  return {};
}

// set(report, value) for each value of a column.
template <class Number = double, class Report, class F>
Status read_column(const State& state, const std::string& name, std::vector<Report>& reports, F set) {
  BITLAB_TRY(const at::Tensor tensor,
             entry(state, name, c10::CppTypeToScalarType<Number>::value, static_cast<int64_t>(reports.size())));
  for (size_t i = 0; i < reports.size(); ++i) set(reports[i], tensor.const_data_ptr<Number>()[i]);
  return {};
}

// A report for each value of a column.
Status read_rows(const State& state, const std::string& name, at::ScalarType type, auto& reports) {
  BITLAB_TRY(const at::Tensor tensor, entry(state, name, type, -1));
  reports.assign(static_cast<size_t>(tensor.numel()), {});
  return {};
}

// The numbers of each(visit) of every row, one row behind the other.
template <class Row>
at::Tensor numbers_of(std::vector<Row> rows) {
  std::vector<double> numbers;
  for (Row& row : rows) row.each([&](const char*, double number) { numbers.push_back(number); });
  return at::tensor(numbers, at::kDouble);
}

template <class Row>
Status read_numbers(const State& state, const std::string& name, const std::vector<Row*>& rows) {
  int64_t width = 0;
  Row().each([&](const char*, double) { ++width; });
  BITLAB_TRY(const at::Tensor tensor, entry(state, name, at::kDouble, static_cast<int64_t>(rows.size()) * width));
  const double* next = tensor.const_data_ptr<double>();
  for (Row* row : rows) row->each([&](const char*, double& number) { number = *next++; });
  return {};
}

State epochs_state(const std::vector<EpochReport>& epochs) {
  std::vector<PhaseSeconds> phases;
  for (const EpochReport& epoch : epochs) phases.push_back(epoch.phases);
  return {{"history.loss", column(epochs, [](const EpochReport& e) { return e.loss; })},
          {"history.seconds", column(epochs, [](const EpochReport& e) { return e.seconds; })},
          {"history.phases", numbers_of(phases)}};
}

Status read_epochs(const State& state, std::vector<EpochReport>& epochs) {
  BITLAB_RETURN_IF_ERROR(read_rows(state, "history.loss", at::kDouble, epochs));
  for (size_t i = 0; i < epochs.size(); ++i) epochs[i].epoch = static_cast<int64_t>(i) + 1;
  BITLAB_RETURN_IF_ERROR(read_column(state, "history.loss", epochs, [](EpochReport& e, double value) { e.loss = value; }));
  BITLAB_RETURN_IF_ERROR(
      read_column(state, "history.seconds", epochs, [](EpochReport& e, double value) { e.seconds = value; }));
  std::vector<PhaseSeconds*> phases;
  for (EpochReport& epoch : epochs) phases.push_back(&epoch.phases);
  return read_numbers(state, "history.phases", phases);
}

// Metrics keep their order: "evaluations.metric.000.accuracy".
State evaluations_state(const std::vector<EvaluationReport>& reports) {
  State state{{"evaluations.epoch", column(reports, [](const EvaluationReport& e) { return e.epoch; })},
              {"evaluations.step", column(reports, [](const EvaluationReport& e) { return e.step; })}};
  for (size_t i = 0; !reports.empty() && i < reports[0].metrics.size(); ++i) {
    const std::string& name = reports[0].metrics[i].name;
    state[fmt::format("{}{:03}.{}", kMetric, i, name)] = column(reports, [&name](const EvaluationReport& e) {
      const double* value = find(e.metrics, name);
      return value == nullptr ? std::numeric_limits<double>::quiet_NaN() : *value;
    });
  }
  return state;
}

// A row of shares an evaluation, in the order of the weights: "weights.000.fc1.weight".
constexpr std::string_view kWeights = "weights.";

State weights_state(const std::vector<EvaluationReport>& reports) {
  State state;
  for (size_t i = 0; !reports.empty() && i < reports.back().weights.size(); ++i) {
    std::vector<WeightStatistics> rows;
    for (const EvaluationReport& report : reports)
      rows.push_back(i < report.weights.size() ? report.weights[i] : WeightStatistics());
    state[fmt::format("{}{:03}.{}", kWeights, i, reports.back().weights[i].name)] = numbers_of(rows);
  }
  return state;
}

Status read_weights(const State& state, std::vector<EvaluationReport>& reports) {
  for (auto i = state.lower_bound(std::string(kWeights)); i != state.end() && i->first.starts_with(kWeights); ++i) {
    std::vector<WeightStatistics*> rows;
    for (EvaluationReport& report : reports)
      rows.push_back(
          &report.weights.emplace_back(WeightStatistics{.name = i->first.substr(i->first.find('.', kWeights.size()) + 1)}));
    BITLAB_RETURN_IF_ERROR(read_numbers(state, i->first, rows));
  }
  return {};
}

Status read_evaluations(const State& state, std::vector<EvaluationReport>& reports) {
  BITLAB_RETURN_IF_ERROR(read_rows(state, "evaluations.epoch", at::kLong, reports));
  BITLAB_RETURN_IF_ERROR(read_column<int64_t>(state, "evaluations.epoch", reports,
                                              [](EvaluationReport& e, int64_t value) { e.epoch = value; }));
  BITLAB_RETURN_IF_ERROR(
      read_column<int64_t>(state, "evaluations.step", reports, [](EvaluationReport& e, int64_t value) { e.step = value; }));
  for (auto i = state.lower_bound(std::string(kMetric)); i != state.end() && i->first.starts_with(kMetric); ++i) {
    const std::string name = i->first.substr(i->first.find('.', kMetric.size()) + 1);
    BITLAB_RETURN_IF_ERROR(read_column(state, i->first, reports, [&name](EvaluationReport& e, double value) {
      e.metrics.push_back({name, value});
    }));
  }
  return {};
}

}  // namespace

State part_of(const State& state, std::string_view prefix) {
  State part;
  for (auto i = state.lower_bound(std::string(prefix)); i != state.end() && i->first.starts_with(prefix); ++i)
    part[i->first.substr(prefix.size())] = i->second;
  return part;
}

void add_part(State& state, std::string_view prefix, const State& part) {
  for (const auto& [name, tensor] : part) state[std::string(prefix) + name] = tensor;
}

State BitTrainer::Progress::state() const {
  State state{{"progress.updates", scalar(updates)},
              {"progress.steps", scalar(steps)},
              {"progress.loss_sum", scalar(loss_sum)},
              {"progress.items", scalar(items)},
              {"progress.seconds", scalar(seconds)},
              {"progress.saved", at::tensor(saved, at::kLong)},
              {"progress.best_epoch", scalar(report.best_epoch)},
              {"progress.best_step", scalar(report.best_step)},
              {"progress.phases", numbers_of<PhaseSeconds>({phases})}};
  add_part(state, "", epochs_state(report.epochs));
  add_part(state, "", evaluations_state(report.evaluations));
  add_part(state, "", weights_state(report.evaluations));
  add_part(state, "codes.", codes);
  add_part(state, "best.", best);
  return state;
}

Status BitTrainer::Progress::load(const State& state) {
  BITLAB_RETURN_IF_ERROR(read(state, "progress.updates", updates));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.steps", steps));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.loss_sum", loss_sum));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.items", items));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.seconds", seconds));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.best_epoch", report.best_epoch));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.best_step", report.best_step));
  BITLAB_RETURN_IF_ERROR(read_numbers<PhaseSeconds>(state, "progress.phases", {&phases}));
  BITLAB_TRY(const at::Tensor steps_saved, entry(state, "progress.saved", at::kLong, -1));
  saved.assign(steps_saved.const_data_ptr<int64_t>(), steps_saved.const_data_ptr<int64_t>() + steps_saved.numel());
  BITLAB_RETURN_IF_ERROR(read_epochs(state, report.epochs));
  BITLAB_RETURN_IF_ERROR(read_evaluations(state, report.evaluations));
  BITLAB_RETURN_IF_ERROR(read_weights(state, report.evaluations));
  codes = part_of(state, "codes.");
  for (const EvaluationReport& evaluation : report.evaluations) {
    if (evaluation.epoch >= 1 && evaluation.epoch <= static_cast<int64_t>(report.epochs.size()))
      report.epochs[static_cast<size_t>(evaluation.epoch - 1)].metrics = evaluation.metrics;
    if (evaluation.step == report.best_step) report.best = evaluation.metrics;
  }
  best = part_of(state, "best.");
  return {};
}

}  // namespace bitlab::train
