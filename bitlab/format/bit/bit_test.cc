// .bit files: round trips, the safetensors rules as an independent reader checks them, and every byte changed or cut.
#include "bitlab/format/bit/bit.h"

#include <cstring>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/file.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/program/print.h"

namespace bitlab::format::bit {
namespace {

using program::Program;

Program small() { return test::small_program(); }

struct Loaded {
  AlignedBuffer buffer;
  Result<Program> program;
};

Loaded load_bytes(const std::string& bytes) {
  AlignedBuffer buffer = AlignedBuffer::allocate(bytes.size()).value();
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  Result<Program> program = parse(buffer.bytes(), nullptr);
  return {std::move(buffer), std::move(program)};
}

TEST(Bit, RoundTrips) {
  const Program before = small();
  const std::string bytes = serialize(before).value();
  const Loaded loaded = load_bytes(bytes);
  const Program& after = loaded.program.value();
  EXPECT_EQ(print(after), print(before));
  EXPECT_EQ(after.metadata, before.metadata);
  EXPECT_EQ(serialize(after).value(), bytes) << "a second trip gives the same bytes";
  const auto& ternary = std::get<program::TernaryData>(after.constants[0].data);
  const auto& original = std::get<program::TernaryData>(before.constants[0].data);
  EXPECT_TRUE(std::equal(ternary.codes.begin(), ternary.codes.end(), original.codes.begin(), original.codes.end()));
  EXPECT_EQ(ternary.scale[1], 0.25F);
  EXPECT_EQ(std::get<program::FloatData>(after.constants[2].data)[5], 6.0F);
}

TEST(Bit, RoundTripsEveryKindOfAttributeAndInput) {
  for (const Program& before : {test::wide_program(), test::image_program(), test::decoder_program()}) {
    const std::string bytes = serialize(before).value();
    const Loaded loaded = load_bytes(bytes);
    EXPECT_EQ(print(loaded.program.value()), print(before));
    EXPECT_EQ(serialize(*loaded.program).value(), bytes);
  }
}

TEST(Bit, IsSafetensors) {
  const std::string bytes = serialize(small()).value();
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ((8 + length) % 64, 0U);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  std::map<uint64_t, uint64_t> parts;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& value : tensor) EXPECT_TRUE(value.is_string());
      continue;
    }
    const uint64_t begin = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
    uint64_t count = tensor["dtype"] == "F32" ? 4 : 1;
    for (uint64_t size : tensor["shape"]) count *= size;
    EXPECT_EQ(end - begin, count) << name;
    EXPECT_TRUE(name.starts_with("_pad") || begin % 64 == 0) << name;
    parts[begin] = end;
  }
  uint64_t end = 0;
  for (const auto& [from, to] : parts) {
    EXPECT_EQ(from, end) << "safetensors forbids holes";
    end = to;
  }
  EXPECT_EQ(8 + length + end, bytes.size());
}

TEST(Bit, AnyChangedBitIsFound) {
  const std::string bytes = serialize(small()).value();
  for (size_t i = 0; i < bytes.size(); ++i)
    for (int bit : {0, 3, 7}) {
      std::string broken = bytes;
      broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
      const Loaded loaded = load_bytes(broken);
      ASSERT_FALSE(loaded.program.ok()) << "byte " << i << ", bit " << bit;
      EXPECT_EQ(loaded.program.error().message.find('\n'), std::string::npos);
    }
}

TEST(Bit, AnyTruncationIsFound) {
  const std::string bytes = serialize(small()).value();
  for (size_t size = 0; size < bytes.size(); ++size) ASSERT_FALSE(load_bytes(bytes.substr(0, size)).program.ok()) << size;
  EXPECT_FALSE(load_bytes(bytes + "x").program.ok());
}

// Changes with checksums made right again reach the readers behind them.
std::string with_graph(const std::string& from, const std::string& to) {
  const std::string bytes = serialize(small()).value();
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::string header = bytes.substr(8, length);
  const size_t at = header.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  header.replace(at, from.size(), to);
  return test::repaired(bytes.substr(0, 8) + header + bytes.substr(8 + length), header.size());
}

TEST(Bit, ReadersBehindTheChecksumRefuseToo) {
  ASSERT_TRUE(load_bytes(with_graph("head.weight", "head.weighs")).program.error().code == ErrorCode::kCorrupt);
  const std::pair<const char*, const char*> changes[] = {
      {"\\\"scales\\\":2", "\\\"scales\\\":1"},
      {"\\\"scales\\\":2", "\\\"scales\\\":-2"},
      {"\\\"op\\\":\\\"linear\\\"", "\\\"op\\\":\\\"lineal\\\""},
      {"\\\"shape\\\":[2,5]", "\\\"shape\\\":[2,6]"},
      {"\\\"shape\\\":[2,5]", "\\\"shape\\\":[2,99999999999999999]"},
      {"\\\"shape\\\":[2,5]", "\\\"shape\\\":[10]"},
      {"\\\"shape\\\":[2,5]", "\\\"shape\\\":[]"},
      {"\\\"inputs\\\":[\\\"x\\\"", "\\\"inputs\\\":[\\\"y\\\""},
      {"\\\"activation\\\":\\\"int8\\\"", "\\\"activation\\\":7"},
      {"\"dtype\":\"F32\"", "\"dtype\":\"F64\""},
      {"\"data_offsets\":[0,", "\"data_offsets\":[1,"},
      {"\"shape\":[2,1]", "\"shape\":[1,2]"},
      {"fc.weight.trits", "fc.weight.codes"},
  };
  for (const auto& [from, to] : changes) {
    const Loaded loaded = load_bytes(with_graph(from, to));
    EXPECT_FALSE(loaded.program.ok()) << to;
  }
  EXPECT_EQ(load_bytes(with_graph("\"bitlab.version\":\"0\"", "\"bitlab.version\":\"9\"")).program.error().code,
            ErrorCode::kUnsupportedVersion);
}

// Errors quote the file; no number is wrapped into another one.
TEST(Bit, ErrorsSayWhatTheGraphHas) {
  const auto error_of = [](const char* from, const char* to) {
    return load_bytes(with_graph(from, to)).program.error().message;
  };
  EXPECT_EQ(error_of("\\\"shape\\\":[2,5]", "\\\"shape\\\":[2,0]"),
            "[bit] positive sizes of a constant in the graph, got [2,0]");
  EXPECT_EQ(error_of("\\\"shape\\\":[2,5]", "\\\"shape\\\":[18446744073709551615,5]"),
            "[bit] a number or a multiple of symbols as a dimension in the graph, got 18446744073709551615");
  EXPECT_EQ(error_of("\\\"activation\\\":\\\"int8\\\"", "\\\"activation\\\":9223372036854775808"),
            "[bit] a number, at most 5 integers, a text or a shape as an attribute in the graph, got 9223372036854775808");
  EXPECT_EQ(error_of("\\\"batch\\\",5", "\\\"batch\\\",0"),
            "[ternary_linear] at most 5 positive sizes and 2^40 values, got [batch, 0] (node=fc)");
  EXPECT_EQ(error_of("\"shape\":[2,1]", "\"shape\":[1,2]"),
            "[bit] U8 [2, 1] as the graph says, got U8 [1, 2] (tensor=fc.weight.trits)");
  EXPECT_EQ(error_of("\"dtype\":\"F32\"", "\"dtype\":\"F64\"")
                .find("[bit] a dtype of U8, I8, BOOL, F16, BF16, I32, F32, I64, got \"F64\""),
            0U);
}

TEST(Bit, FilesAreWrittenAndMapped) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_bit_{}.bit", getpid());
  ASSERT_TRUE(save(small(), path).ok());
  EXPECT_EQ(print(load(path).value()), print(small()));
  ASSERT_TRUE(write_file_atomic(path, std::string_view("PK")).ok());
  const Error error = load(path).error();
  EXPECT_EQ(error.message, fmt::format("[bit] a file of at least 8 bytes, got 2 (path={})", path.string()));
  std::filesystem::remove(path);
  EXPECT_EQ(load(path).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace bitlab::format::bit
