// The wire format of protocol buffers, for the few messages of files here: fields of a number, and varints, little-endian numbers or bytes behind it.
// Source: protobuf.dev/programming-guides/encoding.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitlab {

enum class ProtobufWire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// A message, field by field in the order of the calls. A field that is given again is one of a repeated field.
class ProtobufMessage {
 public:
  ProtobufMessage& number(int field, int64_t value);  // int32, int64, bool or an enumeration
  ProtobufMessage& float32(int field, float value);
  ProtobufMessage& float64(int field, double value);
  ProtobufMessage& text(int field, std::string_view bytes);  // string or bytes
  ProtobufMessage& message(int field, const ProtobufMessage& content) { return text(field, content.bytes_); }
  // All fields of another one of the same type.
  ProtobufMessage& append(const ProtobufMessage& fields) {
    bytes_ += fields.bytes_;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value);
  void key(int field, ProtobufWire wire);
  std::string bytes_;
};

// Reads fields one after the other; whatever does not fit ends it.
class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view bytes) : bytes_(bytes), size_(bytes.size()) {}
  bool next();
  // Behind the last field: whether there is something that does not fit, and where the reader stands.
  bool is_broken() const { return is_broken_; }
  size_t position() const { return size_ - bytes_.size(); }
  int field = 0;
  ProtobufWire wire = ProtobufWire::kVarint;
  uint64_t number = 0;         // of a varint
  std::string_view content{};  // of all else

 private:
  bool read_field();
  bool take(uint64_t size);
  std::string_view bytes_;
  size_t size_;
  bool is_broken_ = false;
};

// Appends what a field has of repeated varints: one, or several that are packed. False where it has neither.
bool append_varints(const ProtobufReader& reader, std::vector<int64_t>& numbers);

}  // namespace bitlab
