#include "bitlab/base/protobuf.h"

#include <cstring>

namespace bitlab {
namespace {

template <class T>
void append_raw(std::string& bytes, T value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes.append(raw, sizeof value);
}

}  // namespace

void ProtobufMessage::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7F) | 0x80);
  bytes_ += static_cast<char>(value);
}

void ProtobufMessage::key(int field, Wire wire) { varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire)); }

ProtobufMessage& ProtobufMessage::number(int field, int64_t value) {
  key(field, Wire::kVarint);
  varint(static_cast<uint64_t>(value));
  return *this;
}

ProtobufMessage& ProtobufMessage::float32(int field, float value) {
  key(field, Wire::kFixed32);
  append_raw(bytes_, value);
  return *this;
}

ProtobufMessage& ProtobufMessage::float64(int field, double value) {
  key(field, Wire::kFixed64);
  append_raw(bytes_, value);
  return *this;
}

ProtobufMessage& ProtobufMessage::text(int field, std::string_view bytes) {
  key(field, Wire::kBytes);
  varint(bytes.size());
  bytes_ += bytes;
  return *this;
}

bool ProtobufReader::next() {
  uint64_t tag = 0;
  if (bytes_.empty() || !read_varint(tag)) return false;
  field = static_cast<int>(tag >> 3);
  content = {}, number = 0;
  switch (static_cast<ProtobufMessage::Wire>(tag & 7)) {
    case ProtobufMessage::Wire::kVarint:
      return read_varint(number);
    case ProtobufMessage::Wire::kFixed64:
      return take(8);
    case ProtobufMessage::Wire::kFixed32:
      return take(4);
    case ProtobufMessage::Wire::kBytes: {
      uint64_t size = 0;
      return read_varint(size) && take(size);
    }
  }
  return false;
}

bool ProtobufReader::read_varint(uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes_[0]);
    bytes_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool ProtobufReader::take(uint64_t size) {
  if (size > bytes_.size()) return false;
  content = bytes_.substr(0, size);
  bytes_.remove_prefix(size);
  return true;
}

}  // namespace bitlab
