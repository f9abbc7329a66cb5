// The tokenizers of GGUF files, keys "tokenizer.ggml.…", as tokenizer.json files and back. Four models:
//
//   gpt2    byte-pair encoding on bytes, with merges; pre_tokenizers.def says how text is cut
//   llama   SentencePiece's byte-pair encoding: any two neighbours that are a token together are joined, those of the highest score first
//   t5      Unigram
//   bert    WordPiece, where a token that begins a word has U+2581 in front, and others stand without "##"
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bitlab/data/internal/tokenizer_json.h"
#include "bitlab/data/tokenizer.h"
#include "bitlab/format/gguf/internal/container.h"

namespace bitlab::format::gguf {

using Pairs = std::vector<std::pair<std::string, Metadata>>;

// The keys for a model of `vocabulary` tokens; without a tokenizer, the one that says so. Numbers that the tokenizer lacks are tokens that nothing becomes. Errors: those of parse_tokenizer();
// Unsupported, for what llama.cpp would encode in another way, by name; InvalidArgument (more tokens than the model has).
Result<Pairs> tokenizer_metadata(const data::TokenizerFiles& files, int64_t vocabulary);

// What a file's keys say; empty where they say that there is none. Errors: Corrupt (arrays of different sizes, numbers that are no token's, texts that are no
// UTF-8 or not each other's only one, merges of what is no token), Unsupported (another model, another way of cutting text, pieces of more than 256 bytes).
Result<data::TokenizerFiles> tokenizer_of(const Contents& file);

inline constexpr std::string_view kTokenizerPrefix = "tokenizer.ggml.", kChatTemplate = "tokenizer.chat_template";
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

// A special token: how tokenizer_config.json and GGUF call it, and its number where a GGUF file of each model does not say it (-1: none). llama.cpp takes 11 of
// a gpt2 for the first two, whatever it is; that is left out.
struct Special {
  std::string_view config, key;
  int64_t of_llama, of_bert, of_t5;
};
inline constexpr Special kSpecials[] = {
    {"bos_token", "bos_token_id", 1, -1, -1},     {"eos_token", "eos_token_id", 2, -1, 1},
    {"unk_token", "unknown_token_id", 0, 100, 2}, {"sep_token", "seperator_token_id", -1, 102, -1},
    {"pad_token", "padding_token_id", -1, 0, 0},  {"cls_token", "cls_token_id", -1, 101, -1},
    {"mask_token", "mask_token_id", -1, 103, -1},
};
inline constexpr const Special& kUnknownToken = kSpecials[2];

// What llama.cpp calls a token whose number a vocabulary lacks.
inline std::string unused_name(size_t id) { return fmt::format("[PAD{}]", id); }

struct PreTokenizer {
  std::string_view names;  // which blanks part
  bool whole_words, adds_bos;
  data::Tree tree;  // of a tokenizer.json
};
// In the order of pre_tokenizers.def.
const std::vector<PreTokenizer>& pre_tokenizers();

// How a section of a tokenizer.json is done, without what may be said in several ways: its parts, each with what it does and no more.
data::Tree canonical(const data::Tree& section, const char* list);

}  // namespace bitlab::format::gguf
