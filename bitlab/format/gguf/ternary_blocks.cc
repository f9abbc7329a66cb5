// The places of values in blocks of ternary types.
#include <cstring>

#include "bitlab/format/gguf/internal/dialects.h"

namespace bitlab::format::gguf {
namespace {

// Fields of two bits with t + 1: value i of a block in byte byte_of(i), shifted by shift_of(i).
struct Field {
  int64_t byte;
  int shift;
};
// Each 128 values in 32 bytes, 32 values a field, from the lowest one on.
constexpr Field tq2_field(int64_t i) { return {i / 128 * 32 + i % 32, 2 * static_cast<int>(i % 128 / 32)}; }
// The same from the highest one on.
constexpr Field i2_s_field(int64_t i) { return {i % 32, 6 - 2 * static_cast<int>(i / 32)}; }
// Neighbours in a byte.
constexpr Field q2_0_field(int64_t i) { return {i / 4, 2 * static_cast<int>(i % 4)}; }

template <int64_t kValues, Field (*kField)(int64_t)>
bool decode_fields(const uint8_t* bytes, int8_t* t) {
  bool valid = true;
  for (int64_t i = 0; i < kValues; ++i) {
    const Field field = kField(i);
    const int code = bytes[field.byte] >> field.shift & 3;
    valid = valid && code != 3;
    t[i] = static_cast<int8_t>(code - 1);
  }
  return valid;
}
template <int64_t kValues, Field (*kField)(int64_t)>
void encode_fields(const int8_t* t, uint8_t* bytes) {
  std::memset(bytes, 0, static_cast<size_t>(kValues / 4));
  for (int64_t i = 0; i < kValues; ++i) {
    const Field field = kField(i);
    bytes[field.byte] = static_cast<uint8_t>(bytes[field.byte] | (t[i] + 1) << field.shift);
  }
}

uint16_t scale_at(const uint8_t* bytes) {
  uint16_t scale = 0;
  std::memcpy(&scale, bytes, sizeof(scale));
  return scale;
}
void put_scale(uint16_t scale, uint8_t* bytes) { std::memcpy(bytes, &scale, sizeof(scale)); }

bool decode_TQ2_0(const uint8_t* block, int8_t* t, uint16_t* scale) {
  *scale = scale_at(block + 64);
  return decode_fields<256, tq2_field>(block, t);
}
void encode_TQ2_0(const int8_t* t, uint16_t scale, uint8_t* block) {
  encode_fields<256, tq2_field>(t, block);
  put_scale(scale, block + 64);
}
bool decode_I2_S(const uint8_t* block, int8_t* t, uint16_t* scale) {
  *scale = 0;
  return decode_fields<128, i2_s_field>(block, t);
}
void encode_I2_S(const int8_t* t, uint16_t, uint8_t* block) { encode_fields<128, i2_s_field>(t, block); }

template <int64_t kValues>
bool decode_q2_0(const uint8_t* block, int8_t* t, uint16_t* scale) {
  *scale = scale_at(block);
  return decode_fields<kValues, q2_0_field>(block + 2, t);
}
template <int64_t kValues>
void encode_q2_0(const int8_t* t, uint16_t scale, uint8_t* block) {
  put_scale(scale, block);
  encode_fields<kValues, q2_0_field>(t, block + 2);
}
constexpr DecodeBlock decode_Q2_0 = decode_q2_0<64>, decode_Q2_0_G128 = decode_q2_0<128>;
constexpr EncodeBlock encode_Q2_0 = encode_q2_0<64>, encode_Q2_0_G128 = encode_q2_0<128>;

// Base 3: a byte is ceil(256 n / 243) of n = the sum of (t_j + 1) 3^(4 - j) over its values j, so that digits are the whole parts of repeated products with
// 3. Runs of a block: 32 bytes and 16 with five values each, 4 with four; value j of byte m is value j bytes + m of its run.
struct Run {
  int64_t bytes, digits;
};
constexpr Run kRuns[] = {{32, 5}, {16, 5}, {4, 4}};

bool decode_TQ1_0(const uint8_t* block, int8_t* t, uint16_t* scale) {
  for (const Run& run : kRuns) {
    for (int64_t m = 0; m < run.bytes; ++m) {
      unsigned rest = block[m];
      for (int64_t j = 0; j < run.digits; ++j) {
        t[j * run.bytes + m] = static_cast<int8_t>(static_cast<int>(rest * 3 >> 8) - 1);
        rest = rest * 3 & 0xFF;
      }
    }
    block += run.bytes;
    t += run.bytes * run.digits;
  }
  *scale = scale_at(block);
  return true;
}
void encode_TQ1_0(const int8_t* t, uint16_t scale, uint8_t* block) {
  for (const Run& run : kRuns) {
    for (int64_t m = 0; m < run.bytes; ++m) {
      int n = 0;
      for (int64_t j = 0; j < 5; ++j) n = 3 * n + (j < run.digits ? t[j * run.bytes + m] + 1 : 0);
      block[m] = static_cast<uint8_t>((n * 256 + 242) / 243);
    }
    block += run.bytes;
    t += run.bytes * run.digits;
  }
  put_scale(scale, block);
}

struct Codec {
  std::string_view name;
  DecodeBlock decode;
  EncodeBlock encode;
};
constexpr Codec kCodecs[] = {
#define BITLAB_GGUF_TERNARY(name, ...) {#name, decode_##name, encode_##name},
#include "bitlab/format/gguf/types.def"
};
const Codec& codec_of(const TypeInfo& type) {
  const Codec* codec = kCodecs;
  while (codec->name != type.name) ++codec;
  return *codec;
}

}  // namespace

DecodeBlock decoder_of(const TypeInfo& type) { return codec_of(type).decode; }
EncodeBlock encoder_of(const TypeInfo& type) { return codec_of(type).encode; }

}  // namespace bitlab::format::gguf
