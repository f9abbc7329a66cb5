// A text file as a data set: its first nine tenths to train on, the rest to test.
#include "bitlab/base/file.h"
#include "bitlab/data/internal/options.h"

namespace bitlab::data {
Result<DatasetPtr> TextDataset::create(std::string text, int64_t tokens) {
  if (tokens < 1 || static_cast<int64_t>(text.size()) <= tokens)
    return make_error(ErrorCode::kInvalidArgument, "[text] at least one token and a text of more bytes, got {} and {}",
                      tokens, text.size());
  return DatasetPtr(new TextDataset(std::move(text), tokens));
}

Result<Sample> TextDataset::get(int64_t index) const {
  const std::string_view window =
      std::string_view(text_).substr(static_cast<size_t>(index * tokens_), static_cast<size_t>(tokens_ + 1));
  std::vector<int64_t> bytes;
  for (const char c : window) bytes.push_back(static_cast<uint8_t>(c));
  const std::span<const int64_t> all(bytes);
  return Sample{{Array::of("tokens", {tokens_}, all.first(all.size() - 1)), Array::of("next", {tokens_}, all.subspan(1))}};
}

Result<DatasetPtr> load_text(Split split, const DataOptions& options) {
  if (options.root.empty()) return make_error(ErrorCode::kInvalidArgument, "[text] a file to read (data.root), got none");
  BITLAB_TRY(const std::string text, read_file(options.root));
  BITLAB_TRY(const int64_t tokens, whole_option(options, "text", "tokens", TextSpec{}.tokens));
  const size_t cut = text.size() / 10 * 9;
  auto set = TextDataset::create(split == Split::kTrain ? text.substr(0, cut) : text.substr(cut), tokens);
  if (!set.ok()) return make_error(set.error().code, "{} (path={})", set.error().message, options.root.string());
  return set;
}

}  // namespace bitlab::data
