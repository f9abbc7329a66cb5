// What happens in training as one stream of events, numbers by name, and where they go: the sinks.
//
//   train::BitTrainer trainer(learner, config, {.sinks = {train::json_lines("runs/a/log.jsonl")}});
//
// Numbers of a step: loss (the batch's), mean_loss (of the epoch so far), learning_rate, items_per_second, seconds (of training so far, interruptions
// left out), eta_seconds; where the loss is scaled, loss_scale (of the next step). Of an evaluation: validation.<metric>, layer.<path>.<name>. Of an epoch: loss (the mean over its items), seconds, and where
// they went, phase.<name>. Of the end: best_epoch, best.<metric>, seconds.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/config/config.h"
#include "bitlab/train/task.h"

namespace bitlab::train {

struct Event {
  enum class Kind { kStep, kEvaluation, kEpoch, kEnd };
  Kind kind = Kind::kStep;
  int64_t step = 0, steps = 0;    // batches since training began, from 1, and those of the whole training
  int64_t epoch = 0, epochs = 0;  // from 1
  std::vector<Metric> numbers{};

  // Null where there is no such number.
  const double* find(std::string_view name) const;
};
// What TensorBoard and others group numbers by: "train/loss" of a step, "epoch/loss", "end/best_epoch"; "validation/accuracy" of "validation.accuracy".
std::string tag_of(Event::Kind kind, std::string_view number);
std::string_view name(Event::Kind kind);  // "step", "evaluation", "epoch", "end"

// Where a training stands that begins, or goes on from a checkpoint.
struct EventPosition {
  int64_t step = 0;           // batches that were trained on
  int64_t epochs = 0;         // epochs that are over
  double seconds = 0;         // of training
  bool is_evaluated = false;  // whether an evaluation behind that step was

  // Whether an event happened before: it will not come again.
  bool is_behind(Event::Kind kind, int64_t event_step, int64_t event_epoch) const;
};

// Events come in their order, from the thread that trains. An epoch's comes before the checkpoint that follows it, so that nothing is missing after an
// interruption; a sink drops what comes again.
class Sink {
 public:
  virtual ~Sink() = default;
  // Training begins. Events that are not behind `position` will come.
  virtual Status begin(const EventPosition& position) = 0;
  virtual Status write(const Event& event) = 0;
};

// Files, each of which has every epoch, the end, and every `every`th step. A training that begins empties its file; one that goes on cuts off what is not
// behind its position, and goes on behind it. Errors of begin() and write(): IoError, NotFound (the folder).
//
//   json_lines   an object a line: event, step, epoch, and the numbers
//   csv          a heading, and a line an event; a number that an event does not have stays empty. New columns rewrite the file
//   tensorboard  an event file in the folder: TFRecords of scalars, train/ and epoch/ in front of names without a part of their own
std::shared_ptr<Sink> json_lines(std::filesystem::path path, int64_t every = 1);
std::shared_ptr<Sink> csv(std::filesystem::path path, int64_t every = 1);
std::shared_ptr<Sink> tensorboard(const std::filesystem::path& folder, int64_t every = 1);

// Those that a config asks for: log.jsonl, metrics.csv and TensorBoard's file, in its folder or else in `folder`.
std::vector<std::shared_ptr<Sink>> make_sinks(const LogConfig& config, const std::filesystem::path& folder);

}  // namespace bitlab::train
