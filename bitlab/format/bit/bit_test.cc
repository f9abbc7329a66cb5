// .bit files: round trips, the safetensors rules as an independent reader checks them, and every byte changed or cut.
#include "bitlab/format/bit/bit.h"

#include <algorithm>
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

// Symbols, types, states, storages, several outputs and what capture knew of a node come back; the rest of the text is as small as it can be.
TEST(Bit, RoundTripsTypesSymbolsAndStates) {
  const Program before = test::decoder_program();
  const std::string bytes = serialize(before).value();
  const Loaded loaded = load_bytes(bytes);
  const Program& after = loaded.program.value();
  EXPECT_EQ(after.symbols, before.symbols);
  ASSERT_EQ(after.values.size(), before.values.size());
  // Values stand in the order of the lists, not of the builder: they are found by name.
  for (const program::Value& v : before.values) {
    const auto found =
        std::find_if(after.values.begin(), after.values.end(), [&](const auto& o) { return o.name == v.name; });
    ASSERT_NE(found, after.values.end()) << v.name;
    EXPECT_TRUE(static_cast<const program::TensorType&>(*found) == v && found->kind == v.kind && found->storage == v.storage)
        << v.name;
  }
  ASSERT_EQ(after.outputs.size(), 3U);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(after.outputs[i].name, before.outputs[i].name);
  ASSERT_EQ(after.nodes.size(), before.nodes.size());
  for (size_t i = 0; i < after.nodes.size(); ++i) {
    EXPECT_EQ(after.nodes[i].attributes, before.nodes[i].attributes);
    EXPECT_EQ(after.nodes[i].exactness, before.nodes[i].exactness);
  }
  for (const program::Constant& constant : before.constants) {
    const std::string& name = before.value(constant.value).name;
    for (const program::Constant& other : after.constants) {
      if (after.value(other.value).name != name) continue;
      ASSERT_EQ(other.data.index(), constant.data.index()) << name;
      if (const auto* halves = std::get_if<program::HalfData>(&constant.data)) {
        EXPECT_TRUE(std::ranges::equal(halves->bits, std::get<program::HalfData>(other.data).bits));
      }
      if (const auto* raw = std::get_if<program::RawData>(&constant.data)) {
        EXPECT_TRUE(std::ranges::equal(raw->bytes, std::get<program::RawData>(other.data).bytes));
      }
    }
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  const auto graph = nlohmann::json::parse(header["__metadata__"]["bitlab.program"].get<std::string>());
  EXPECT_EQ(graph["symbols"], nlohmann::json::parse(R"([{"name": "batch"}, {"name": "tokens", "max": 12},
      {"name": "context", "max": 12, "context": true}])"));
  EXPECT_EQ(graph["inputs"], nlohmann::json::parse(R"([{"name": "ids", "shape": ["batch", "tokens"], "dtype": "int64"},
      {"name": "gain", "shape": [8], "dtype": "float16"}])"));
  EXPECT_EQ(graph["states"], nlohmann::json::parse(R"([{"name": "keys", "shape": ["batch", 1, "context", 4]},
      {"name": "values", "shape": ["batch", 1, "context", 4]}])"));
  EXPECT_EQ(graph["outputs"], nlohmann::json::parse(R"([{"name": "logits", "value": "logits"},
      {"name": "halves", "value": "narrow"}, {"name": "ids and sevens", "value": "twice"}])"));
  EXPECT_EQ(header["table"]["dtype"], "F16");
  EXPECT_EQ(header["seven"]["dtype"], "I64");
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
  EXPECT_EQ(load_bytes(with_graph("\"bitlab.version\":\"1\"", "\"bitlab.version\":\"9\"")).program.error().code,
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
            "[bit] a number, at most 8 integers, a text or a shape as an attribute in the graph, got 9223372036854775808");
  EXPECT_EQ(error_of("\\\"batch\\\",5", "\\\"batch\\\",0"),
            "[ternary_linear] at most 8 positive sizes and 2^40 values, got [batch, 0] (node=fc)");
  EXPECT_EQ(error_of("\"shape\":[2,1]", "\"shape\":[1,2]"),
            "[bit] U8 [2, 1] as the graph says, got U8 [1, 2] (tensor=fc.weight.trits)");
  EXPECT_EQ(error_of("\"dtype\":\"F32\"", "\"dtype\":\"F64\"")
                .find("[bit] a dtype of U8, I8, BOOL, F16, BF16, I32, F32, I64, got \"F64\""),
            0U);
}

// Every member of the graph of a decoder with something else in its place: one sentence that quotes the file.
TEST(Bit, ErrorsOfTypesSymbolsAndStates) {
  const std::string bytes = serialize(test::decoder_program()).value();
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const auto header = nlohmann::ordered_json::parse(bytes.substr(8, length));
  const std::string graph = header["__metadata__"]["bitlab.program"];
  const auto error_of = [&](const std::string& from, const std::string& to) -> std::string {
    std::string changed = graph;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    auto other = header;
    other["__metadata__"]["bitlab.program"] = changed;
    const std::string text = other.dump();
    const Loaded loaded = load_bytes(test::repaired(bytes.substr(0, 8) + text + bytes.substr(8 + length), text.size()));
    return loaded.program.ok() ? "no error" : loaded.program.error().message;
  };
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {R"("symbols":[{"name":"batch"})", R"("symbols":[7)", "[bit] a name for each entry in the graph, got 7"},
      {R"("max":12},)", R"("max":"12"},)",
       "[bit] integers as the range of a symbol, and whether it is the context in the graph, got "
       "{\"name\":\"tokens\",\"max\":\"12\"}"},
      {R"("max":12},)", R"("max":1e3},)",
       "[bit] integers as the range of a symbol, and whether it is the context in the graph, got "
       "{\"name\":\"tokens\",\"max\":1000.0}"},
      {R"("context":true)", R"("context":1)",
       "[bit] integers as the range of a symbol, and whether it is the context in the graph, got "
       "{\"name\":\"context\",\"max\":12,\"context\":1}"},
      {R"("max":12},)", R"("max":0},)",
       "[verify] a range inside 1 to 2^40, from 0 for the batch, got 1 to 0 (symbol=tokens)"},
      {R"("max":12},)", R"("max":-9223372036854775808},)",
       "[verify] a range inside 1 to 2^40, from 0 for the batch, got 1 to -9223372036854775808 (symbol=tokens)"},
      {R"("context":true)", R"("context":false)",
       "[attention] causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got "
       "[batch, 1, context, 4], [batch, 1, context, 4] for [batch, 1, tokens, 4], [batch, 1, tokens, 4] (node=attend)"},
      {R"(["batch","tokens"],"dtype":"int64")", R"(["batch","words"],"dtype":"int64")",
       "[bit] a number or a multiple of symbols as a dimension in the graph, got \"words\""},
      {R"(["batch","tokens"],"dtype":"int64")", R"(["batch","tokens^9"],"dtype":"int64")",
       "[bit] a number or a multiple of symbols as a dimension in the graph, got \"tokens^9\""},
      {R"(["batch","tokens"],"dtype":"int64")", R"(["batch",["tokens"]],"dtype":"int64")",
       "[bit] a number or a multiple of symbols as a dimension in the graph, got [\"tokens\"]"},
      {R"(["batch","tokens"],"dtype":"int64")", R"([1,1,1,1,1,1,1,1,1],"dtype":"int64")",
       "[bit] a shape of at most 8 sizes in the graph, got [1,1,1,1,1,1,1,1,1]"},
      {R"("dtype":"int64")", R"("dtype":"int65")",
       "[program] a dtype of float32, float16, bfloat16, int64, int32, bool, got 'int65'"},
      {R"("dtype":"int64")", R"("dtype":64)", "[bit] a text as dtype in the graph, got 64"},
      {R"("states":[)", R"("states":7,"other":[)",
       "[bit] lists of symbols, inputs, states, constants, nodes and outputs in the graph, got 7"},
      {R"({"name":"keys","shape":["batch",1,"context",4]})", R"({"name":"keys"})",
       "[bit] a shape of at most 8 sizes in the graph, got null"},
      {R"({"name":"keys","shape":["batch",1,"context",4]})", R"({"name":"ids","shape":["batch",1,"context",4]})",
       "[bit] a name that stands for one value in the graph, got \"ids\""},
      {R"("storage":"float16")", R"("storage":"float8")",
       "[program] a storage of plain, float16, bfloat16, ternary, int8, got 'float8'"},
      {R"("storage":"float16")", R"("storage":null)", "[bit] a text as storage in the graph, got null"},
      {R"("storage":"float16")", R"("storage":"bfloat16")",
       "[bit] BF16 [5, 8] as the graph says, got F16 [5, 8] (tensor=table)"},
      {R"("exactness":"same_kernel")", R"("exactness":"near")",
       "[program] an exactness of same_kernel, ieee_exact, bounded, got 'near'"},
      {R"("exactness":"same_kernel")", R"("exactness":[])", "[bit] a text as exactness in the graph, got []"},
      {R"({"shape":[8,4,4]})", R"({"shape":[8,4,5]})", "[split] sizes that add up to 16, got [8, 4, 5] (node=parts)"},
      {R"({"shape":[8,4,4]})", R"({"sizes":[8,4,4]})",
       "[bit] a number, at most 8 integers, a text or a shape as an attribute in the graph, got {\"sizes\":[8,4,4]}"},
      {R"({"shape":[8,4,4]})", R"("8")", "[verify] attribute 'sizes' of split, a shape, got a text (node=parts)"},
      {R"({"shape":[8,4,4]})", R"({"shape":{}})", "[bit] a shape of at most 4096 sizes in the graph, got {}"},
      {R"("parts:1")", R"("parts:3")", "[bit] the name of a value that stands before in the graph, got \"parts:3\""},
      {R"("outputs":[{"name":"logits","value":"logits"})", R"("outputs":["logits")",
       "[bit] a name for each entry in the graph, got \"logits\""},
      {R"("outputs":[{"name":"logits","value":"logits"})", R"("outputs":[{"name":"logits"})",
       "[verify] results of nodes as outputs, got value -1"},
      {R"("outputs":[{"name":"logits","value":"logits"})", R"("outputs":[{"name":"halves","value":"logits"})",
       "[verify] unique names of outputs, got 'halves'"},
      {R"("outputs":[{"name":"logits","value":"logits"})", R"("outputs":[{"name":"logits","value":"keys"})",
       "[verify] results of nodes as outputs, got value 2"},
  };
  EXPECT_EQ(error_of("\"max\":12},", "\"max\":12},"), "no error");
  EXPECT_EQ(error_of(R"({"shape":[8,4,4]})", R"([8,4,4])"), "no error");
  for (const auto& [from, to, message] : cases) EXPECT_EQ(error_of(from, to), message) << to;
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
