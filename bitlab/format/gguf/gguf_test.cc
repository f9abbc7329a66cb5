#include "bitlab/format/gguf/gguf.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "bitlab/format/bit/bit.h"
#include "bitlab/format/decoder/test_support.h"
#include "bitlab/format/gguf/internal/container.h"
#include "bitlab/format/gguf/internal/dialects.h"
#include "bitlab/format/gguf/internal/tokenizer.h"
#include "bitlab/format/gguf/test_support.h"

namespace bitlab::format::gguf {
namespace {

using decoder::Activation;
using decoder::Ternary;
using decoder::test::Options;
using decoder::test::packed;
using decoder::test::random_codes;
using decoder::test::random_decoder;
using decoder::test::Scales;
using decoder::test::small_config;
using program::Program;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
std::string error_of(const Result<Program>& program) { return program.ok() ? "no error" : program.error().message; }

// The places of values by their definition, one at a time.
int code_in(const TypeInfo& type, const uint8_t* block, int64_t i) {
  const auto field = [&](int64_t byte, int64_t place) { return block[byte] >> 2 * place & 3; };
  if (type.name == "TQ2_0") return field(i / 128 * 32 + i % 32, i / 32 % 4);
  if (type.name == "I2_S") return field(i % 32, 3 - i / 32);
  if (type.name != "TQ1_0") return field(2 + i / 4, i % 4);
  const int64_t byte = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4;
  const int64_t digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
  int n = block[byte] * 243 / 256;  // the digits as a number, of which the first is the highest
  for (int64_t j = digit; j < 4; ++j) n /= 3;
  return n % 3;
}

TEST(Dialects, EveryCodeIsInItsPlaceAndComesBack) {
  std::mt19937 random(3);
  for (const TypeInfo& type : type_list()) {
    if (!type.is_ternary) continue;
    for (const int64_t rows : {1, 3, 4}) {
      const int64_t depth = 2 * type.values;
      const auto count = static_cast<size_t>(rows * depth);
      for (const auto& t : {std::vector<int8_t>(count, -1), std::vector<int8_t>(count, 1), std::vector<int8_t>(count, 0),
                            random_codes(count, random)}) {
        const Ternary weight{packed(t, rows, depth), {0.375F}};
        const Packed blocks = pack(type, decoder::data_of(weight), rows, depth, "w").value();
        EXPECT_FALSE(blocks.factor);
        ASSERT_EQ(static_cast<int64_t>(blocks.bytes.size()), rows * 2 * type.bytes + type.more);
        for (size_t i = 0; i < count; ++i) {
          const auto at = static_cast<int64_t>(i);
          ASSERT_EQ(code_in(type, bytes_of(blocks.bytes).data() + at / type.values * type.bytes, at % type.values), t[i] + 1)
              << type.name << " " << i;
        }
        const Ternary back = unpack(type, bytes_of(blocks.bytes), rows, depth, std::nullopt, "w").value();
        EXPECT_EQ(back.codes, weight.codes) << type.name;
        EXPECT_EQ(back.scales.scale, weight.scales.scale) << type.name;
        EXPECT_EQ(back.scales.group, 0);
      }
    }
  }
}

// What float16 holds of scales by rows and groups comes back in as few numbers as it was.
TEST(Dialects, ScalesComeBackAsTheyWere) {
  std::mt19937 random(3);
  const TypeInfo& type = *find_type("Q2_0");
  const int64_t rows = 3, depth = 128;
  const std::vector<uint8_t> codes = packed(random_codes(384, random), rows, depth);
  const auto there_and_back = [&](const program::TernaryScales& scales) {
    const Ternary weight{codes, scales};
    const Packed blocks = pack(type, decoder::data_of(weight), rows, depth, "w").value();
    return unpack(type, bytes_of(blocks.bytes), rows, depth, blocks.factor, "w").value().scales;
  };
  EXPECT_EQ(there_and_back({0.1F}).scale, std::vector<float>{0.1F}) << "by a factor";
  EXPECT_EQ(there_and_back({0.0F}).scale, std::vector<float>{0.0F});
  EXPECT_EQ(there_and_back({-2.0F}).scale, std::vector<float>{-2.0F});
  EXPECT_EQ(there_and_back({0.5F, 2, 0.25F}).scale, (std::vector<float>{0.5F, 2, 0.25F}));
  program::TernaryScales groups;
  groups.group = 64;
  groups.group_scale = {1, 2, 3, 0x3C00, 0x4000, 6};
  EXPECT_EQ(there_and_back(groups).group_scale, groups.group_scale);
  EXPECT_EQ(there_and_back(groups).group, 64);
  groups.group = 128;  // two blocks a group
  groups.group_scale = {1, 2, 3};
  EXPECT_EQ(there_and_back(groups).scale, (std::vector<float>{0x1p-24F, 0x2p-24F, 0x3p-24F}));
}

TEST(Dialects, WhatWouldBeRoundedIsRefused) {
  const TypeInfo &tq2 = *find_type("TQ2_0"), &i2 = *find_type("I2_S");
  const std::vector<uint8_t> codes = packed(std::vector<int8_t>(512, 1), 2, 256);
  const auto error = [&](const TypeInfo& type, const program::TernaryScales& scales, int64_t depth = 256) {
    const Ternary weight{codes, scales};
    const auto result = pack(type, decoder::data_of(weight), 2, depth, "w");
    return result.ok() ? "no error" : result.error().message;
  };
  EXPECT_EQ(error(tq2, {0.1F, 0.2F}),
            "[gguf] scales of 256 values that float16 holds in TQ2_0, got those of rows in row 0 (tensor=w)");
  EXPECT_EQ(error(tq2, {0.5F}, 192), "[gguf] rows of whole blocks of 256 values in TQ2_0, got 192 (tensor=w)");
  EXPECT_EQ(error(i2, {0.5F, 1}), "[gguf] one scale of the tensor in I2_S, got those of rows (tensor=w)");
  EXPECT_EQ(error(i2, {0.1F, 0.1F}), "no error");
  program::TernaryScales groups;
  groups.group = 128;
  groups.group_scale = {1, 2, 3, 3};
  EXPECT_EQ(error(tq2, groups),
            "[gguf] scales of 256 values that float16 holds in TQ2_0, got those of groups in row 0 (tensor=w)");
  program::TernaryScales two{0.5F};
  two.scale_neg = {0.25F};
  EXPECT_EQ(error(tq2, two), "[gguf] one scale of t = +1 and of t = -1, got two (tensor=w)");
}

TEST(Dialects, ACodeOfNoWeightIsRefused) {
  for (const char* name : {"TQ2_0", "I2_S", "Q2_0"}) {
    const TypeInfo& type = *find_type(name);
    std::string blocks =
        pack(type, {packed(std::vector<int8_t>(256, 1), 1, 256), std::vector<float>{1}}, 1, 256, "w").value().bytes;
    blocks[5] = static_cast<char>(blocks[5] | 3 << 4);
    EXPECT_EQ(unpack(type, bytes_of(blocks), 1, 256, std::nullopt, "w").error().message,
              fmt::format("[gguf] ternary codes 0, 1 and 2 in {}, got 3 in row 0 (tensor=w)", name));
  }
}

// Two types have the number 42; the bytes that a tensor takes tell which it is.
TEST(Dialects, TypesWithOneNumberAreToldApartByTheirBytes) {
  const std::vector<int64_t> shape{32, 256};
  for (const char* name : {"Q2_0", "Q2_0_G128"}) {
    const TypeInfo& type = *find_type(name);
    const std::string file =
        write_container({}, {{"w", 42, shape, std::string(static_cast<size_t>(type.bytes_of(shape)), '\0')}});
    const Contents contents = read_container(bytes_of(file)).value();
    EXPECT_EQ(type_of(contents, "w", contents.tensors.at("w")).value()->name, name);
  }
  const auto error = [](uint32_t id, std::vector<int64_t> sizes, size_t bytes) {
    const std::string file = write_container({}, {{"w", id, std::move(sizes), std::string(bytes, '\0')}});
    const Contents contents = read_container(bytes_of(file)).value();
    return type_of(contents, "w", contents.tensors.at("w")).error().message;
  };
  EXPECT_EQ(
      error(42, {1, 128}, 36),
      "[gguf] a tensor of type 42 that is large enough to tell Q2_0 of 36 bytes, Q2_0_G128 of 34 bytes apart, got 64 bytes "
      "(tensor=w)");
  // The number that llama.cpp once gave to another type, of 18 bytes for 32 values.
  EXPECT_EQ(error(36, {32, 256}, 4608),
            "[gguf] a tensor [32, 256] of type 36: I2_S of 2080 bytes, got 4608 bytes (tensor=w)");
  EXPECT_EQ(
      error(12, {1, 256}, 144),
      "[gguf] a type of 0 F32, 1 F16, 8 Q8_0, 14 Q6_K, 30 BF16, 34 TQ1_0, 35 TQ2_0, 36 I2_S, 42 Q2_0, 42 Q2_0_G128, got 12 "
      "(tensor=w)");
}

struct Variant {
  const char* type;
  int64_t times;  // how wide a decoder must be
};
constexpr Variant kVariants[] = {{"tq2_0", 4}, {"tq1_0", 4}, {"q2_0", 1}, {"i2_s", 2}};

// The same program, to its weights' last bit, comes back from every architecture in every type.
TEST(Gguf, ProgramsComeBack) {
  for (const Variant& variant : kVariants)
    for (const bool sub_norms : {false, true})
      for (const Activation activation : {Activation::kSilu, Activation::kSquaredRelu}) {
        if (!sub_norms && activation == Activation::kSquaredRelu) continue;
        for (const auto table : {program::Storage::kPlain, program::Storage::kFloat16, program::Storage::kBFloat16}) {
          Options options{.tied = sub_norms, .biases = !sub_norms, .table = table};
          if (!sub_norms && variant.times != 2) options.scales = variant.times == 1 ? Scales::kGroups : Scales::kRows;
          const Program p = random_decoder(small_config(sub_norms, activation, variant.times), options);
          const std::string bytes = serialize(p, variant.type).value();
          const Program back = parse(bytes_of(bytes)).value();
          EXPECT_TRUE(bit::serialize(back).value() == bit::serialize(p).value()) << variant.type << " " << sub_norms;
          EXPECT_TRUE(serialize(back, variant.type).value() == bytes) << variant.type;
        }
      }
}

TEST(Gguf, EncodersComeBack) {
  using decoder::Pooling;
  for (const Variant& variant : kVariants)
    for (const Pooling pooling : {Pooling::kNone, Pooling::kMean, Pooling::kFirst, Pooling::kClassifier})
      for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh}) {
        Options options{.biases = pooling != Pooling::kMean, .table = program::Storage::kFloat16};
        if (variant.times != 2) options.scales = variant.times == 1 ? Scales::kGroups : Scales::kRows;
        const Program p = random_decoder(decoder::test::small_encoder(pooling, activation, variant.times), options);
        const std::string bytes = serialize(p, variant.type).value();
        const Program back = parse(bytes_of(bytes)).value();
        EXPECT_TRUE(bit::serialize(back).value() == bit::serialize(p).value()) << variant.type;
        EXPECT_TRUE(serialize(back, variant.type).value() == bytes) << variant.type;
      }
}

TEST(Gguf, EncodersThatLlamaCppDoesNotHaveAreRefused) {
  decoder::Config config = decoder::test::small_encoder(decoder::Pooling::kNone, Activation::kGelu);
  EXPECT_EQ(serialize(random_decoder(config, {.scale = 0.1F}), "q2_0").error().message,
            "[gguf] a scale that float16 holds in Q2_0 of bert, got 0.1 (tensor=blk.0.attn_q.weight)");
  config.head_dim = 8;
  EXPECT_EQ(serialize(random_decoder(config), "q2_0").error().message,
            "[gguf] heads that are 64 values together in an encoder, got 4 of 8");
}

// A scale that float16 does not hold stands beside its tensor, where the architecture has a place for it.
TEST(Gguf, ScalesOfTensorsAreKept) {
  const Program p = random_decoder(small_config(true, Activation::kSilu), {.scale = 0.1F});
  const std::string bytes = serialize(p, "q2_0").value();
  EXPECT_TRUE(bit::serialize(parse(bytes_of(bytes)).value()).value() == bit::serialize(p).value());
  EXPECT_EQ(read_container(bytes_of(bytes)).value().tensors.count("blk.1.ffn_down.scale"), 1U);
  const Program squared = random_decoder(small_config(true, Activation::kSquaredRelu), {.scale = 0.1F});
  EXPECT_EQ(serialize(squared, "q2_0").error().message,
            "[gguf] a scale that float16 holds in Q2_0 of bitnet-b1.58, got 0.1 (tensor=blk.0.attn_q.weight)");
}

TEST(Gguf, DecodersThatNoArchitectureHasAreRefused) {
  const auto error = [](bool sub_norms, Activation activation, const Options& options) {
    return serialize(random_decoder(small_config(sub_norms, activation), options), "q2_0").error().message;
  };
  EXPECT_EQ(error(false, Activation::kSquaredRelu, {}), "[gguf] SiLU in a decoder without sub-norms, got squared ReLU");
  EXPECT_EQ(error(true, Activation::kSilu, {.tied = false}),
            "[gguf] a head that is the embedding's table in a decoder with sub-norms, got one of its own");
  EXPECT_EQ(error(true, Activation::kSilu, {.biases = true}),
            "[gguf] products without biases in a decoder with sub-norms, got one in blk.0.attn_q");
}

// A file with one member changed.
struct Member {
  std::vector<std::pair<std::string, Metadata>> metadata;
  std::vector<Tensor> tensors;

  explicit Member(const Program& program = random_decoder(small_config(true, Activation::kSilu))) {
    const std::string bytes = serialize(program, "q2_0").value();
    const Contents contents = read_container(bytes_of(bytes)).value();
    for (const auto& [key, value] : contents.metadata) metadata.emplace_back(key, value);
    for (const auto& [name, tensor] : contents.tensors) {
      const int64_t size = type_of(contents, name, tensor).value()->bytes_of(tensor.shape);
      tensors.push_back({name,
                         tensor.type,
                         tensor.shape,
                         {reinterpret_cast<const char*>(tensor.bytes.data()), static_cast<size_t>(size)}});
    }
  }
  Metadata& value(const std::string& key) {
    for (auto& [name, value] : metadata)
      if (name == key) return value;
    metadata.emplace_back(key, int64_t{0});
    return metadata.back().second;
  }
  Tensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  }
  std::string error() const { return error_of(parse(bytes_of(write_container(metadata, tensors)))); }
};

template <class Change>
std::string error_with(const Change& change) {
  Member file;
  change(file);
  return file.error();
}

TEST(Gguf, OtherEncodersAreRefusedByWhatTheyHave) {
  const Program encoder = random_decoder(decoder::test::small_encoder(decoder::Pooling::kClassifier, Activation::kGelu));
  const auto error = [&](const auto& change) {
    Member file(encoder);
    change(file);
    return file.error();
  };
  EXPECT_EQ(error([](Member&) {}), "no error");
  EXPECT_EQ(error([](Member& f) { f.value("bert.attention.causal") = true; }),
            "[gguf] an encoder whose tokens see all others, got a causal one");
  EXPECT_EQ(error([](Member& f) { f.value("bert.pooling_type") = int64_t{3}; }),
            "[gguf] a pooling_type of 0, 1, 2, 4, got 3");
  EXPECT_EQ(error([](Member& f) { f.value("bert.hidden_activation") = std::string("relu"); }),
            "[gguf] an activation of gelu, gelu_pytorch_tanh, got relu");
  EXPECT_EQ(error([](Member& f) { f.value("bert.expert_count") = int64_t{4}; }),
            "[gguf] a plain network, got another (key=bert.expert_count)");
  EXPECT_EQ(error([](Member& f) { f.value("bert.pooling_type") = int64_t{0}; }),
            "[gguf] tensors of the architecture bert, got another (tensor=cls.output.weight)");
  EXPECT_EQ(
      error([](Member& f) { std::erase_if(f.tensors, [](const Tensor& t) { return t.name == "position_embd.weight"; }); }),
      "[gguf] weights of every part, got none (part=embed_positions)");
  EXPECT_EQ(
      error([](Member& f) { std::erase_if(f.tensors, [](const Tensor& t) { return t.name == "cls.output.weight"; }); }),
      "[gguf] a size from 1 to 2147483648, got 0 (name=classes)");
  EXPECT_EQ(error([](Member& f) { f.tensor("token_types.weight").shape = {64}; }), "no error");
}

TEST(Gguf, OtherNetworksAreRefusedByWhatTheyHave) {
  EXPECT_EQ(Member().error(), "no error");
  EXPECT_EQ(error_with([](Member& f) { f.value("general.architecture") = std::string("falcon"); }),
            "[gguf] an architecture of llama, bitnet, bitnet-b1.58, bitnet-25, bert, got falcon");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.expert_count") = int64_t{8}; }),
            "[gguf] a plain network, got another (key=bitnet.expert_count)");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.rope.scaling.type") = std::string("yarn"); }),
            "[gguf] a plain network, got another (key=bitnet.rope.scaling.type)");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.rope.dimension_count") = int64_t{8}; }),
            "[gguf] a plain network, got another (key=bitnet.rope.dimension_count)");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.hidden_activation") = std::string("gelu"); }),
            "[gguf] an activation of silu, relu2, got gelu");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.block_count") = int64_t{3}; }),
            "[gguf] weights of every part, got none (part=layers.2.input_layernorm)");
  EXPECT_EQ(error_with([](Member& f) { f.value("bitnet.block_count") = std::string("2"); }),
            "[gguf] one number for all layers, got another type (key=bitnet.block_count)");
  EXPECT_EQ(error_with([](Member& f) {
              std::erase_if(f.metadata, [](const auto& m) { return m.first == "bitnet.embedding_length"; });
            }),
            "[gguf] a value of every size, got none (key=bitnet.embedding_length)");
  EXPECT_EQ(error_with([](Member& f) {
              f.tensors.push_back({"rope_freqs.weight", 0, {8}, std::string(32, '\0')});
            }),
            "[gguf] tensors of the architecture bitnet, got another (tensor=rope_freqs.weight)");
  EXPECT_EQ(error_with([](Member& f) {
              f.tensor("blk.0.attn_k.weight").shape = {64, 32};
            }),
            "[gguf] a tensor [64, 32] of type 42: Q2_0 of 0 bytes, Q2_0_G128 of 0 bytes, got 576 bytes "
            "(tensor=blk.0.attn_k.weight)");
  EXPECT_EQ(error_with([](Member& f) {
              f.tensor("output_norm.weight").shape = {8, 8};
            }),
            "[gguf] [64] as the sizes say, got [8, 8] (part=norm)");
}

void set_key(Pairs& keys, std::string_view name, std::optional<Metadata> value) {
  const std::string key = std::string(kTokenizerPrefix) + std::string(name);
  std::erase_if(keys, [&](const auto& pair) { return pair.first == key; });
  if (value) keys.emplace_back(key, *std::move(value));
}
Result<data::TokenizerFiles> files_of(const Pairs& keys) {
  return parse_tokenizer_files(bytes_of(write_container(keys, {})));
}

TEST(Tokenizer, IsReadFromItsKeys) {
  const auto numbers = [](std::string_view model, std::string_view text) {
    return data::parse_tokenizer(files_of(test::keys_of(model)).value().tokenizer).value()->encode(text).value();
  };
  EXPECT_EQ(numbers("gpt2", "abab<|end|>b"), (std::vector<int64_t>{2, 2, 3, 1}));
  EXPECT_EQ(numbers("bert", "A bb a"), (std::vector<int64_t>{1, 3, 2, 1}));
  EXPECT_EQ(numbers("llama", "a<unk>aa"), (std::vector<int64_t>{3, 0, 3, 2}));
  EXPECT_EQ(numbers("t5", "aa"), (std::vector<int64_t>{2, 2}));
  EXPECT_TRUE(files_of({}).value().tokenizer.empty());
  EXPECT_TRUE(files_of(test::keys_of("none")).value().tokenizer.empty());
}

// What is read and written again is the same keys.
TEST(Tokenizer, ComesBackAsItWas) {
  for (const char* model : {"gpt2", "bert", "t5"}) {
    const data::TokenizerFiles files = files_of(test::keys_of(model)).value();
    const Pairs keys = tokenizer_metadata(files, model == std::string_view("gpt2") ? 5 : 4).value();
    const Contents again = read_container(bytes_of(write_container(keys, {}))).value();
    for (const auto& [key, value] : test::keys_of(model)) {
      const Metadata& found = again.metadata.at(key);
      ASSERT_EQ(found.index(), value.index()) << key;
      if (const auto* array = std::get_if<Array>(&value)) {
        EXPECT_EQ(std::get<Array>(found).bytes, array->bytes) << model << " " << key;
      } else {
        EXPECT_TRUE(std::get_if<std::string>(&value) == nullptr ||
                    std::get<std::string>(found) == std::get<std::string>(value))
            << key;
      }
    }
    EXPECT_EQ(files_of(keys).value().tokenizer, files.tokenizer) << model;
  }
}

TEST(Tokenizer, KeysThatContradictEachOtherAreErrors) {
  const auto error = [](std::string_view model, std::string_view name, std::optional<Metadata> value) {
    Pairs keys = test::keys_of(model);
    set_key(keys, name, std::move(value));
    const auto files = files_of(keys);
    return files.ok() ? "no error" : files.error().message;
  };
  const auto texts = [](std::vector<std::string> list) { return Metadata(array_of(list)); };
  const auto types = [](std::vector<int32_t> list) { return Metadata(array_of(list)); };
  EXPECT_EQ(error("gpt2", "model", std::string("rwkv")), "[gguf] a tokenizer of gpt2, llama, t5, bert, got rwkv");
  EXPECT_EQ(error("gpt2", "model", int64_t{3}), "[gguf] a text, got another type (key=tokenizer.ggml.model)");
  EXPECT_EQ(error("gpt2", "pre", std::string("own")),
            "[gguf] a way of cutting text that is known here (pre_tokenizers.def), got 'own'");
  EXPECT_EQ(error("gpt2", "pre", std::nullopt),
            "[gguf] a way of cutting text that is known here (pre_tokenizers.def), got ''");
  EXPECT_EQ(error("gpt2", "pre", std::string("qwen2 deepseek-r1-qwen")),
            "[gguf] a way of cutting text that is known here (pre_tokenizers.def), got 'qwen2 deepseek-r1-qwen'");
  EXPECT_EQ(error("gpt2", "tokens", std::nullopt), "[gguf] 1 to 16777216 tokens, got 0");
  EXPECT_EQ(error("gpt2", "tokens", types({1})), "[gguf] an array, got another type (key=tokenizer.ggml.tokens)");
  EXPECT_EQ(error("gpt2", "tokens", texts({"a", "b"})),
            "[gguf] a number for each of 2 tokens, got 5 (key=tokenizer.ggml.token_type)");
  EXPECT_EQ(error("gpt2", "tokens", texts({"a", "b", "ab", "a", "c"})), "[gguf] one token of a text, got two of 'a'");
  EXPECT_EQ(error("gpt2", "tokens", texts({"a", "b", "ab", "\xFF", "c"})),
            "[gguf] tokens that are texts in UTF-8, got another one");
  EXPECT_EQ(error("gpt2", "tokens", texts({"a", "b", "ab", "", "c"})),
            "[gguf] tokens that are texts in UTF-8, got another one");
  EXPECT_EQ(error("gpt2", "token_type", types({1, 1, 1, 7, 1})), "[gguf] types of tokens up to 6, got 7 of token 3");
  EXPECT_EQ(error("gpt2", "token_type", types({1, 1, 1, -1, 1})), "[gguf] types of tokens up to 6, got -1 of token 3");
  EXPECT_EQ(error("gpt2", "merges", std::nullopt), "[gguf] merges, got none");
  EXPECT_EQ(error("gpt2", "merges", texts({"ab"})), "[gguf] merges of two tokens, got 'ab'");
  EXPECT_EQ(error("gpt2", "merges", texts({"a b", "b a"})), "[gguf] merges of tokens into tokens, got one of others at 1");
  EXPECT_EQ(error("gpt2", "bos_token_id", int64_t{4}), "[gguf] a token below 4, got 4 (key=tokenizer.ggml.bos_token_id)");
  EXPECT_EQ(error("gpt2", "add_bos_token", int64_t{1}),
            "[gguf] a bool, got another type (key=tokenizer.ggml.add_bos_token)");
  EXPECT_EQ(error("bert", "unknown_token_id", std::nullopt), "[gguf] an unknown_token_id, got none");
  EXPECT_EQ(error("bert", "tokens", texts({"##b", std::string(kSpaceMark) + "a", "b", "c"})),
            "[gguf] one token of a text, got two of '##b'");
  EXPECT_EQ(error("llama", "scores", std::nullopt), "[gguf] a score for each of 4 tokens, got 0");
  EXPECT_EQ(error("llama", "scores", Metadata(array_of(std::vector<float>{0, 0, 0}))),
            "[gguf] a score for each of 4 tokens, got 3");
  EXPECT_EQ(error("t5", "scores", Metadata(array_of(std::vector<float>{0, NAN, 0, 0}))), "[gguf] finite scores, got nan");
  EXPECT_EQ(error("t5", "precompiled_charsmap", types({1})),
            "[gguf] an array, got another type (key=tokenizer.ggml.precompiled_charsmap)");
  EXPECT_EQ(error("t5", "precompiled_charsmap", Metadata(array_of_bytes(std::string(8, '\xFF')))),
            "[tokenizer] a precompiled_charsmap with a trie and texts, got another form");
  EXPECT_EQ(error("llama", "tokens", texts({"<unk>", std::string(257, 'a'), "a", "b"})),
            "[gguf] pieces of at most 256 bytes, got 257 of token 1");
}

// Pieces of one letter: each cut of each is a merge, of which there are more than a vocabulary has.
TEST(Tokenizer, MergesAreBounded) {
  Pairs keys = test::keys_of("llama");
  std::vector<std::string> tokens;
  for (size_t i = 1; i <= 256; ++i) tokens.push_back(std::string(i, 'a'));
  set_key(keys, "tokens", Metadata(array_of(tokens)));
  set_key(keys, "token_type", std::nullopt);
  set_key(keys, "scores", Metadata(array_of(std::vector<float>(256))));
  EXPECT_EQ(files_of(keys).error().message, "[gguf] at most 5120 merges of 256 tokens, got more");
}

// The parts of the container, with numbers that no file has.
TEST(Container, NumbersBeyondTheFileAreErrors) {
  const std::string good = write_container({{"k", int64_t{7}}, {"t", std::string("text")}},
                                           {{"a", 0, {2, 3}, std::string(24, 'a')}, {"b", 0, {1}, std::string(4, 'b')}});
  const auto error = [&](size_t at, auto value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    const auto file = read_container(bytes_of(bytes));
    return file.ok() ? "no error" : file.error().message;
  };
  const size_t tensors = 24 + (8 + 1 + 4 + 4) + (8 + 1 + 4 + 8 + 4);
  EXPECT_EQ(error(0, 'g'), "[gguf] a file that begins with GGUF, got another one");
  EXPECT_EQ(error(4, uint32_t{4}), "[gguf] version 2 or 3, little-endian, got 4");
  EXPECT_EQ(error(4, uint32_t{3} << 24), "[gguf] version 2 or 3, little-endian, got 50331648");
  EXPECT_EQ(error(16, ~uint64_t{0}).find("[gguf] "), 0U) << "a count of metadata";
  EXPECT_EQ(error(8, ~uint64_t{0}).find("[gguf] "), 0U) << "a count of tensors";
  EXPECT_EQ(error(24, ~uint64_t{0}),
            fmt::format("[gguf] {} bytes at 32, got {} (truncated)", ~uint64_t{0}, good.size() - 32));
  EXPECT_EQ(error(24 + 9, uint32_t{13}), "[gguf] a type of metadata below 13, got 13");
  EXPECT_EQ(error(tensors + 9, uint32_t{5}), "[gguf] 1 to 4 sizes, got 5 (tensor=a)");
  EXPECT_EQ(error(tensors + 13, uint64_t{0}), "[gguf] sizes with a product from 1 to 1099511627776, got 0 (tensor=a)");
  EXPECT_EQ(error(tensors + 13, uint64_t{1} << 40), "[gguf] sizes with a product from 1 to 1099511627776, got 2 (tensor=a)");
  EXPECT_EQ(error(tensors + 33, uint64_t{4}), "[gguf] offsets at multiples of 32, got 4 (tensor=a)");
  EXPECT_EQ(error(tensors + 33, uint64_t{1} << 60),
            fmt::format("[gguf] offsets within 64 bytes of data, got {} (tensor=a)", uint64_t{1} << 60));
  EXPECT_EQ(error(tensors + 41 + 8, 'a'), "[gguf] one tensor a name, got two (tensor=a)");
  // Two tensors at one place: the first has no bytes, which its type refuses.
  std::string overlapping = good;
  std::memset(overlapping.data() + tensors + 41 + 25, 0, 8);
  const Contents file = read_container(bytes_of(overlapping)).value();
  EXPECT_EQ(type_of(file, "a", file.tensors.at("a")).error().code, ErrorCode::kUnsupported);
}

TEST(Container, IsReadWithAnyAlignmentAndTypeOfMetadata) {
  const std::string good = write_container({{"general.alignment", int64_t{64}}}, {{"a", 0, {1}, std::string(4, 'a')}});
  EXPECT_EQ(read_container(bytes_of(good)).value().alignment, 64U);
  for (const int64_t wrong : {0, 48, 1 << 30})
    EXPECT_EQ(read_container(bytes_of(write_container({{"general.alignment", wrong}}, {}))).error().message,
              fmt::format("[gguf] a power of two up to 1048576 as general.alignment, got {}", wrong));
  EXPECT_EQ(read_container(bytes_of(write_container({{"general.alignment", 1.0}}, {}))).error().message,
            "[gguf] a power of two up to 1048576 as general.alignment, got no integer");
}

}  // namespace
}  // namespace bitlab::format::gguf
