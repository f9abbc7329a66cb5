// A text file as a data set: its first nine tenths to train on, the rest to test. tinyshakespeare (A. Karpathy) is one that comes with BitLab.
#include "bitlab/base/file.h"
#include "bitlab/data/internal/locate.h"
#include "bitlab/data/internal/options.h"
#include "bitlab/data/internal/unicode.h"

namespace bitlab::data {
Result<DatasetPtr> TextDataset::create(std::string_view text, int64_t tokens, const Tokenizer& tokenizer) {
  BITLAB_TRY(const std::vector<int64_t> ids, tokenizer.encode(text));
  if (tokens < 1 || static_cast<int64_t>(ids.size()) <= tokens)
    return make_error(ErrorCode::kInvalidArgument, "[text] at least one token and a text of more tokens, got {} and {}",
                      tokens, ids.size());
  return DatasetPtr(new TextDataset({ids.begin(), ids.end()}, tokenizer.size(), tokens));
}

Result<Sample> TextDataset::get(int64_t index) const {
  const auto begin = ids_.begin() + index * tokens_;
  const std::vector<int64_t> window(begin, begin + tokens_ + 1);
  const std::span<const int64_t> all(window);
  return Sample{{Array::of("tokens", {tokens_}, all.first(all.size() - 1)), Array::of("next", {tokens_}, all.subspan(1))}};
}

Result<DatasetPtr> load_text(Split split, const DataOptions& options) {
  if (options.root.empty()) return make_error(ErrorCode::kInvalidArgument, "[text] a file to read (data.root), got none");
  BITLAB_TRY(const std::string text, read_file(options.root));
  BITLAB_TRY(const int64_t tokens, whole_option(options, "text", "tokens", TextSpec{}.tokens));
  BITLAB_TRY(const TokenizerPtr tokenizer, load_tokenizer(text_option(options, "tokenizer", "bytes")));
  size_t cut = text.size() / 10 * 9;
  while (cut > 0 && continues_character(text[cut])) --cut;  // between characters
  const std::string_view part = std::string_view(text).substr(split == Split::kTrain ? 0 : cut);
  auto set = TextDataset::create(split == Split::kTrain ? part.substr(0, cut) : part, tokens, *tokenizer);
  if (!set.ok()) return make_error(set.error().code, "{} (path={})", set.error().message, options.root.string());
  return set;
}

Result<DatasetPtr> load_tinyshakespeare(Split split, const DataOptions& options) {
  DataOptions of_file = options;
  BITLAB_TRY(of_file.root, locate("tinyshakespeare", options.root, {"input.txt"}));
  return load_text(split, of_file);
}

}  // namespace bitlab::data
