// What tokenizers need to know of characters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bitlab/base/result.h"

namespace bitlab::data {

bool is_letter(char32_t c);       // L
bool is_number(char32_t c);       // N
bool is_space(char32_t c);        // White_Space
bool is_punctuation(char32_t c);  // P
bool is_mark(char32_t c);         // Mn
bool is_combining(char32_t c);    // M
bool is_word(char32_t c);         // L, M, Nd, Nl, Pc, letters in circles and squares, joiners
bool is_control(char32_t c);      // Cc, Cf, Co

// Character by character, without the rule of the final sigma.
std::u32string lower(std::u32string_view text);
// Normalization forms (Unicode Standard Annex 15).
enum class NormalForm { kNfd, kNfc, kNfkd, kNfkc };
std::u32string normalized(std::u32string_view text, NormalForm form);

// Of UTF-8: whether a byte goes on with a character, and where the character that begins at `begin` ends.
constexpr bool continues_character(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }
size_t character_end(std::string_view text, size_t begin);
// The character that begins at `at`, which moves behind it. The text is known to be UTF-8.
char32_t next_character(std::string_view text, size_t& at);

// Error: Corrupt (no UTF-8, with the place of the byte).
Result<std::u32string> from_utf8(std::string_view text);
void append_utf8(std::string& text, char32_t c);
std::string to_utf8(std::u32string_view text);

}  // namespace bitlab::data
