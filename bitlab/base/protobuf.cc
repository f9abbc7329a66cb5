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

bool take_varint(std::string_view& bytes, uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes[0]);
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

}  // namespace

void ProtobufMessage::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7F) | 0x80);
  bytes_ += static_cast<char>(value);
}

void ProtobufMessage::key(int field, ProtobufWire wire) {
  varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}

ProtobufMessage& ProtobufMessage::number(int field, int64_t value) {
  key(field, ProtobufWire::kVarint);
  varint(static_cast<uint64_t>(value));
  return *this;
}

ProtobufMessage& ProtobufMessage::float32(int field, float value) {
  key(field, ProtobufWire::kFixed32);
  append_raw(bytes_, value);
  return *this;
}

ProtobufMessage& ProtobufMessage::float64(int field, double value) {
  key(field, ProtobufWire::kFixed64);
  append_raw(bytes_, value);
  return *this;
}

ProtobufMessage& ProtobufMessage::text(int field, std::string_view bytes) {
  key(field, ProtobufWire::kBytes);
  varint(bytes.size());
  bytes_ += bytes;
  return *this;
}

bool ProtobufReader::next() {
  if (bytes_.empty() || is_broken_) return false;
  is_broken_ = !read_field();
  return !is_broken_;
}

bool ProtobufReader::read_field() {
  constexpr uint64_t kMostField = (uint64_t{1} << 29) - 1;
  uint64_t tag = 0;
  if (!take_varint(bytes_, tag) || tag >> 3 == 0 || tag >> 3 > kMostField) return false;
  field = static_cast<int>(tag >> 3);
  wire = static_cast<ProtobufWire>(tag & 7);
  content = {}, number = 0;
  switch (wire) {
    case ProtobufWire::kVarint:
      return take_varint(bytes_, number);
    case ProtobufWire::kFixed64:
      return take(8);
    case ProtobufWire::kFixed32:
      return take(4);
    case ProtobufWire::kBytes: {
      uint64_t size = 0;
      return take_varint(bytes_, size) && take(size);
    }
  }
  return false;
}

bool append_varints(const ProtobufReader& reader, std::vector<int64_t>& numbers) {
  if (reader.wire == ProtobufWire::kVarint) numbers.push_back(static_cast<int64_t>(reader.number));
  std::string_view packed = reader.content;
  while (reader.wire == ProtobufWire::kBytes && !packed.empty()) {
    uint64_t value = 0;
    if (!take_varint(packed, value)) return false;
    numbers.push_back(static_cast<int64_t>(value));
  }
  return reader.wire == ProtobufWire::kVarint || reader.wire == ProtobufWire::kBytes;
}

bool ProtobufReader::take(uint64_t size) {
  if (size > bytes_.size()) return false;
  content = bytes_.substr(0, size);
  bytes_.remove_prefix(size);
  return true;
}

}  // namespace bitlab
