// The trainer over modules, data sets, losses and metrics of Python.
#include "mirror.h"
#include "sinks.h"
#include <exception>
#include <mutex>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bitlab/train/device.h"
#include "bitlab/train/learner.h"
#include "bitlab/train/profiler.h"
#include "bitlab/train/trainer.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using nn::NamedTensors;
using train::Task;

data::Array array_of(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
  data::DType dtype{};
  if (plain.scalar_type() == at::kByte) {
    dtype = data::DType::kUInt8;
  } else if (plain.scalar_type() == at::kLong) {
    dtype = data::DType::kInt64;
  } else if (plain.scalar_type() == at::kFloat) {
    dtype = data::DType::kFloat32;
  } else {
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[data] uint8, int64 or float32, got {} (name={})",
                               c10::toString(plain.scalar_type()), name));
  }
  data::Array array{name, dtype, plain.sizes().vec(), {}};
  const auto* bytes = static_cast<const uint8_t*>(plain.const_data_ptr());
  if (plain.numel() != 0) array.bytes.assign(bytes, bytes + plain.nbytes());
  return array;
}

// A function from an index to a dict of tensors. What it raises is kept, since samples are made in threads, too, and raised where training ends.
class PythonDataset final : public data::Dataset {
 public:
  PythonDataset(int64_t size, const nb::object& get) : size_(size), get_(get) {}
  int64_t size() const override { return size_; }
  Result<data::Sample> get(int64_t index) const override {
    const nb::gil_scoped_acquire gil;
    try {
      data::Sample sample;
      for (const auto& [name, tensor] : nb::cast<NamedTensors>(get_.get()(index)))
        sample.arrays.push_back(array_of(name, tensor));
      return sample;
    } catch (const Exception& error) {
      return error.error();
    } catch (...) {
      if (failure_ == nullptr) failure_ = std::current_exception();  // under Python's lock
      return make_error(ErrorCode::kInvalidArgument, "[data] a sample, got an exception (index={})", index);
    }
  }
  void raise() const {
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  int64_t size_;
  Shared get_;
  mutable std::exception_ptr failure_;
};

std::vector<train::Metric> metrics_of(const nb::object& metrics) {
  std::vector<train::Metric> list;
  for (const auto& [name, value] : nb::cast<nb::dict>(metrics))
    list.push_back({nb::cast<std::string>(nb::str(name)), nb::cast<double>(nb::float_(value))});
  return list;
}

// An object with loss(outputs, batch), smoothed_loss(outputs, batch, smoothing), class_logits(outputs), items(batch), meter() (with what train::Meter has) and goal().
class PythonTask final : public Task {
 public:
  explicit PythonTask(const nb::object& task) : task_(task) {}
  at::Tensor loss(const NamedTensors& outputs, const NamedTensors& batch) const override {
    const nb::gil_scoped_acquire gil;
    return nb::cast<at::Tensor>(task_.get().attr("loss")(nb::cast(outputs), nb::cast(batch)));
  }
  at::Tensor smoothed_loss(const NamedTensors& outputs, const NamedTensors& batch, double smoothing) const override {
    const nb::gil_scoped_acquire gil;
    return nb::cast<at::Tensor>(task_.get().attr("smoothed_loss")(nb::cast(outputs), nb::cast(batch), smoothing));
  }
  at::Tensor class_logits(const NamedTensors& outputs, const NamedTensors&) const override {
    const nb::gil_scoped_acquire gil;
    return nb::cast<at::Tensor>(task_.get().attr("class_logits")(nb::cast(outputs)));
  }
  int64_t items(const NamedTensors& batch) const override {
    const nb::gil_scoped_acquire gil;
    return nb::cast<int64_t>(task_.get().attr("items")(nb::cast(batch)));
  }
  std::unique_ptr<train::Meter> meter() const override {
    const nb::gil_scoped_acquire gil;
    return std::make_unique<PythonMeter>(task_.get().attr("meter")());
  }
  train::Goal goal() const override {
    const nb::gil_scoped_acquire gil;
    const auto [metric, is_higher_better] = nb::cast<std::pair<std::string, bool>>(task_.get().attr("goal")());
    return {metric, is_higher_better};
  }

 private:
  struct PythonMeter final : train::Meter {
    explicit PythonMeter(nb::object object) : meter(std::move(object)) {}
    std::vector<double> measure(const NamedTensors& outputs, const NamedTensors& batch) override {
      const nb::gil_scoped_acquire gil;
      return nb::cast<std::vector<double>>(meter.get().attr("measure")(nb::cast(outputs), nb::cast(batch)));
    }
    size_t numbers() const override {
      const nb::gil_scoped_acquire gil;
      return nb::cast<size_t>(meter.get().attr("numbers")());
    }
    std::vector<train::Metric> metrics(const std::vector<double>& sums) const override {
      const nb::gil_scoped_acquire gil;
      return metrics_of(meter.get().attr("metrics")(sums));
    }
    bool keeps_batches() const override {
      const nb::gil_scoped_acquire gil;
      return nb::cast<bool>(meter.get().attr("keeps_batches")());
    }
    Shared meter;
  };

  Shared task_;
};

// A module of Python, or a BitModel, whose layers turn ternary as `set_blend` says.
class Learner final : public train::ModuleLearner {
 public:
  Learner(std::shared_ptr<torch::nn::Module> module, const nb::object& forward, std::shared_ptr<const Task> task,
          const nb::object& set_blend, const nb::object& ternary)
      : ModuleLearner(*module, forward_of(forward), std::move(task)),
        module_(std::move(module)),
        set_blend_(set_blend),
        ternary_(ternary) {}
  using ModuleLearner::set_blend;
  void set_blend(const nn::Blend& blend) override {
    const nb::gil_scoped_acquire gil;
    set_blend_.get()(nb::cpp_function(blend));
  }
  std::vector<train::TernaryWeight> ternary_weights() override {
    std::vector<train::TernaryWeight> list = ModuleLearner::ternary_weights();  // of a BitModel
    const nb::gil_scoped_acquire gil;
    for (const nb::handle item : ternary_.get()()) {
      const auto [name, latent, spec, learned, transposed, groups] =
          nb::cast<std::tuple<std::string, at::Tensor, std::string, std::vector<at::Tensor>, bool, int64_t>>(item);
      ops::ConvWindow window;
      window.transposed = transposed, window.groups = groups;
      const ops::WeightQuant quant{ternary::parse_weight_spec(spec).value(), learned};
      list.push_back(train::ternary_weight(name, latent, quant, latent.dim() > 2 ? &window : nullptr));
    }
    return list;
  }

 private:
  std::shared_ptr<torch::nn::Module> module_;
  Shared set_blend_, ternary_;
};

std::shared_ptr<Learner> make_learner(const nb::object& module, const nb::object& forward, std::shared_ptr<const Task> task,
                                      const nb::object& set_blend, const nb::object& ternary) {
  return std::make_shared<Learner>(module_of(module), forward, std::move(task), set_blend, ternary);
}

template <class T>
T value_of(Result<T> result, const std::vector<std::shared_ptr<const PythonDataset>>& sets) {
  if (!result.ok())
    for (const auto& set : sets)
      if (set != nullptr) set->raise();
  return std::move(result).value();
}

// What is called after a step or an epoch; nothing for None.
template <class Report>
std::function<void(const Report&)> callback(const nb::object& function) {
  if (function.is_none()) return {};
  return [shared = Shared(function)](const Report& report) {
    const nb::gil_scoped_acquire gil;
    shared.get()(nb::cast(report));
  };
}

train::TrainingReport run(Learner& learner, const TrainingConfig& config,
                          const std::shared_ptr<const PythonDataset>& training,
                          const std::shared_ptr<const PythonDataset>& validation, const std::string& best,
                          const std::string& checkpoint, bool resume, const nb::object& on_step,
                          const nb::object& on_evaluation, const nb::object& on_epoch,
                          const std::shared_ptr<train::TrainingProfiler>& profiler, const nb::object& teacher,
                          const std::vector<std::pair<std::string, at::Tensor>>& teacher_parameters, const nb::list& sinks) {
  train::TrainerOptions options;
  if (!teacher.is_none()) options.teacher = forward_of(teacher);
  for (const auto& [name, tensor] : teacher_parameters) options.teacher_parameters.push_back({name, tensor});
  if (profiler != nullptr) options.hooks.push_back(profiler);
  options.best = best, options.checkpoint = checkpoint, options.resume = resume;
  options.on_step = callback<train::StepReport>(on_step);
  options.on_evaluation = callback<train::EvaluationReport>(on_evaluation);
  options.on_epoch = callback<train::EpochReport>(on_epoch);
  options.sinks = sinks_of(sinks);
  const nb::gil_scoped_release no_gil;
  options.peers = train::torchrun_peers().value();
  train::BitTrainer trainer(learner, config, std::move(options));
  return value_of(trainer.fit(training, validation), {training, validation});
}

void bind_reports(nb::module_& m) {
  using train::EpochReport, train::EvaluationReport, train::StepReport, train::TrainingReport;
  nb::class_<StepReport>(m, "StepReport", "A step of training.")
      .def_ro("epoch", &StepReport::epoch, "From 1.")
      .def_ro("epochs", &StepReport::epochs)
      .def_ro("step", &StepReport::step, "Batches of the epoch, from 1.")
      .def_ro("steps", &StepReport::steps)
      .def_ro("loss", &StepReport::loss, "Mean of the epoch so far.")
      .def_ro("learning_rate", &StepReport::learning_rate)
      .def_ro("batch_loss", &StepReport::batch_loss)
      .def_ro("items", &StepReport::items, "Of the batch.")
      .def_ro("skipped", &StepReport::skipped, "Gradients were not finite at the scale of the loss.")
      .def_ro("loss_scale", &StepReport::loss_scale,
              "Of the next step, where the loss is scaled (precision: float16); else 0.");
  nb::class_<EpochReport>(m, "EpochReport", "An epoch of training.")
      .def_ro("epoch", &EpochReport::epoch, "From 1.")
      .def_ro("loss", &EpochReport::loss, "Mean over the training items.")
      .def_prop_ro("metrics", [](const EpochReport& report) { return dict_of(report.metrics); })
      .def_ro("seconds", &EpochReport::seconds)
      .def_prop_ro(
          "phases",
          [](EpochReport report) {
            nb::dict seconds;
            report.phases.each([&](const char* phase, double value) { seconds[phase] = value; });
            return seconds;
          },
          "Where the seconds went: data, forward, backward, update, evaluation.");
  nb::class_<EvaluationReport>(m, "EvaluationReport", "An evaluation in training.")
      .def_ro("epoch", &EvaluationReport::epoch, "From 1.")
      .def_ro("step", &EvaluationReport::step, "Steps of the optimizer before it.")
      .def_prop_ro("metrics", [](const EvaluationReport& report) { return dict_of(report.metrics); })
      .def_prop_ro(
          "weights",
          [](const EvaluationReport& report) {
            nb::dict weights;
            for (train::WeightStatistics weight : report.weights) {
              nb::dict shares;
              weight.each([&](const char* share, double value) { shares[share] = value; });
              weights[weight.name.c_str()] = shares;
            }
            return weights;
          },
          "Of each ternary weight of linear layers and convolutions the share of codes that are others than at the "
          "evaluation "
          "before (flips), of codes 0 (zeros), and of outputs all of whose codes are 0 (dead).");
  nb::class_<TrainingReport>(m, "TrainingReport", "What training did.")
      .def_ro("epochs", &TrainingReport::epochs)
      .def_ro("evaluations", &TrainingReport::evaluations)
      .def_ro("best_epoch", &TrainingReport::best_epoch, "Whose state the model has now.")
      .def_ro("best_step", &TrainingReport::best_step, "Steps of the optimizer before it.")
      .def_ro("stopped_early", &TrainingReport::stopped_early, "By `patience`.")
      .def_prop_ro("best", [](const TrainingReport& report) { return dict_of(report.best); })
      .def_ro("best_by", &TrainingReport::best_by, "The metric that chose it.")
      .def_ro("seconds", &TrainingReport::seconds);
}

}  // namespace

void bind_train(nb::module_& m) {
  bind_reports(m);
  bind_sinks(m);
  nb::class_<Task>(m, "Task");
  m.def(
      "classification",
      [](std::string logits, std::string label) -> std::shared_ptr<const Task> {
        return std::make_shared<train::Classification>(std::move(logits), std::move(label));
      },
      nb::arg("logits"), nb::arg("label"));
  m.def(
      "python_task",
      [](const nb::object& task) -> std::shared_ptr<const Task> { return std::make_shared<PythonTask>(task); },
      nb::arg("task"));
  nb::class_<PythonDataset>(m, "PythonDataset").def(nb::init<int64_t, const nb::object&>(), nb::arg("size"), nb::arg("get"));
  nb::class_<train::TrainingProfiler>(m, "TrainingProfiler")
      .def(nb::new_([](int64_t steps, int64_t warmup) {
             return std::make_shared<train::TrainingProfiler>(
                 train::TrainingProfileOptions{.steps = steps, .warmup = warmup});
           }),
           nb::arg("steps"), nb::arg("warmup"))
      .def("enter", &train::TrainingProfiler::enter, nb::arg("path"), "A module's call begins.")
      .def("leave", &train::TrainingProfiler::leave)
      .def(
          "profile", [](const train::TrainingProfiler& profiler) { return profiler.profile().value(); },
          "Error: InvalidArgument, before a step behind the warm-up.");
  nb::class_<Learner>(m, "Learner")
      .def(nb::new_(&make_learner), nb::arg("module"), nb::arg("forward"), nb::arg("task"), nb::arg("set_blend"),
           nb::arg("ternary"));
  m.def(
      "find_device",
      [](const std::string& name) {
        const auto device = train::find_device(name).value();
        return device ? device->str() : std::string();
      },
      nb::arg("name"),
      "The device that TrainingConfig.device names, with its number. Errors: InvalidArgument, Unsupported.");
  m.def("fit", &run, nb::arg("learner"), nb::arg("config"), nb::arg("training"), nb::arg("validation").none(),
        nb::arg("best"), nb::arg("checkpoint"), nb::arg("resume"), nb::arg("on_step").none(),
        nb::arg("on_evaluation").none(), nb::arg("on_epoch").none(), nb::arg("profiler").none(), nb::arg("teacher").none(),
        nb::arg("teacher_parameters"), nb::arg("sinks"));
  m.def(
      "evaluate",
      [](Learner& learner, const std::shared_ptr<const PythonDataset>& set, int64_t batch_size, int64_t workers) {
        train::Evaluation evaluation = [&] {
          const nb::gil_scoped_release no_gil;
          return value_of(train::evaluate(learner, set, {.batch_size = batch_size, .workers = workers}), {set});
        }();
        return dict_of(evaluation.metrics);
      },
      nb::arg("learner"), nb::arg("dataset"), nb::arg("batch_size"), nb::arg("workers"));
}

}  // namespace bitlab::python
