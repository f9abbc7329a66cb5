// For tests and fuzzers of .bit files: a small program, and checksums made right again after a change.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/core.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/program/program.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::bit::test {

// x [batch, 5] - ternary linear to 2 with a bias - float linear to 3.
inline program::Program small_program() {
  using namespace program;
  const std::vector<int8_t> t{1, 0, -1, -1, 1, 0, 0, 0, 1, -1};
  std::vector<uint8_t> codes(4);
  ternary::pack_codes(t, 2, 5, codes);
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 5});
  const ValueId w = b.ternary("fc.weight", {2, 5}, codes, {0.5F, 0.25F});
  const ValueId bias = b.floats("fc.bias", {2}, {1.5F, -2.0F});
  const ValueId dense = b.floats("head.weight", {3, 2}, {1, 2, 3, 4, 5, 6});
  ValueId v = b.node(Op::ternary_linear, "fc", {x, w, bias}, {{"activation", std::string("int8")}}).value();
  v = b.node(Op::linear, "head", {v, dense, kNone}).value();
  b.metadata("model", "näme with \"quotes\"\n");
  return b.finish({v}).value();
}

// tokens [batch, 4] - ternary table - attention of two heads - norms - a transposed convolution in groups - what moves values.
inline program::Program wide_program() {
  using namespace program;
  std::vector<uint8_t> table(3), filters(4);
  ternary::pack_codes(std::vector<int8_t>{1, 0, -1, 1, 0, 1, 1, -1, 0, 1, 0, -1}, 3, 4, table);
  ternary::pack_codes(std::vector<int8_t>{1, 0, -1, 1, 0, 1, 1, -1, 0, 1, 0, -1, 1, 1, 1, 1}, 4, 4, filters);
  ProgramBuilder b;
  const ValueId tokens = b.input("tokens", {kBatch, 4}, DType::kInt64);
  ValueId x = b.node(Op::ternary_embedding, "embed", {tokens, b.ternary("t", {3, 4}, table, {0.5F, 1, 2})}).value();
  x = b.node(Op::add, "add", {x, b.floats("p", {4, 1}, {1, 2, 3, 4})}).value();
  const ValueId heads = b.node(Op::reshape, "split", {x}, {{"shape", Shape{kBatch, 4, 2, 2}}}).value();
  const ValueId q = b.node(Op::permute, "heads", {heads}, {{"dims", Sizes{0, 2, 1, 3}}}).value();
  const ValueId y = b.node(Op::attention, "attend", {q, q, q, kNone}, {{"causal", int64_t{1}}, {"scale", 0.5}}).value();
  const ValueId joined = b.node(Op::reshape, "join", {y}, {{"shape", Shape{kBatch, 4, 4}}}).value();
  const ValueId norm =
      b.node(Op::layer_norm, "norm", {joined, b.floats("w", {4}, {1, 2, 3, 4})}, {{"dims", int64_t{1}}, {"eps", 1e-5}})
          .value();
  const ValueId up = b.node(Op::ternary_conv, "up", {norm, b.ternary("c", {4, 2, 2}, filters, {0.1F})},
                            {{"stride", Sizes{2}},
                             {"padding", Sizes{0}},
                             {"dilation", Sizes{1}},
                             {"transposed", int64_t{1}},
                             {"output_padding", Sizes{1}},
                             {"groups", int64_t{2}},
                             {"activation", std::string("int8")}})
                         .value();
  const ValueId part =
      b.node(Op::slice, "part", {up}, {{"dim", int64_t{2}}, {"start", int64_t{1}}, {"length", Shape{4}}}).value();
  const ValueId row =
      b.node(Op::expand, "row", {b.floats("r", {1, 1, 4}, {1, 2, 3, 4})}, {{"shape", Shape{kBatch, 1, 4}}}).value();
  const ValueId all = b.node(Op::cat, "cat", {row, part}, {{"dim", int64_t{1}}}).value();
  const ValueId product = b.node(Op::matmul, "product", {all, joined}).value();
  const ValueId head = b.int8("head", {2, 4}, {1, -127, 127, 0, 5, -6, 7, 8}, {0.5F, 0.25F});
  const ValueId y8 = b.node(Op::ternary_linear, "kept", {product, head}, {{"activation", std::string("int8")}}).value();
  return b.finish({b.node(Op::mean, "mean", {y8}).value()}).value();
}

// x [batch, 2, 4, 3] - float convolution padded beyond its window - batch norm - pools - int8 convolution - softmax.
inline program::Program image_program() {
  using namespace program;
  const Attributes window{{"stride", Sizes{2, 1}},    {"padding", Sizes{3, 1}},        {"dilation", Sizes{1, 2}},
                          {"transposed", int64_t{0}}, {"output_padding", Sizes{0, 0}}, {"groups", int64_t{1}}};
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2, 4, 3});
  const ValueId w = b.floats("w", {3, 2, 2, 2}, std::vector<float>(24, 0.5F));
  ValueId v = b.node(Op::conv, "conv", {x, w, b.floats("b", {3}, {1, 2, 3})}, window).value();
  v = b.node(Op::batch_norm, "norm", {v, b.floats("s", {3}, {1, 2, 3}), b.floats("t", {3}, {4, 5, 6})}).value();
  Attributes pool{{"kernel_size", Sizes{2, 2}}, {"stride", Sizes{1, 1}}, {"padding", Sizes{1, 0}}};
  v = b.node(Op::avg_pool, "mean", {v}, pool).value();
  pool["dilation"] = Sizes{1, 1};
  v = b.node(Op::max_pool, "most", {v}, pool).value();
  Attributes kept = window;
  kept["activation"] = std::string("int8");
  v = b.node(Op::ternary_conv, "kept", {v, b.int8("k", {2, 2, 1, 3}, {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12}, {0.5F})},
             kept)
          .value();
  return b.finish({b.node(Op::softmax, "softmax", {v}, {{"dim", int64_t{3}}}).value()}).value();
}

// ids [batch, tokens] - float16 table, scaled by a float16 input - ternary product - split - rotary - attention with states - logits
// [batch, tokens, 5], their halves, and the ids with 7 and themselves behind them.
inline program::Program decoder_program() {
  using namespace program;
  const auto weight = [](int64_t rows, int64_t depth) {
    std::vector<int8_t> t(static_cast<size_t>(rows * depth));
    for (size_t i = 0; i < t.size(); ++i) t[i] = static_cast<int8_t>(static_cast<int>(i * i % 7 % 3) - 1);
    std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
    ternary::pack_codes(t, rows, depth, codes);
    return codes;
  };
  const Attributes int8{{"activation", std::string("int8")}};
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 12), context = b.symbol("context");
  b.declare({"context", 1, 12, true});
  const ValueId ids = b.input("ids", {kBatch, tokens}, DType::kInt64), gain = b.input("gain", {8}, DType::kFloat16);
  std::vector<uint16_t> halves(40);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(0x3800 + 40 * i);  // from 0.5 on
  const ValueId table = b.halves("table", {5, 8}, halves, Storage::kFloat16);
  const ValueId factor = b.node(Op::cast, "factor", {gain}, {{"dtype", std::string("float32")}}).value();
  ValueId x = b.node(Op::embedding, "embed", {ids, table}).value();
  x = b.node(Op::mul, "scaled", {x, factor}).value();
  x = b.node(Op::ternary_linear, "qkv", {x, b.ternary("qkv.weight", {16, 8}, weight(16, 8), {0.5F})}, int8).value();
  const auto parts = b.nodes(Op::split, "parts", {x}, {{"dim", int64_t{2}}, {"sizes", Shape{8, 4, 4}}}).value();
  const ValueId at = b.node(Op::positions, "at", {}, {{"size", Shape{tokens}}, {"continues", int64_t{1}}}).value();
  const auto heads = [&](const std::string& name, ValueId part, int64_t count) {
    const ValueId y = b.node(Op::reshape, name + ".parts", {part}, {{"shape", Shape{kBatch, tokens, count, 4}}}).value();
    return b.node(Op::permute, name + ".heads", {y}, {{"dims", Sizes{0, 2, 1, 3}}}).value();
  };
  const auto rotated = [&](const std::string& name, ValueId part) {
    return b.node(Op::rotary, name, {part, at}, {{"theta", 10000.0}}).value();
  };
  const ValueId q = rotated("q", heads("query", parts[0], 2)), k = rotated("k", heads("key", parts[1], 1)),
                v = heads("value", parts[2], 1), none = kNone;
  const ValueId keys = b.state("keys", {kBatch, 1, context, 4}), values = b.state("values", {kBatch, 1, context, 4});
  x = b.node(Op::attention, "attend", {q, k, v, none, keys, values}, {{"causal", int64_t{1}}, {"scale", 0.5}}).value();
  b.set_exactness(Exactness::kSameKernel);
  x = b.node(Op::permute, "turned", {x}, {{"dims", Sizes{0, 2, 1, 3}}}).value();
  x = b.node(Op::reshape, "rows", {x}, {{"shape", Shape{kBatch * tokens, 8}}}).value();
  x = b.node(Op::ternary_linear, "head", {x, b.ternary("head.weight", {5, 8}, weight(5, 8), {0.25F})}, int8).value();
  x = b.node(Op::reshape, "logits", {x}, {{"shape", Shape{kBatch, tokens, 5}}}).value();
  const ValueId narrow = b.node(Op::cast, "narrow", {x}, {{"dtype", std::string("bfloat16")}}).value();
  const ValueId seven = b.raw("seven", DType::kInt64, {1, 1}, {7, 0, 0, 0, 0, 0, 0, 0});
  const ValueId sevens = b.node(Op::expand, "sevens", {seven}, {{"shape", Shape{kBatch, tokens}}}).value();
  const ValueId twice = b.node(Op::cat, "twice", {ids, sevens, ids}, {{"dim", int64_t{1}}}).value();
  return b.finish({{"logits", x}, {"halves", narrow}, {"ids and sevens", twice}}).value();
}

// CRC-32 bit by bit, independent of the library that the writer uses.
inline uint32_t crc32_of(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

// Pads the header to where the data begins, sets its length and both checksums. Leaves bytes alone that have no header of that form.
inline std::string repaired(const std::string& bytes, size_t header_size) {
  if (bytes.size() < 8 || header_size > bytes.size() - 8) return bytes;
  std::string header = bytes.substr(8, header_size), data = bytes.substr(8 + header_size);
  const auto set = [&](std::string_view key, uint32_t crc) {
    const size_t at = header.find(key);
    if (at != std::string::npos && at + key.size() + 8 <= header.size())
      header.replace(at + key.size(), 8, fmt::format("{:08x}", crc));
    return at != std::string::npos;
  };
  constexpr std::string_view kHeader = "\"bitlab.header_crc32\":\"", kData = "\"bitlab.data_crc32\":\"";
  header.resize(static_cast<size_t>(round_up(static_cast<int64_t>(header.size()) + 8, 64)) - 8, ' ');
  set(kData, crc32_of(data));
  if (!set(kHeader, 0)) return bytes;
  const uint64_t size = header.size();
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &size, 8);
  const size_t at = header.find(kHeader) + kHeader.size();
  if (at + 8 > header.size()) return bytes;
  header.replace(at, 8, "00000000");
  header.replace(at, 8, fmt::format("{:08x}", crc32_of(prefix + header)));
  return prefix + header + data;
}

}  // namespace bitlab::format::bit::test
