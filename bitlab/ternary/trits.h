// Base-3 storage of ternary weights: five a byte, 1.6 bits a weight. The form of files; codes (codes.h) are the form of memory.
//
// A row of a matrix [rows, depth] takes ceil(depth / 5) bytes; byte i = sum over j of (t[5 i + j] + 1) * 3^j, below 3^5 = 243. Unused digits
// of a row's last byte are 1 (t = 0).
#pragma once

#include <cstdint>
#include <span>

#include "bitlab/base/result.h"

namespace bitlab::ternary {

constexpr int64_t trit_row_bytes(int64_t depth) { return (depth + 4) / 5; }
constexpr int64_t trit_bytes(int64_t rows, int64_t depth) { return rows * trit_row_bytes(depth); }

// Valid codes [code_bytes(rows, depth)] to trits [trit_bytes(rows, depth)].
void pack_trits(std::span<const uint8_t> codes, int64_t rows, int64_t depth, std::span<uint8_t> trits);

// And back, to valid codes. Errors: ShapeMismatch (length of trits), Corrupt (a byte, an unused digit).
Status unpack_trits(std::span<const uint8_t> trits, int64_t rows, int64_t depth, std::span<uint8_t> codes);

}  // namespace bitlab::ternary
