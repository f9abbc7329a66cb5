#include "bitlab/train/internal/trainer_state.h"

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

namespace bitlab::train {
namespace {

constexpr std::string_view kMetric = "history.metric.";

at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }
at::Tensor scalar(int64_t value) { return at::scalar_tensor(value, at::kLong); }

// One number an epoch.
template <class F>
at::Tensor column(const std::vector<EpochReport>& epochs, F value) {
  std::vector<double> values;
  for (const EpochReport& epoch : epochs) values.push_back(value(epoch));
  return at::tensor(values, at::kDouble);
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

// set(epoch's report, value) for each epoch of a column.
template <class F>
Status read_column(const State& state, const std::string& name, std::vector<EpochReport>& epochs, F set) {
  BITLAB_TRY(const at::Tensor tensor, entry(state, name, at::kDouble, static_cast<int64_t>(epochs.size())));
  for (size_t i = 0; i < epochs.size(); ++i) set(epochs[i], tensor.const_data_ptr<double>()[i]);
  return {};
}

// Metrics keep their order: "history.metric.000.accuracy".
Status read_metrics(const State& state, std::vector<EpochReport>& epochs) {
  for (auto i = state.lower_bound(std::string(kMetric)); i != state.end() && i->first.starts_with(kMetric); ++i) {
    const std::string name = i->first.substr(i->first.find('.', kMetric.size()) + 1);
    BITLAB_RETURN_IF_ERROR(read_column(state, i->first, epochs, [&name](EpochReport& epoch, double value) {
      epoch.metrics.push_back({name, value});
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
  const auto& epochs = report.epochs;
  State state{{"progress.updates", scalar(updates)},
              {"progress.loss_sum", scalar(loss_sum)},
              {"progress.items", scalar(items)},
              {"progress.seconds", scalar(seconds)},
              {"progress.best_epoch", scalar(report.best_epoch)},
              {"history.loss", column(epochs, [](const EpochReport& e) { return e.loss; })},
              {"history.seconds", column(epochs, [](const EpochReport& e) { return e.seconds; })}};
  for (size_t i = 0; !epochs.empty() && i < epochs[0].metrics.size(); ++i)
    state[fmt::format("{}{:03}.{}", kMetric, i, epochs[0].metrics[i].name)] =
        column(epochs, [i](const EpochReport& e) { return e.metrics[i].value; });
  add_part(state, "best.", best);
  return state;
}

Status BitTrainer::Progress::load(const State& state) {
  BITLAB_RETURN_IF_ERROR(read(state, "progress.updates", updates));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.loss_sum", loss_sum));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.items", items));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.seconds", seconds));
  BITLAB_RETURN_IF_ERROR(read(state, "progress.best_epoch", report.best_epoch));
  BITLAB_TRY(const at::Tensor losses, entry(state, "history.loss", at::kDouble, -1));
  report.epochs.assign(static_cast<size_t>(losses.numel()), {});
  for (size_t i = 0; i < report.epochs.size(); ++i) report.epochs[i].epoch = static_cast<int64_t>(i) + 1;
  BITLAB_RETURN_IF_ERROR(
      read_column(state, "history.loss", report.epochs, [](EpochReport& e, double value) { e.loss = value; }));
  BITLAB_RETURN_IF_ERROR(
      read_column(state, "history.seconds", report.epochs, [](EpochReport& e, double value) { e.seconds = value; }));
  BITLAB_RETURN_IF_ERROR(read_metrics(state, report.epochs));
  const auto epochs = static_cast<int64_t>(report.epochs.size());
  if (report.best_epoch < 0 || report.best_epoch > epochs)
    return make_error(ErrorCode::kCorrupt, "[train] a best epoch from 0 to {}, got {}", epochs, report.best_epoch);
  if (report.best_epoch > 0) report.best = report.epochs[static_cast<size_t>(report.best_epoch - 1)].metrics;
  best = part_of(state, "best.");
  return {};
}

}  // namespace bitlab::train
