// What the types of GGUF's tensors mean: blocks of bytes as floats, or as ternary codes and scales, and the way back.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/format/decoder/decoder.h"
#include "bitlab/format/gguf/internal/container.h"
#include "bitlab/program/program.h"

namespace bitlab::format::gguf {

struct TypeInfo {
  std::string_view name;
  uint32_t id;
  int64_t values, bytes, more;
  bool is_ternary;
  // Of a tensor; 0 where its rows are no whole blocks.
  int64_t bytes_of(std::span<const int64_t> shape) const;
};
std::span<const TypeInfo> type_list();  // in the order of types.def
// By name. Null where there is none.
const TypeInfo* find_type(std::string_view name);

// The type of a tensor: of those with its number, the one whose bytes fill its place. Errors: Unsupported (another type; one that is none or several of
// those with its number, by its bytes), naming the tensor.
Result<const TypeInfo*> type_of(const Contents& file, const std::string& name, const TensorInfo& tensor);

// Of a ternary type: t [values] of a block and its scale; false where a code is none of -1, 0, +1. Without a scale of its own: 0.
using DecodeBlock = bool (*)(const uint8_t* block, int8_t* t, uint16_t* scale);
using EncodeBlock = void (*)(const int8_t* t, uint16_t scale, uint8_t* block);
DecodeBlock decoder_of(const TypeInfo& type);
EncodeBlock encoder_of(const TypeInfo& type);

// [rows, depth]. A tensor whose blocks that are not all 0 share a scale has one of the tensor, one whose rows' blocks do has scales of rows, others of groups
// of a block: t s is the same to the bit. `factor` multiplies them: of a tensor of its own. Errors: Corrupt (the length), Unsupported (a code, a factor of
// other scales than 1 that is not exact).
Result<decoder::Ternary> unpack(const TypeInfo& type, std::span<const uint8_t> bytes, int64_t rows, int64_t depth,
                                std::optional<float> factor, const std::string& name);

// Of a float type, [count]: float32, or float16 and bfloat16 as they are.
decoder::Weight unpack_floats(const TypeInfo& type, std::span<const uint8_t> bytes, std::vector<int64_t> shape);

struct Packed {
  std::string bytes;
  std::optional<float> factor;  // a scale of the tensor that float16 does not hold: blocks have 1
};
// Errors: Unsupported (rows that are no whole blocks, scales that a type does not hold), naming the tensor.
Result<Packed> pack(const TypeInfo& type, const program::TernaryData& data, int64_t rows, int64_t depth,
                    const std::string& name);

}  // namespace bitlab::format::gguf
