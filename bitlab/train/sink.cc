#include "bitlab/train/sink.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "bitlab/base/internal/json.h"
#include "bitlab/train/internal/event_stream.h"
#include "bitlab/train/internal/file_sink.h"

namespace bitlab::train {
namespace {

constexpr std::array<std::string_view, 4> kEventNames{"step", "evaluation", "epoch", "end"};

// The bytes of whole lines at the beginning for which is_kept(line, whether it is the first) holds.
template <class IsKept>
size_t kept_lines(std::string_view bytes, IsKept is_kept) {
  size_t at = 0;
  for (size_t end = 0; (end = bytes.find('\n', at)) != std::string_view::npos; at = end + 1)
    if (!is_kept(bytes.substr(at, end - at), at == 0)) break;
  return at;
}

bool is_line_behind(const EventPosition& position, std::string_view kind, int64_t step, int64_t epoch) {
  const auto found = std::find(kEventNames.begin(), kEventNames.end(), kind);
  return found != kEventNames.end() &&
         position.is_behind(static_cast<Event::Kind>(found - kEventNames.begin()), step, epoch);
}

class JsonLines final : public FileSink {
 public:
  using FileSink::FileSink;

 protected:
  size_t behind(std::string_view bytes, const EventPosition& position) override {
    return kept_lines(bytes, [&](std::string_view line, bool) {
      const Result<Json> json = parse_json(line, "log");
      if (!json.ok() || !json->is_object()) return false;
      const auto is_whole = [&](const char* key) { return json->contains(key) && is_int64((*json)[key]); };
      return is_whole("step") && is_whole("epoch") && json->contains("event") && (*json)["event"].is_string() &&
             is_line_behind(position, (*json)["event"].get<std::string>(), (*json)["step"].get<int64_t>(),
                            (*json)["epoch"].get<int64_t>());
    });
  }
  Result<std::string> record(const Event& event) override {
    Json json{{"event", name(event.kind)}, {"step", event.step}, {"epoch", event.epoch}};
    for (const Metric& number : event.numbers) json[number.name] = number.value;  // null, where it is not finite
    return json_text(json) + "\n";
  }
};

// A cell of RFC 4180; lines stay lines.
std::string csv_cell(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.find_first_of(",\"\r") == std::string::npos) return text;
  for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, 1, '"');
  return '"' + text + '"';
}

std::vector<std::string> csv_cells(std::string_view line) {
  std::vector<std::string> cells(1);
  bool is_quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"' && is_quoted && i + 1 < line.size() && line[i + 1] == '"') {
      cells.back() += line[++i];
    } else if (line[i] == '"') {
      is_quoted = !is_quoted;
    } else if (line[i] == ',' && !is_quoted) {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  return cells;
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (const std::string& cell : cells) line += (line.empty() ? "" : ",") + csv_cell(cell);
  return line + "\n";
}

bool read_whole(const std::string& text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

class Csv final : public FileSink {
 public:
  using FileSink::FileSink;

 protected:
  size_t behind(std::string_view bytes, const EventPosition& position) override {
    columns_ = first_columns();
    bool is_ours = false;
    const size_t kept = kept_lines(bytes, [&](std::string_view line, bool is_heading) {
      std::vector<std::string> cells = csv_cells(line);
      if (is_heading) {
        is_ours = cells.size() >= columns_.size() && std::equal(columns_.begin(), columns_.end(), cells.begin());
        if (is_ours) columns_ = std::move(cells);
        return is_ours;
      }
      int64_t step = 0, epoch = 0;
      return cells.size() == columns_.size() && read_whole(cells[1], step) && read_whole(cells[2], epoch) &&
             is_line_behind(position, cells[0], step, epoch);
    });
    return kept;
  }
  std::string opening() override { return csv_line(columns_ = first_columns()); }

  Result<std::string> record(const Event& event) override {
    BITLAB_RETURN_IF_ERROR(widen(event));
    std::vector<std::string> cells(columns_.size());
    cells[0] = name(event.kind), cells[1] = std::to_string(event.step), cells[2] = std::to_string(event.epoch);
    for (size_t i = first_columns().size(); i < columns_.size(); ++i)
      if (const double* value = event.find(columns_[i]); value != nullptr) cells[i] = fmt::format("{}", *value);
    return csv_line(cells);
  }

 private:
  static std::vector<std::string> first_columns() { return {"event", "step", "epoch"}; }

  // Columns for numbers that have none yet.
  Status widen(const Event& event) {
    const size_t before = columns_.size();
    for (const Metric& number : event.numbers)
      if (std::find(columns_.begin(), columns_.end(), number.name) == columns_.end()) columns_.push_back(number.name);
    if (columns_.size() == before) return {};
    BITLAB_TRY(const std::string content, read_file(path()));
    std::string wider = csv_line(columns_);
    const std::string commas(columns_.size() - before, ',');
    for (size_t at = content.find('\n') + 1, end = 0; (end = content.find('\n', at)) != std::string::npos; at = end + 1)
      wider.append(content, at, end - at).append(commas).append("\n");
    return replace(wider);
  }

  std::vector<std::string> columns_;
};

}  // namespace

std::string_view name(Event::Kind kind) { return kEventNames.at(static_cast<size_t>(kind)); }

std::string tag_of(Event::Kind kind, std::string_view number) {
  const size_t dot = number.find('.');
  if (dot != std::string_view::npos) return fmt::format("{}/{}", number.substr(0, dot), number.substr(dot + 1));
  return fmt::format("{}/{}", kind == Event::Kind::kStep ? "train" : name(kind), number);
}

const double* Event::find(std::string_view name) const { return train::find(numbers, name); }

bool EventPosition::is_behind(Event::Kind kind, int64_t event_step, int64_t event_epoch) const {
  if (kind == Event::Kind::kEnd) return false;
  if (kind == Event::Kind::kEpoch) return event_epoch <= epochs;
  return event_step < step || (event_step == step && (kind == Event::Kind::kStep || is_evaluated));
}

Status FileSink::begin(const EventPosition& position) {
  size_t kept = 0;
  if (std::error_code none; position.step > 0 && std::filesystem::exists(path_, none)) {
    BITLAB_TRY(const std::string bytes, read_file(path_));
    kept = behind(bytes, position);
  }
  BITLAB_TRY(file_, AppendFile::open(path_, kept));
  return kept == 0 ? file_.append(opening()) : Status();
}

Status FileSink::write(const Event& event) {
  if (event.kind == Event::Kind::kStep && event.step % every_ != 0) return {};
  BITLAB_TRY(const std::string bytes, record(event));
  return file_.append(bytes);
}

Status FileSink::replace(const std::string& content) {
  BITLAB_RETURN_IF_ERROR(write_file_atomic(path_, std::string_view(content)));
  BITLAB_TRY(file_, AppendFile::open(path_, content.size()));
  return {};
}

std::shared_ptr<Sink> json_lines(std::filesystem::path path, int64_t every) {
  return std::make_shared<JsonLines>(std::move(path), every);
}

std::shared_ptr<Sink> csv(std::filesystem::path path, int64_t every) {
  return std::make_shared<Csv>(std::move(path), every);
}

std::vector<std::shared_ptr<Sink>> make_sinks(const LogConfig& config, const std::filesystem::path& folder) {
  const std::filesystem::path place = config.folder.empty() ? folder : std::filesystem::path(config.folder);
  std::vector<std::shared_ptr<Sink>> sinks;
  for (const config::LogFormat format : config.formats) {
    if (format == config::LogFormat::kJsonLines) sinks.push_back(json_lines(place / "log.jsonl", config.steps));
    if (format == config::LogFormat::kCsv) sinks.push_back(csv(place / "metrics.csv", config.steps));
    if (format == config::LogFormat::kTensorBoard) sinks.push_back(tensorboard(place, config.steps));
  }
  return sinks;
}

Status EventStream::begin(const EventPosition& position) {
  position_ = position;
  place_ = {.step = position.step};
  begin_ = last_ = Clock::now();
  for (const auto& sink : sinks_) BITLAB_RETURN_IF_ERROR(sink->begin(position));
  return {};
}

double EventStream::seconds() const {
  return position_.seconds + std::chrono::duration<double>(Clock::now() - begin_).count();
}

Status EventStream::write(Event event) const {
  for (const auto& sink : sinks_) BITLAB_RETURN_IF_ERROR(sink->write(event));
  return {};
}

Status EventStream::step(const StepReport& report) {
  constexpr double kNew = 0.1;  // share of a step's time in the smoothed one
  if (sinks_.empty()) return {};
  const Clock::time_point now = Clock::now();
  const double elapsed = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  step_seconds_ = step_seconds_ == 0 ? elapsed : step_seconds_ + kNew * (elapsed - step_seconds_);
  place_ = {.kind = Event::Kind::kStep,
            .step = (report.epoch - 1) * report.steps + report.step,
            .steps = report.epochs * report.steps,
            .epoch = report.epoch,
            .epochs = report.epochs};
  Event event = place_;
  event.numbers = {{"loss", report.batch_loss},
                   {"mean_loss", report.loss},
                   {"learning_rate", report.learning_rate},
                   {"items_per_second", static_cast<double>(report.items) / std::max(step_seconds_, 1e-9)},
                   {"seconds", seconds()},
                   {"eta_seconds", step_seconds_ * static_cast<double>(event.steps - event.step)}};
  if (report.loss_scale > 0) event.numbers.push_back({"loss_scale", report.loss_scale});
  return write(std::move(event));
}

Status EventStream::evaluation(const EvaluationReport& report) {
  if (sinks_.empty()) return {};
  Event event = place_;
  event.kind = Event::Kind::kEvaluation;
  event.epoch = report.epoch;
  for (const Metric& metric : report.metrics) event.numbers.push_back({"validation." + metric.name, metric.value});
  for (const WeightStatistics& weight : report.weights)
    WeightStatistics(weight).each([&](std::string_view name, double share) {
      event.numbers.push_back({fmt::format("layer.{}.{}", weight.name, name), share});
    });
  const Status status = write(std::move(event));
  last_ = Clock::now();  // an evaluation is no step
  return status;
}

Status EventStream::epoch(const EpochReport& report) {
  if (sinks_.empty()) return {};
  Event event = place_;
  event.kind = Event::Kind::kEpoch;
  event.epoch = report.epoch;
  event.numbers = {{"loss", report.loss}, {"seconds", report.seconds}};
  PhaseSeconds(report.phases).each([&](std::string_view name, double seconds) {
    event.numbers.push_back({fmt::format("phase.{}", name), seconds});
  });
  return write(std::move(event));
}

Status EventStream::end(const TrainingReport& report) {
  if (sinks_.empty()) return {};
  Event event = place_;
  event.kind = Event::Kind::kEnd;
  event.epoch = static_cast<int64_t>(report.epochs.size());
  event.numbers = {{"best_epoch", static_cast<double>(report.best_epoch)}};
  for (const Metric& metric : report.best) event.numbers.push_back({"best." + metric.name, metric.value});
  event.numbers.push_back({"seconds", report.seconds});
  return write(std::move(event));
}

}  // namespace bitlab::train
