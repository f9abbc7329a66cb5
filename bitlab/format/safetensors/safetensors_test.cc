// The container; python/tests has files of it read and written by the safetensors library.
#include "bitlab/format/safetensors/safetensors.h"

#include <gtest/gtest.h>

namespace bitlab::format::safetensors {
namespace {

std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A file with this header and data.
std::string file_of(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return bytes + header + data;
}

std::string error_of(const std::string& file) {
  const auto parts = split(as_bytes(file), "test");
  if (!parts.ok()) return parts.error().message;
  const auto contents = read(parts.value(), "test");
  return contents.ok() ? "no error" : contents.error().message;
}

TEST(Safetensors, WhatIsWrittenComesBack) {
  const std::string numbers = "abcdefgh";
  const std::vector<NamedTensor> tensors{{"second", {ElementType::kF32, {2, 1}, as_bytes(numbers)}},
                                         {"first", {ElementType::kU8, {3}, {static_cast<const uint8_t*>(nullptr), 3}}},
                                         {"none", {ElementType::kI64, {0, 4}, {}}}};
  for (const size_t alignment : {8, 64}) {
    const std::string file = write(tensors, {{"key", "a text"}}, alignment);
    const Parts parts = split(as_bytes(file), "test").value();
    EXPECT_EQ((file.size() - parts.data.size()) % alignment, 0U);
    const Contents contents = read(parts, "test").value();
    EXPECT_EQ(contents.metadata.at("key"), "a text");
    EXPECT_EQ(contents.tensors.size(), 3U);
    const TensorView& second = contents.tensors.at("second");
    EXPECT_EQ(second.shape, (std::vector<int64_t>{2, 1}));
    EXPECT_EQ(std::string(second.bytes.begin(), second.bytes.end()), numbers);
    EXPECT_EQ(contents.tensors.at("first").bytes[2], 0) << "zeros";
  }
}

TEST(Safetensors, MetadataMayBeMissing) {
  EXPECT_EQ(error_of(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab")), "no error");
  EXPECT_EQ(error_of(file_of("{}", "")), "no error");
  EXPECT_EQ(error_of(file_of(R"({"__metadata__":{"a":1}})", "")),
            "[test] __metadata__ with text values, got a number (key=a)");
}

TEST(Safetensors, EveryByteIsOfOneTensor) {
  const auto pair = [](const char* first, const char* second) {
    return error_of(file_of(fmt::format(R"({{"a":{{"dtype":"U8","shape":[2],"data_offsets":{}}},)"
                                        R"("b":{{"dtype":"U8","shape":[2],"data_offsets":{}}}}})",
                                        first, second),
                            "abcd"));
  };
  EXPECT_EQ(pair("[2,4]", "[0,2]"), "no error");
  EXPECT_EQ(pair("[0,2]", "[1,3]"), "[test] tensors side by side, got a gap or an overlap at byte 2");
  EXPECT_EQ(pair("[0,2]", "[0,2]"), "[test] tensors side by side, got a gap or an overlap at byte 2");
  EXPECT_EQ(pair("[0,2]", "[3,5]"), "[test] offsets within 4 bytes of data, got 3 and 5 (tensor=b)");
  EXPECT_EQ(pair("[0,2]", "[2,3]"), "[test] 2 bytes by its shape, got 1 (tensor=b)");
  EXPECT_EQ(error_of(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "abc")),
            "[test] 3 bytes of data in tensors, got 2");
}

TEST(Safetensors, HeadersThatAreNoneAreErrors) {
  EXPECT_EQ(error_of("1234567"), "[test] a file of at least 8 bytes, got 7");
  EXPECT_EQ(
      error_of(std::string(8, '\xFF')),
      "[test] a header within the file of 8 bytes, got 18446744073709551615 bytes (truncated, or not a safetensors file)");
  EXPECT_EQ(error_of(file_of("[]", "")), "[test] a JSON object as the header, got a array");
  EXPECT_EQ(error_of(file_of(R"({"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", "12345678")),
            "[test] a dtype of U8, I8, BOOL, F16, BF16, I32, F32, I64, got \"F64\" (tensor=a)");
  EXPECT_EQ(error_of(file_of(R"({"a":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,0]}})", "")),
            "[test] a shape that fits memory, got [4611686018427387904,2] (tensor=a)");
}

}  // namespace
}  // namespace bitlab::format::safetensors
