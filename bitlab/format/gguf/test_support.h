// For tests and fuzzers: tokenizers as keys.
#pragma once

#include "bitlab/format/gguf/internal/tokenizer.h"

namespace bitlab::format::gguf::test {

// The keys of a small tokenizer of each model.
inline Pairs keys_of(std::string_view model) {
  const auto key = [](std::string_view name) { return std::string(kTokenizerPrefix) + std::string(name); };
  const std::string mark(kSpaceMark);
  Pairs keys{{key("model"), std::string(model)}};
  if (model == "gpt2") {
    keys.emplace_back(key("pre"), std::string("qwen2"));
    keys.emplace_back(key("tokens"), array_of(std::vector<std::string>{"a", "b", "ab", "<|end|>", "[PAD4]"}));
    keys.emplace_back(key("token_type"), array_of(std::vector<int32_t>{1, 1, 1, 3, 5}));
    keys.emplace_back(key("merges"), array_of(std::vector<std::string>{"a b"}));
  } else if (model == "bert") {
    keys.emplace_back(key("tokens"), array_of(std::vector<std::string>{"[UNK]", mark + "a", "b", mark + "b"}));
    keys.emplace_back(key("token_type"), array_of(std::vector<int32_t>{3, 1, 1, 1}));
    keys.emplace_back(key("unknown_token_id"), int64_t{0});
  } else {
    keys.emplace_back(key("tokens"), array_of(std::vector<std::string>{"<unk>", mark, "a", mark + "a"}));
    keys.emplace_back(key("scores"), array_of(std::vector<float>{0, -3, -2, -1}));
    keys.emplace_back(key("token_type"), array_of(std::vector<int32_t>{2, 1, 1, 1}));
    keys.emplace_back(key("unknown_token_id"), int64_t{0});
  }
  return keys;
}

}  // namespace bitlab::format::gguf::test
