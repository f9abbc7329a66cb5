#include "bitlab/report/run_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/report/page.h"

namespace bitlab::report {
namespace {

namespace fs = std::filesystem;

// An event of the log: its numbers by name, those that are null as NaN.
struct Record {
  std::string event;
  double step = 0, epoch = 0;
  std::vector<std::pair<std::string, double>> numbers;

  const double* find(std::string_view name) const {
    for (const auto& [own, value] : numbers)
      if (own == name) return &value;
    return nullptr;
  }
};

// What a run's folder has.
struct RunFiles {
  std::vector<Record> steps, epochs, evaluations;
  Json report = Json::object(), environment = Json::object();
  std::string config;
};

std::optional<Record> record_of(std::string_view line) {
  const Result<Json> json = parse_json(line, "log");
  if (!json.ok() || !json->is_object() || !json->contains("event") || !(*json)["event"].is_string()) return {};
  Record record{(*json)["event"].get<std::string>(), 0, 0, {}};
  for (const auto& [key, value] : json->items()) {
    if (!value.is_number() && !value.is_null()) continue;
    const double number = value.is_null() ? std::nan("") : value.get<double>();
    if (key == "step") record.step = number;
    if (key == "epoch") record.epoch = number;
    if (key != "step" && key != "epoch") record.numbers.emplace_back(key, number);
  }
  return record;
}

void read_log(std::string_view text, RunFiles& files) {
  for (size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string_view::npos; at = end + 1) {
    std::optional<Record> record = record_of(text.substr(at, end - at));
    if (!record) continue;
    if (record->event == "step")
      files.steps.push_back(*std::move(record));
    else if (record->event == "epoch")
      files.epochs.push_back(*std::move(record));
    else if (record->event == "evaluation")
      files.evaluations.push_back(*std::move(record));
  }
}

// The text of a file that need not be there.
Result<std::string> read_if_there(const fs::path& path) {
  std::error_code none;
  return fs::exists(path, none) ? read_file(path) : Result<std::string>(std::string());
}

Result<Json> read_object(const fs::path& path) {
  BITLAB_TRY(const std::string text, read_if_there(path));
  if (text.empty()) return Json::object();
  BITLAB_TRY(Json json, parse_json(text, "report"));
  if (!json.is_object())
    return make_error(ErrorCode::kCorrupt, "[report] a JSON object, got {} (path={})", json_excerpt(json), path.string());
  return json;
}

// Epochs as report.json has them, of a run without a log.
void take_epochs(const Json& report, RunFiles& files) {
  if (!report.contains("epochs") || !report["epochs"].is_array()) return;
  for (const Json& epoch : report["epochs"]) {
    if (!epoch.is_object()) continue;
    Record record{"epoch", static_cast<double>(files.epochs.size() + 1), static_cast<double>(files.epochs.size() + 1), {}};
    for (const char* name : {"loss", "seconds"})
      if (epoch.contains(name) && epoch[name].is_number()) record.numbers.emplace_back(name, epoch[name].get<double>());
    if (epoch.contains("validation") && epoch["validation"].is_object())
      for (const auto& [name, value] : epoch["validation"].items())
        if (value.is_number()) record.numbers.emplace_back("validation." + name, value.get<double>());
    files.epochs.push_back(std::move(record));
  }
}

Result<RunFiles> read_run(const fs::path& folder) {
  RunFiles files;
  BITLAB_TRY(const std::string log, read_if_there(folder / "log.jsonl"));
  BITLAB_TRY(files.report, read_object(folder / "report.json"));
  BITLAB_TRY(files.environment, read_object(folder / "environment.json"));
  BITLAB_TRY(files.config, read_if_there(folder / "config.yaml"));
  if (log.empty() && files.report.empty())
    return make_error(ErrorCode::kNotFound, "[report] a run's folder with log.jsonl or report.json, got neither (path={})",
                      folder.string());
  read_log(log, files);
  if (files.epochs.empty()) take_epochs(files.report, files);
  return files;
}

std::string number_text(double value) { return fmt::format("{:.5g}", value); }

// A metric as people say it.
std::string metric_text(std::string_view name, double value) {
  return name.ends_with("accuracy") ? fmt::format("{:.2f} %", 100 * value) : number_text(value);
}

std::string json_value_text(const Json& json) {
  return json.is_string()         ? json.get<std::string>()
         : json.is_number_float() ? number_text(json.get<double>())
                                  : json_excerpt(json);
}

std::string facts_of_run(const RunFiles& files) {
  std::vector<Fact> facts;
  const Json& report = files.report;
  for (const char* part : {"test", "validation"})
    if (report.contains(part) && report[part].is_object())
      for (const auto& [name, value] : report[part].items())
        if (value.is_number()) facts.push_back({fmt::format("{} {}", part, name), metric_text(name, value.get<double>())});
  for (const char* name : {"best_epoch", "samples_test", "seconds"})
    if (report.contains(name)) facts.push_back({name, json_value_text(report[name])});
  if (report.empty())
    facts.push_back({"state", fmt::format("{} epochs so far; the run has not ended", files.epochs.size())});
  return fact_list(facts);
}

// --- curves

Series series_of(const std::vector<Record>& records, const std::string& number, const std::string& name) {
  Series series{name, {}, false};
  for (const Record& record : records)
    if (const double* value = record.find(number); value != nullptr) series.points.emplace_back(record.step, *value);
  return series;
}

// Means of neighbours, so that a curve has at most so many points.
Series thinned(Series series) {
  constexpr size_t kMost = 1000;
  const size_t each = (series.points.size() + kMost - 1) / kMost;
  if (each < 2) return series;
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < series.points.size(); i += each) {
    const size_t end = std::min(i + each, series.points.size());
    double x = 0, y = 0;
    for (size_t k = i; k < end; ++k) x += series.points[k].first, y += series.points[k].second;
    points.emplace_back(x / static_cast<double>(end - i), y / static_cast<double>(end - i));
  }
  series.points = std::move(points);
  return series;
}

// An exponential mean, without the pull of where it begins.
Series smoothed(const Series& series) {
  constexpr double kOld = 0.9;
  Series result{series.name + ", smoothed", {}, false};
  double sum = 0, weight = 0;
  for (const auto& [x, y] : series.points) {
    if (!std::isfinite(y)) continue;
    sum = kOld * sum + (1 - kOld) * y, weight = kOld * weight + (1 - kOld);
    result.points.emplace_back(x, sum / weight);
  }
  return result;
}

// The names that begin with `prefix`, in the order in which they come.
std::vector<std::string> names_with(const std::vector<Record>& records, std::string_view prefix) {
  std::vector<std::string> names;
  std::set<std::string> known;
  for (const Record& record : records)
    for (const auto& [name, value] : record.numbers)
      if (name.starts_with(prefix) && known.insert(name).second) names.push_back(name);
  return names;
}

// Epochs and what was evaluated between them.
std::vector<Record> evaluated(const RunFiles& files) {
  std::vector<Record> records = files.epochs;
  records.insert(records.end(), files.evaluations.begin(), files.evaluations.end());
  std::stable_sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.step < b.step; });
  return records;
}

std::string curves(const RunFiles& files) {
  const std::vector<Record> records = evaluated(files);
  const std::string x = files.steps.empty() && files.evaluations.empty() && !files.report.empty() ? "epochs" : "batches";
  Series raw = thinned(series_of(files.steps, "loss", "batches"));
  raw.is_faint = true;
  const Series smooth = smoothed(series_of(files.steps, "loss", "batches"));
  std::string charts = line_chart({"loss",
                                   "Loss",
                                   x,
                                   {raw, thinned(smooth), series_of(files.epochs, "loss", "epochs"),
                                    series_of(records, "validation.loss", "validation")}});
  for (const std::string& name : names_with(records, "validation."))
    if (name != "validation.loss") charts += line_chart({name, name, x, {series_of(records, name, name)}});
  for (const auto& [name, title] :
       {std::pair("learning_rate", "Learning rate"), std::pair("items_per_second", "Items a second")})
    charts += line_chart({name, title, x, {thinned(series_of(files.steps, name, title))}});
  return charts.empty() ? "" : "<h2>Curves</h2>\n<div class=\"charts\">\n" + charts + "</div>\n";
}

// --- tables

std::string cell_of(const double* value) {
  if (value == nullptr) return "<td></td>";
  if (!std::isfinite(*value)) return "<td class=\"number\">not finite</td>";
  return fmt::format("<td class=\"number\" data-value=\"{}\">{}</td>", *value, number_text(*value));
}

std::string head_of(const std::vector<std::string>& headings) {
  std::string text = "<div class=\"scroll\"><table class=\"compact\"><thead><tr>";
  for (const std::string& heading : headings) text += "<th>" + escaped(heading) + "</th>";
  return text + "</tr></thead><tbody>\n";
}

// The last evaluation of an epoch, or the epoch itself where it has the metrics.
const Record& evaluation_of(const RunFiles& files, const Record& epoch) {
  const Record* found = &epoch;
  for (const Record& evaluation : files.evaluations)
    if (evaluation.epoch == epoch.epoch) found = &evaluation;
  return *found;
}

std::string epochs_table(const RunFiles& files) {
  if (files.epochs.empty()) return "";
  const std::vector<std::string> metrics = names_with(evaluated(files), "validation.");
  std::vector<std::string> headings{"epoch", "loss"};
  headings.insert(headings.end(), metrics.begin(), metrics.end());
  headings.emplace_back("seconds");
  std::string text = "<h2>Epochs</h2>\n" + head_of(headings);
  for (const Record& record : files.epochs) {
    text += "<tr>" + cell_of(&record.epoch) + cell_of(record.find("loss"));
    for (const std::string& name : metrics) text += cell_of(evaluation_of(files, record).find(name));
    text += cell_of(record.find("seconds")) + "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

// "layer.blocks.0.fc.sparsity" is the number "sparsity" of the layer "blocks.0.fc".
struct LayerNumber {
  std::string layer, name;
  static LayerNumber of(const std::string& number) {
    const size_t begin = number.find('.') + 1, dot = number.rfind('.');
    return dot < begin ? LayerNumber{number.substr(begin), "value"}
                       : LayerNumber{number.substr(begin, dot - begin), number.substr(dot + 1)};
  }
};

void add_once(std::vector<std::string>& list, const std::string& item) {
  if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
}

std::string layers_section(const RunFiles& files) {
  const std::vector<Record> records = evaluated(files);
  const std::vector<std::string> numbers = names_with(records, "layer.");
  if (numbers.empty()) return "";
  std::vector<std::string> layers, columns;
  std::map<std::pair<std::string, std::string>, double> last;
  std::map<std::string, std::vector<Series>> series;
  for (const std::string& number : numbers) {
    const LayerNumber at = LayerNumber::of(number);
    add_once(layers, at.layer), add_once(columns, at.name);
    series[at.name].push_back(series_of(records, number, at.layer));
    last[{at.layer, at.name}] = series[at.name].back().points.back().second;
  }
  std::string charts;
  for (const std::string& column : columns) charts += line_chart({"layer." + column, column, "batches", series[column]});
  std::vector<std::string> headings = columns;
  headings.insert(headings.begin(), "layer");
  std::string text =
      "<h2>Layers</h2>\n<div class=\"charts\">\n" + charts + "</div>\n<p>At the last evaluation.</p>\n" + head_of(headings);
  for (const std::string& layer : layers) {
    text += "<tr><td>" + escaped(layer) + "</td>";
    for (const std::string& column : columns) {
      const auto found = last.find({layer, column});
      text += cell_of(found == last.end() ? nullptr : &found->second);
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

// Seconds by phase, over all epochs.
std::string phases_section(const RunFiles& files) {
  constexpr double kBar = 20;  // rem of the longest
  std::vector<std::pair<std::string, double>> phases;
  for (const std::string& number : names_with(files.epochs, "phase.")) {
    double sum = 0;
    for (const Record& record : files.epochs)
      if (const double* value = record.find(number); value != nullptr && std::isfinite(*value)) sum += *value;
    phases.emplace_back(number.substr(number.find('.') + 1), sum);
  }
  if (phases.empty()) return "";
  double most = 1e-12, all = 1e-12;
  for (const auto& [name, seconds] : phases) most = std::max(most, seconds), all += seconds;
  std::string text = "<h2>Time</h2>\n" + head_of({"phase", "seconds", "share"});
  for (const auto& [name, seconds] : phases)
    text += fmt::format(
        "<tr><td>{}</td>{}<td class=\"time\" data-value=\"{}\"><span class=\"bar\" style=\"width:{:.2f}rem\"></span>{:.1f} "
        "%</td></tr>\n",
        escaped(name), cell_of(&seconds), seconds, kBar * std::max(seconds, 0.0) / most, 100 * seconds / all);
  return text + "</tbody></table></div>\n";
}

// Counts of report.json, where they are a square of whole numbers with a name for each row.
std::vector<std::vector<int64_t>> counts_of(const Json& confusion) {
  std::vector<std::vector<int64_t>> counts;
  if (!confusion.is_object() || !confusion.contains("classes") || !confusion.contains("counts")) return {};
  const Json &classes = confusion["classes"], &rows = confusion["counts"];
  if (!classes.is_array() || !rows.is_array() || classes.size() != rows.size()) return {};
  for (const Json& row : rows) {
    if (!row.is_array() || row.size() != rows.size() || !std::all_of(row.begin(), row.end(), is_int64)) return {};
    counts.push_back(row.get<std::vector<int64_t>>());
  }
  const auto is_text = [](const Json& json) { return json.is_string(); };
  return std::all_of(classes.begin(), classes.end(), is_text) ? counts : std::vector<std::vector<int64_t>>();
}

std::string confusion_section(const Json& report) {
  if (!report.contains("confusion")) return "";
  const auto counts = counts_of(report["confusion"]);
  if (counts.empty()) return "";
  const auto classes = report["confusion"]["classes"].get<std::vector<std::string>>();
  std::string text =
      "<h2>Confusion</h2>\n<p>Test samples of a class, a row, by the class that they were taken for. The shade is the share "
      "of "
      "the row.</p>\n<div class=\"scroll\"><table class=\"matrix\"><tbody>\n<tr><th></th>";
  for (const std::string& name : classes) text += "<th scope=\"col\">" + escaped(name) + "</th>";
  text += "<th scope=\"col\">right</th></tr>\n";
  for (size_t row = 0; row < counts.size(); ++row) {
    double sum = 0;
    for (const int64_t count : counts[row]) sum += static_cast<double>(std::max<int64_t>(count, 0));
    const auto share = [&](int64_t count) { return sum == 0 ? 0 : static_cast<double>(std::max<int64_t>(count, 0)) / sum; };
    text += "<tr><th scope=\"row\">" + escaped(classes[row]) + "</th>";
    for (const int64_t count : counts[row]) text += fmt::format("<td style=\"--share:{:.3f}\">{}</td>", share(count), count);
    text += fmt::format("<td>{:.2f} %</td></tr>\n", 100 * share(counts[row][row]));
  }
  return text + "</tbody></table></div>\n";
}

std::string environment_section(const RunFiles& files) {
  std::vector<Fact> facts;
  for (const auto& [name, value] : files.environment.items()) facts.push_back({name, json_value_text(value)});
  return facts.empty() ? "" : "<h2>Environment</h2>\n" + fact_list(facts);
}

}  // namespace

Result<std::string> run_page(const fs::path& folder) {
  BITLAB_TRY(const RunFiles files, read_run(folder));
  const std::string model =
      files.report.contains("model") && files.report["model"].is_string() ? files.report["model"].get<std::string>() : "Run";
  std::string body = "<p>" + escaped(folder.lexically_normal().string()) + "</p>\n" + facts_of_run(files) + curves(files);
  body += epochs_table(files) + layers_section(files) + confusion_section(files.report) + phases_section(files);
  body += environment_section(files);
  if (!files.config.empty()) body += "<h2>Config</h2>\n<pre>" + escaped(files.config) + "</pre>\n";
  return page(model, body);
}

}  // namespace bitlab::report
