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
  const ValueId x = b.input("x", {kBatch, {5, false}});
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
  const ValueId tokens = b.input("tokens", {kBatch, {4, false}}, DType::kInt64);
  ValueId x = b.node(Op::ternary_embedding, "embed", {tokens, b.ternary("t", {3, 4}, table, {0.5F, 1, 2})}).value();
  x = b.node(Op::add, "add", {x, b.floats("p", {4, 1}, {1, 2, 3, 4})}).value();
  const ValueId heads = b.node(Op::reshape, "split", {x}, {{"shape", Sizes{-1, 4, 2, 2}}}).value();
  const ValueId q = b.node(Op::permute, "heads", {heads}, {{"dims", Sizes{0, 2, 1, 3}}}).value();
  const ValueId y = b.node(Op::attention, "attend", {q, q, q, kNone}, {{"causal", int64_t{1}}, {"scale", 0.5}}).value();
  const ValueId joined = b.node(Op::reshape, "join", {y}, {{"shape", Sizes{-1, 4, 4}}}).value();
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
      b.node(Op::slice, "part", {up}, {{"dim", int64_t{2}}, {"start", int64_t{1}}, {"length", int64_t{4}}}).value();
  const ValueId row = b.node(Op::expand, "row", {b.floats("r", {1, 1, 4}, {1, 2, 3, 4})}).value();
  const ValueId all = b.node(Op::cat, "cat", {row, part}, {{"dim", int64_t{1}}}).value();
  const ValueId product = b.node(Op::matmul, "product", {all, joined}).value();
  const ValueId head = b.int8("head", {2, 4}, {1, -127, 127, 0, 5, -6, 7, 8}, {0.5F, 0.25F});
  const ValueId y8 = b.node(Op::ternary_linear, "kept", {product, head}, {{"activation", std::string("int8")}}).value();
  return b.finish({b.node(Op::mean, "mean", {y8}).value()}).value();
}

// x [batch, 2, 4, 3] - float convolution padded beyond its window - batch norm - pools - int8 convolution - softmax.
inline program::Program image_program() {
  using namespace program;
  const std::map<std::string, Attribute> window{{"stride", Sizes{2, 1}},         {"padding", Sizes{3, 1}},
                                                {"dilation", Sizes{1, 2}},       {"transposed", int64_t{0}},
                                                {"output_padding", Sizes{0, 0}}, {"groups", int64_t{1}}};
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, {2, false}, {4, false}, {3, false}});
  const ValueId w = b.floats("w", {3, 2, 2, 2}, std::vector<float>(24, 0.5F));
  ValueId v = b.node(Op::conv, "conv", {x, w, b.floats("b", {3}, {1, 2, 3})}, window).value();
  v = b.node(Op::batch_norm, "norm", {v, b.floats("s", {3}, {1, 2, 3}), b.floats("t", {3}, {4, 5, 6})}).value();
  std::map<std::string, Attribute> pool{{"kernel_size", Sizes{2, 2}}, {"stride", Sizes{1, 1}}, {"padding", Sizes{1, 0}}};
  v = b.node(Op::avg_pool, "mean", {v}, pool).value();
  pool["dilation"] = Sizes{1, 1};
  v = b.node(Op::max_pool, "most", {v}, pool).value();
  std::map<std::string, Attribute> kept = window;
  kept["activation"] = std::string("int8");
  v = b.node(Op::ternary_conv, "kept", {v, b.int8("k", {2, 2, 1, 3}, {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12}, {0.5F})},
             kept)
          .value();
  return b.finish({b.node(Op::softmax, "softmax", {v}, {{"dim", int64_t{3}}}).value()}).value();
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
