// What stands around a tokenizer's model: text is normalized and cut into words; tokens become text.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/data/internal/tokenizer_json.h"

namespace bitlab::data {

// A part of a text, in UTF-8.
struct Piece {
  std::string text;
  bool is_first = false;  // the whole text begins with it
};

using Normalizer = std::function<Result<std::string>(std::string text)>;
using Cutter = std::function<Status(std::vector<Piece>& pieces)>;  // pieces become shorter ones
using Decoder = std::function<Status(std::vector<std::string>& tokens)>;

// Each reads one section of a tokenizer.json, one step for each part; null: none. Errors: Corrupt, Unsupported.
Result<std::vector<Normalizer>> read_normalizers(const Tree& tree);
Result<std::vector<Cutter>> read_cutters(const Tree& tree);
Result<std::vector<Decoder>> read_decoders(const Tree& tree);

// Of Metaspace: which pieces get a space in front. Error: Unsupported.
enum class Scheme { kNever, kFirst, kAlways };
Result<Scheme> metaspace_scheme(const Tree& tree);

// The character that stands for each byte in vocabularies of bytes: itself where it is printable, else one from 256 on.
std::string spelled_bytes(std::string_view bytes);
// Adds the bytes that such characters stand for; a text with any other character as it is.
void append_spelled(std::string& bytes, std::string_view text);

// What `parts` leaves, with each of them replaced by `content`.
std::string with_replaced(std::string_view text, const std::vector<Span>& parts, std::string_view content);

}  // namespace bitlab::data
