// .bit files: round trips, the safetensors rules as an independent reader checks them, and every byte changed or cut.
#include "bitlab/format/bit/bit.h"

#include <cstring>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/file.h"
#include "bitlab/program/print.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::bit {
namespace {

using program::kBatch;
using program::kNone;
using program::Op;
using program::Program;
using program::ProgramBuilder;
using program::ValueId;

Program small() {
  const std::vector<int8_t> t{1, 0, -1, -1, 1, 0, 0, 0, 1, -1};
  std::vector<uint8_t> codes(4);
  ternary::pack_codes(t, 2, 5, codes);
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, {5, false}});
  const ValueId w = b.ternary("fc.weight", {2, 5}, codes, {0.5F, 0.25F});
  const ValueId bias = b.floats("fc.bias", {2}, {1.5F, -2.0F});
  const ValueId dense = b.floats("head.weight", {3, 2}, {1, 2, 3, 4, 5, 6});
  ValueId v = b.node(Op::ternary_linear, "fc", {x, w, bias}, {{"activation", std::string("int8")}}).value();
  v = b.node(Op::linear, "head", {v, dense, kNone}).value();
  b.metadata("model", "näme with \"quotes\"\n");
  return b.finish({v}).value();
}

struct Loaded {
  AlignedBuffer buffer;
  Result<Program> program;
};

Loaded load_bytes(const std::string& bytes) {
  AlignedBuffer buffer = AlignedBuffer::allocate(bytes.size()).value();
  std::memcpy(buffer.data(), bytes.data(), bytes.size());
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
  std::string bytes = serialize(small()).value();
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::string header = bytes.substr(8, length);
  const size_t at = header.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  header.replace(at, from.size(), to);
  header.resize(static_cast<size_t>(round_up(static_cast<int64_t>(header.size()) + 8, 64)) - 8, ' ');
  const std::string key = "\"bitlab.header_crc32\":\"";
  const size_t digits = header.find(key) + key.size();
  header.replace(digits, 8, "00000000");
  std::string prefix(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(prefix.data(), &size, 8);
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : prefix + header) {
    crc ^= static_cast<uint8_t>(c);
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320 : 0);
  }
  header.replace(digits, 8, fmt::format("{:08x}", ~crc));
  return prefix + header + bytes.substr(8 + length);
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
      {"\"shape\":[2,2]", "\"shape\":[4]"},
  };
  for (const auto& [from, to] : changes) {
    const Loaded loaded = load_bytes(with_graph(from, to));
    EXPECT_FALSE(loaded.program.ok()) << to;
  }
  EXPECT_EQ(load_bytes(with_graph("\"bitlab.version\":\"0\"", "\"bitlab.version\":\"9\"")).program.error().code,
            ErrorCode::kUnsupportedVersion);
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
