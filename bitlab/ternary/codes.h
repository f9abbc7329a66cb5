// Canonical packed codes: how ternary weights are stored in files and pass through operators.
//
// A matrix [rows, depth] of t in {-1, 0, +1} is stored row by row. A row takes ceil(depth / 4) bytes; byte i holds the weights
// k = 4 i + j in its bits 2 j and 2 j + 1, as t + 1. The value 3 does not occur; unused fields of a row's last byte hold 1 (t = 0).
// For a convolution depth runs over (kh, kw, c), c fastest.
#pragma once

#include <cstdint>
#include <span>

#include "bitlab/base/result.h"

namespace bitlab::ternary {

constexpr int64_t code_row_bytes(int64_t depth) { return (depth + 3) / 4; }
constexpr int64_t code_bytes(int64_t rows, int64_t depth) { return rows * code_row_bytes(depth); }

// The code of weight k in a packed row, in {0, 1, 2} for valid rows.
constexpr int code_at(const uint8_t* row, int64_t k) { return (row[k / 4] >> (2 * (k % 4))) & 3; }

// t [rows * depth], each in {-1, 0, 1}, to codes [code_bytes(rows, depth)], and back.
void pack_codes(std::span<const int8_t> t, int64_t rows, int64_t depth, std::span<uint8_t> codes);
void unpack_codes(std::span<const uint8_t> codes, int64_t rows, int64_t depth, std::span<int8_t> t);

// Whether every field, the unused ones included, is as the format says. Errors: ShapeMismatch (length), Corrupt (a field).
Status validate_codes(std::span<const uint8_t> codes, int64_t rows, int64_t depth);

// Fraction of weights that are zero.
double sparsity(std::span<const uint8_t> codes, int64_t rows, int64_t depth);

}  // namespace bitlab::ternary
