#include "bitlab/ternary/trits.h"

#include <algorithm>
#include <array>

#include "bitlab/ternary/codes.h"

namespace bitlab::ternary {
namespace {

constexpr int64_t kDigits = 5;                 // a byte
constexpr unsigned kValues = 243;              // 3^5
constexpr uint8_t kZeroTrits = 121;            // five digits of 1
constexpr uint16_t kInvalid = 0x8000;          // in the table: not a base-3 byte
constexpr int64_t kBytes = 4, kCodes = 5;      // four base-3 bytes hold as many weights as five bytes of codes
constexpr int64_t kWeights = 20;               // of both
constexpr uint64_t kZeroCodes = 0x5555555555;  // twenty codes of t = 0

// Byte to five codes, 10 bits.
constexpr std::array<uint16_t, 256> kTable = [] {
  std::array<uint16_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned codes = 0, rest = byte;
    for (int j = 0; j < kDigits; ++j, rest /= 3) codes |= rest % 3 << (2 * j);
    table[byte] = byte < kValues ? static_cast<uint16_t>(codes) : kInvalid;
  }
  return table;
}();

// Twenty codes, 40 bits; *seen collects kInvalid.
inline uint64_t decode(const uint8_t* trits, unsigned* seen) {
  const uint64_t a = kTable[trits[0]], b = kTable[trits[1]], c = kTable[trits[2]], d = kTable[trits[3]];
  *seen |= static_cast<unsigned>(a | b | c | d);
  return a | b << 10 | c << 20 | d << 30;
}

inline void store(uint64_t codes, int64_t bytes, uint8_t* out) {
  for (int64_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(codes >> (8 * i));
}

// Whether the row is valid.
bool unpack_row(const uint8_t* trits, int64_t depth, uint8_t* codes) {
  unsigned seen = 0;
  int64_t k = 0;
  for (; k + kWeights <= depth; k += kWeights, trits += kBytes, codes += kCodes) store(decode(trits, &seen), kCodes, codes);
  const int64_t left = depth - k;
  if (left != 0) {
    uint8_t last[kBytes] = {kZeroTrits, kZeroTrits, kZeroTrits, kZeroTrits};
    std::copy_n(trits, trit_row_bytes(left), last);
    const uint64_t value = decode(last, &seen);
    if ((value ^ kZeroCodes) >> (2 * left) != 0) return false;
    store(value, code_row_bytes(left), codes);
  }
  return (seen & kInvalid) == 0;
}

}  // namespace

void pack_trits(std::span<const uint8_t> codes, int64_t rows, int64_t depth, std::span<uint8_t> trits) {
  uint8_t* out = trits.data();
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* in = codes.data() + row * code_row_bytes(depth);
    for (int64_t k = 0; k < depth; k += kDigits) {
      int byte = 0;
      for (int64_t j = kDigits; j-- > 0;) byte = 3 * byte + (k + j < depth ? code_at(in, k + j) : 1);
      *out++ = static_cast<uint8_t>(byte);
    }
  }
}

Status unpack_trits(std::span<const uint8_t> trits, int64_t rows, int64_t depth, std::span<uint8_t> codes) {
  if (static_cast<int64_t>(trits.size()) != trit_bytes(rows, depth))
    return make_error(ErrorCode::kShapeMismatch, "[trits] {} bytes for [{}, {}], got {}", trit_bytes(rows, depth), rows,
                      depth, trits.size());
  const int64_t row_bytes = trit_row_bytes(depth);
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* in = trits.data() + row * row_bytes;
    if (unpack_row(in, depth, codes.data() + row * code_row_bytes(depth))) continue;
    // The first byte that is none, or the last one, whose unused digits are wrong.
    const int64_t bad = std::min<int64_t>(
        std::find_if(in, in + row_bytes, [](uint8_t byte) { return byte >= kValues; }) - in, row_bytes - 1);
    return make_error(ErrorCode::kCorrupt, "[trits] bytes below 243 with unused digits of 1, got {} (row={}, byte={})",
                      in[bad], row, bad);
  }
  return {};
}

}  // namespace bitlab::ternary
