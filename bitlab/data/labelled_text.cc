// Texts with labels, a line each: train.tsv and test.tsv of a folder, or .jsonl; where there is no test, dev or validation takes its place. A single file is split, every
// tenth line to test on. TSV: the text, a tab, the label; where a first line names columns, those called `text` and `label`. JSONL: objects with these keys.
#include <algorithm>
#include <set>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/data/internal/options.h"

namespace bitlab::data {
namespace {

constexpr std::string_view kLabelled = "labelled_text";

struct Line {
  std::string text, label, place;  // the last one for messages
};

struct LinesOptions {
  std::string text, label;  // names of columns or keys
  bool skips = false;
};

// Of a file: its lines, which may be broken.
struct Lines {
  std::vector<Result<Line>> list;
  std::filesystem::path path;
};

std::vector<std::string_view> split_at(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

Result<Line> line_of_json(std::string_view text, const LinesOptions& options) {
  BITLAB_TRY(const Json json, parse_json(text, kLabelled));
  if (!json.is_object() || !json.contains(options.text) || !json[options.text].is_string() || !json.contains(options.label))
    return make_error(ErrorCode::kCorrupt, "[labelled_text] an object with '{}' and '{}', got {}", options.text,
                      options.label, json_excerpt(json));
  const Json& label = json[options.label];
  return Line{json[options.text].get<std::string>(), label.is_string() ? label.get<std::string>() : json_text(label), ""};
}

// Where a line has its text and its label.
struct Columns {
  size_t text = 0, label = 1, count = 2;
};

Result<Line> line_of_columns(std::string_view line, const Columns& columns) {
  const auto cells = split_at(line, '\t');
  if (cells.size() != columns.count)
    return make_error(ErrorCode::kCorrupt, "[labelled_text] {} columns, got {}", columns.count, cells.size());
  return Line{std::string(cells[columns.text]), std::string(cells[columns.label]), ""};
}

Result<Lines> read_lines(const std::filesystem::path& path, const LinesOptions& options) {
  BITLAB_TRY(const std::string text, read_file(path));
  Lines lines{{}, path};
  Columns columns;
  const bool is_json = path.extension() == ".jsonl";
  int64_t number = 0;
  for (std::string_view line : split_at(text, '\n')) {
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (number == 1 && !is_json) {
      const auto cells = split_at(line, '\t');
      const auto text_cell = std::find(cells.begin(), cells.end(), options.text);
      const auto label_cell = std::find(cells.begin(), cells.end(), options.label);
      if (text_cell != cells.end() && label_cell != cells.end()) {
        columns = {static_cast<size_t>(text_cell - cells.begin()), static_cast<size_t>(label_cell - cells.begin()),
                   cells.size()};
        continue;
      }
    }
    const std::string place = fmt::format("path={}, line={}", path.string(), number);
    Result<Line> read = is_json ? line_of_json(line, options) : line_of_columns(line, columns);
    if (read.ok())
      read->place = place;
    else
      read = make_error(read.error().code, "{} ({})", read.error().message, place);
    lines.list.push_back(std::move(read));
  }
  return lines;
}

// The first file of these names that is there; empty: none.
std::filesystem::path find_part(const std::filesystem::path& root, std::initializer_list<const char*> names) {
  std::error_code ignored;
  for (const char* name : names)
    for (const char* ending : {".tsv", ".jsonl"})
      if (const auto path = root / (std::string(name) + ending); std::filesystem::exists(path, ignored)) return path;
  return {};
}

Result<Lines> lines_of(Split split, const std::filesystem::path& root, const LinesOptions& options) {
  std::error_code ignored;
  if (std::filesystem::is_directory(root, ignored)) {
    const auto path = split == Split::kTrain ? find_part(root, {"train"}) : find_part(root, {"test", "dev", "validation"});
    if (!path.empty()) return read_lines(path, options);
    return make_error(ErrorCode::kNotFound, "[labelled_text] {}.tsv or .jsonl, got no such file (path={})",
                      split == Split::kTrain ? "train" : "test", root.string());
  }
  BITLAB_TRY(Lines all, read_lines(root, options));
  Lines lines{{}, root};
  for (size_t i = 0; i < all.list.size(); ++i)
    if (is_in_split(i, split)) lines.list.push_back(std::move(all.list[i]));
  return lines;
}

// Numbers by their size, all else by letters.
std::vector<std::string> sorted_labels(const Lines& lines) {
  const auto is_number = [](const std::string& s) {
    return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  std::set<std::string> names;
  for (const Result<Line>& line : lines.list)
    if (line.ok()) names.insert(line->label);
  std::vector<std::string> list(names.begin(), names.end());
  if (std::all_of(list.begin(), list.end(), is_number))
    std::stable_sort(list.begin(), list.end(),
                     [](const std::string& a, const std::string& b) { return a.size() < b.size(); });
  return list;
}

class LabelledText final : public Dataset {
 public:
  struct Item {
    std::vector<int32_t> ids;
    int64_t label = 0;
  };
  LabelledText(TextSpec spec, std::vector<Item> items) : spec_(std::move(spec)), items_(std::move(items)) {}
  int64_t size() const override { return static_cast<int64_t>(items_.size()); }
  Preprocess preprocess() const override { return {spec_}; }
  Result<Sample> get(int64_t index) const override {
    const Item& item = items_.at(static_cast<size_t>(index));
    std::vector<int64_t> ids(item.ids.begin(), item.ids.end());
    ids.resize(static_cast<size_t>(spec_.tokens), spec_.vocabulary - 1);
    return Sample{
        {Array::of<int64_t>("tokens", {spec_.tokens}, ids), Array::of<int64_t>("label", {}, std::span(&item.label, 1))}};
  }

 private:
  TextSpec spec_;
  std::vector<Item> items_;
};

Result<LabelledText::Item> item_of(const Result<Line>& line, const TextSpec& spec, const Tokenizer& tokenizer) {
  if (!line.ok()) return line.error();
  const auto label = std::find(spec.labels.begin(), spec.labels.end(), line->label);
  if (label == spec.labels.end())
    return make_error(ErrorCode::kCorrupt, "[labelled_text] a label that there are texts to train on of, got '{}' ({})",
                      line->label, line->place);
  Result<std::vector<int64_t>> ids = tokenizer.encode(line->text);
  if (!ids.ok()) return make_error(ids.error().code, "{} ({})", ids.error().message, line->place);
  if (ids->empty())
    return make_error(ErrorCode::kCorrupt, "[labelled_text] a text of at least one token, got '{}' ({})", line->text,
                      line->place);
  ids->resize(std::min(ids->size(), static_cast<size_t>(spec.tokens)));
  return LabelledText::Item{{ids->begin(), ids->end()}, label - spec.labels.begin()};
}

}  // namespace

Result<DatasetPtr> load_labelled_text(Split split, const DataOptions& options) {
  if (options.root.empty())
    return make_error(ErrorCode::kInvalidArgument, "[labelled_text] a folder or a file to read (data.root), got none");
  LinesOptions own{text_option(options, "text", "text"), text_option(options, "label", "label"), false};
  BITLAB_TRY(own.skips, skips_errors(options, kLabelled));
  BITLAB_TRY(const TokenizerPtr tokenizer, load_tokenizer(text_option(options, "tokenizer", "bytes")));
  TextSpec spec{tokenizer->size() + 1, 0, {}};
  BITLAB_TRY(spec.tokens, whole_option(options, kLabelled, "tokens", TextSpec{}.tokens));
  constexpr int64_t kMaxTokens = 1 << 24;
  if (spec.tokens < 1 || spec.tokens > kMaxTokens)
    return make_error(ErrorCode::kInvalidArgument, "[labelled_text] from 1 to 2^24 tokens, got {}", spec.tokens);
  BITLAB_TRY(Lines lines, lines_of(Split::kTrain, options.root, own));
  spec.labels = sorted_labels(lines);
  if (split != Split::kTrain) {
    BITLAB_TRY(lines, lines_of(split, options.root, own));
  }
  std::vector<LabelledText::Item> items;
  int64_t skipped = 0;
  std::string first_error;
  for (const Result<Line>& line : lines.list) {
    Result<LabelledText::Item> item = item_of(line, spec, *tokenizer);
    if (item.ok())
      items.push_back(*std::move(item));
    else if (!own.skips)
      return item.error();
    else if (skipped++ == 0)
      first_error = item.error().message;
  }
  warn_of_skipped(kLabelled, skipped, static_cast<int64_t>(lines.list.size()), first_error);
  if (items.empty())
    return make_error(ErrorCode::kCorrupt, "[labelled_text] a line with a text and a label, got none (path={})",
                      lines.path.string());
  return DatasetPtr(std::make_shared<LabelledText>(std::move(spec), std::move(items)));
}

}  // namespace bitlab::data
