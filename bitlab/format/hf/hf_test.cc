#include "bitlab/format/hf/hf.h"

#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bitlab/base/file.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/decoder/test_support.h"
#include "bitlab/format/safetensors/safetensors.h"
#include "bitlab/program/print.h"

namespace bitlab::format::hf {
namespace {

using decoder::Activation;
using decoder::test::Options;
using decoder::test::random_decoder;
using decoder::test::Scales;
using decoder::test::small_config;
using Json = nlohmann::ordered_json;
using program::Program;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(Hf, ProgramsComeBack) {
  for (const bool sub_norms : {false, true})
    for (const Activation activation : {Activation::kSilu, Activation::kSquaredRelu})
      for (const auto table : {program::Storage::kPlain, program::Storage::kFloat16, program::Storage::kBFloat16}) {
        const Options options{.scale = 0.1F, .tied = sub_norms, .biases = !sub_norms, .table = table};
        const Program p = random_decoder(small_config(sub_norms, activation), options);
        const std::vector<File> files = serialize(p).value();
        const auto back = parse(files[0].bytes, bytes_of(files[1].bytes));
        ASSERT_TRUE(back.ok()) << back.error().message;
        EXPECT_TRUE(bit::serialize(back.value()).value() == bit::serialize(p).value()) << program::print(back.value());
      }
}

TEST(Hf, WhatTransformersCannotHoldIsRefused) {
  const auto error = [](const Options& options) {
    return serialize(random_decoder(small_config(true, Activation::kSilu), options)).error().message;
  };
  EXPECT_EQ(error({.scales = Scales::kRows}),
            "[hf] one scale of the tensor, got several (part=model.layers.0.self_attn.q_proj)");
  EXPECT_EQ(error({.biases = true}), "[hf] products without biases, got one (part=mlp)");
  decoder::Config odd = small_config(true, Activation::kSilu);
  odd.hidden = 126;
  EXPECT_EQ(serialize(random_decoder(odd)).error().message,
            "[hf] rows in groups of four, got 126 (part=model.layers.0.mlp.gate_proj)");
}

// A folder's files with one thing changed.
struct Folder {
  Json config;
  std::vector<safetensors::NamedTensor> tensors;
  std::string bytes;
  std::vector<std::unique_ptr<std::vector<uint8_t>>> storage;

  explicit Folder(const Options& options = {.scale = 0.25F}) {
    const auto files = serialize(random_decoder(small_config(true, Activation::kSquaredRelu), options)).value();
    config = Json::parse(files[0].bytes);
    bytes = files[1].bytes;
    const auto contents = safetensors::read(safetensors::split(bytes_of(bytes), "test").value(), "test").value();
    for (const auto& [name, tensor] : contents.tensors) tensors.push_back({name, tensor});
  }
  safetensors::TensorView& tensor(const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; })->tensor;
  }
  template <class T>
  void set(const std::string& name, safetensors::ElementType type, std::vector<int64_t> shape,
           const std::vector<T>& values) {
    const auto* data = reinterpret_cast<const uint8_t*>(values.data());
    storage.push_back(std::make_unique<std::vector<uint8_t>>(data, data + values.size() * sizeof(T)));
    tensor(name) = {type, std::move(shape), *storage.back()};
  }
  Result<Program> read() const {
    const std::string file = safetensors::write(tensors, {}, 8);
    return parse(config.dump(), bytes_of(file));
  }
  std::string error() const {
    const auto program = read();
    return program.ok() ? "no error" : program.error().message;
  }
};

constexpr const char* kUp = "model.layers.1.mlp.up_proj";

program::TernaryData weight_of(const Program& p, const std::string& name) {
  for (const program::Constant& constant : p.constants)
    if (p.value(constant.value).name == name) return std::get<program::TernaryData>(constant.data);
  return {};
}

// The class says what a scale is; rows of a number that 4 does not divide are packed by the next one.
TEST(Hf, ScalesAreOfTheClass) {
  Folder folder;
  EXPECT_EQ(weight_of(folder.read().value(), "layers.1.mlp.up_proj.weight").scale[0], 0.25F);
  folder.config["quantization_config"]["linear_class"] = "bitlinear";
  EXPECT_EQ(weight_of(folder.read().value(), "layers.1.mlp.up_proj.weight").scale[0], 4.0F);
  folder.set(std::string(kUp) + ".weight_scale", safetensors::ElementType::kBF16, {1}, std::vector<uint16_t>{0x4100});
  EXPECT_EQ(weight_of(folder.read().value(), "layers.1.mlp.up_proj.weight").scale[0], 0.125F);
  folder.set(std::string(kUp) + ".weight_scale", safetensors::ElementType::kF32, {1}, std::vector<float>{0});
  EXPECT_EQ(folder.error(), "[hf] a finite scale, got inf (tensor=model.layers.1.mlp.up_proj.weight_scale)");
}

TEST(Hf, RowsArePackedByTheNextMultipleOfFour) {
  Folder folder;
  folder.config["intermediate_size"] = 126;  // 32 rows of bytes, of which the last two fields are none
  for (const int layer : {0, 1}) {
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    folder.set(mlp + "ffn_sub_norm.weight", safetensors::ElementType::kF32, {126}, std::vector<float>(126, 1));
    folder.set(mlp + "down_proj.weight", safetensors::ElementType::kU8, {16, 126}, std::vector<uint8_t>(16 * 126, 0x55));
    std::vector<uint8_t> packed(32 * 64);
    for (int row = 0; row < 126; ++row)
      for (int k = 0; k < 64; ++k)
        packed[static_cast<size_t>(row % 32 * 64 + k)] |= static_cast<uint8_t>((row + k) % 3 << 2 * (row / 32));
    folder.set(mlp + "up_proj.weight", safetensors::ElementType::kU8, {32, 64}, packed);
  }
  const auto program = folder.read();
  ASSERT_TRUE(program.ok()) << program.error().message;
  // The layers share what is equal.
  const program::TernaryData up = weight_of(program.value(), "layers.0.mlp.up_proj.weight");
  for (int row = 0; row < 126; ++row)
    for (int k = 0; k < 64; ++k)
      ASSERT_EQ(ternary::code_at(up.codes.data() + row * 16, k), (row + k) % 3) << row << " " << k;
}

// Master weights of the mode online: absmean, t = clamp(rint(w / mean |w|), -1, 1).
TEST(Hf, OnlineWeightsAreEncoded) {
  Folder folder;
  folder.config["quantization_config"]["quantization_mode"] = "online";
  std::mt19937 random(1);
  std::erase_if(folder.tensors, [](const auto& t) { return t.name.ends_with("weight_scale"); });
  double sum = 0;
  std::vector<float> latent;
  for (auto& [name, tensor] : folder.tensors) {
    if (tensor.type != safetensors::ElementType::kU8) continue;
    const std::vector<int64_t> shape{4 * tensor.shape[0], tensor.shape[1]};
    std::vector<uint16_t> bits;
    for (const float w : decoder::test::random_floats(static_cast<size_t>(shape[0] * shape[1]), random))
      bits.push_back(float_to_bfloat(w));
    if (name == std::string(kUp) + ".weight")
      for (const uint16_t b : bits) {
        latent.push_back(bfloat_to_float(b));
        sum += std::abs(latent.back());
      }
    folder.set(name, safetensors::ElementType::kBF16, shape, bits);
  }
  const Program p = folder.read().value();
  const program::TernaryData up = weight_of(p, "layers.1.mlp.up_proj.weight");
  const double mean = sum / static_cast<double>(latent.size());
  EXPECT_NEAR(up.scale[0], mean, 1e-7);
  for (size_t i = 0; i < latent.size(); ++i)
    ASSERT_EQ(ternary::code_at(up.codes.data() + i / 64 * 16, static_cast<int64_t>(i % 64)) - 1,
              std::clamp(std::rint(latent[i] / mean), -1.0, 1.0));
}

TEST(Hf, ModulesThatAreKeptAreFloat) {
  Folder folder;
  folder.config["quantization_config"]["modules_to_not_convert"] = {"lm_head", kUp};
  EXPECT_EQ(folder.error(), "[hf] floats in a module that is kept, got U8 (tensor=model.layers.1.mlp.up_proj.weight)");
  folder.set(std::string(kUp) + ".weight", safetensors::ElementType::kF16, {128, 64},
             std::vector<uint16_t>(128 * 64, 0x3C00));
  std::erase_if(folder.tensors, [](const auto& t) { return t.name == std::string(kUp) + ".weight_scale"; });
  const Program p = folder.read().value();
  const auto found =
      std::find_if(p.nodes.begin(), p.nodes.end(), [](const auto& n) { return n.name == "layers.1.mlp.up_proj"; });
  EXPECT_EQ(found->op, program::Op::linear);
  EXPECT_TRUE(
      bit::serialize(parse(serialize(p).value()[0].bytes, bytes_of(serialize(p).value()[1].bytes)).value()).value() ==
      bit::serialize(p).value());
}

template <class Change>
std::string error_with(const Change& change) {
  Folder folder;
  change(folder);
  return folder.error();
}

TEST(Hf, WhatIsMissingOrOfAnotherNetworkIsRefused) {
  EXPECT_EQ(error_with([](Folder& f) { f.config.erase("quantization_config"); }),
            "[hf] a quantization_config in config.json, got none");
  EXPECT_EQ(error_with([](Folder& f) { f.config["quantization_config"].erase("linear_class"); }),
            "[hf] a linear_class of bitlinear, which divides by weight_scale (what transformers takes for none), or "
            "autobitlinear, "
            "which multiplies, got none");
  EXPECT_EQ(error_with([](Folder& f) { f.config["quantization_config"]["quant_method"] = "gptq"; }),
            "[hf] quant_method bitnet, got gptq");
  EXPECT_EQ(error_with([](Folder& f) { f.config["architectures"] = {"FalconForCausalLM"}; }),
            "[hf] an architecture of BitNetForCausalLM, LlamaForCausalLM, got FalconForCausalLM");
  EXPECT_EQ(error_with([](Folder& f) { f.config["rope_parameters"]["rope_type"] = "llama3"; }),
            "[hf] rotary embeddings of the type default, got llama3");
  EXPECT_EQ(error_with([](Folder& f) { f.config["hidden_act"] = "gelu"; }), "[hf] hidden_act of silu, relu2, got gelu");
  EXPECT_EQ(error_with([](Folder& f) { f.config["hidden_size"] = "64"; }),
            "[hf] an integer as hidden_size of config.json, got \"64\"");
  EXPECT_EQ(error_with([](Folder& f) {
              std::erase_if(f.tensors, [](const auto& t) { return t.name == std::string(kUp) + ".weight_scale"; });
            }),
            "[hf] a weight_scale beside packed weights, got none (tensor=model.layers.1.mlp.up_proj.weight_scale)");
  EXPECT_EQ(error_with([](Folder& f) {
              f.set(std::string(kUp) + ".weight", safetensors::ElementType::kU8, {32, 64}, std::vector<uint8_t>(2048, 0xC0));
            }),
            "[hf] codes 0, 1 and 2, got 3 in row 96 (tensor=model.layers.1.mlp.up_proj.weight)");
  EXPECT_EQ(error_with([](Folder& f) {
              f.tensors.push_back({"adapter", f.tensor("model.norm.weight")});
            }),
            "[hf] tensors of a decoder, got another (tensor=adapter)");
}

// Older configs have texts where newer ones have booleans.
TEST(Hf, BooleansAreReadInBothSpellings) {
  for (const char* text : {"true", "True"}) {
    EXPECT_EQ(error_with([&](Folder& f) { f.config["tie_word_embeddings"] = text; }), "no error");
    EXPECT_EQ(error_with([&](Folder& f) { f.config["quantization_config"]["use_rms_norm"] = text; }),
              "[hf] products without norms of their own, got use_rms_norm");
  }
  EXPECT_EQ(error_with([](Folder& f) { f.config["quantization_config"]["use_rms_norm"] = "False"; }), "no error");
  EXPECT_EQ(error_with([](Folder& f) { f.config["tie_word_embeddings"] = 1; }),
            "[hf] true or false as tie_word_embeddings of config.json, got 1");
}

TEST(Hf, ShardsLieInTheFolder) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("hf_test_{}", getpid());
  std::filesystem::create_directories(folder);
  const Folder whole;
  Json index{{"weight_map", Json::object()}};
  std::vector<safetensors::NamedTensor> parts[2];
  for (size_t i = 0; i < whole.tensors.size(); ++i) {
    parts[i % 2].push_back(whole.tensors[i]);
    index["weight_map"][whole.tensors[i].name] = fmt::format("model-{}.safetensors", i % 2);
  }
  for (const int i : {0, 1})
    ASSERT_TRUE(write_file_atomic(folder / fmt::format("model-{}.safetensors", i),
                                  std::string_view(safetensors::write(parts[i], {}, 8)))
                    .ok());
  ASSERT_TRUE(write_file_atomic(folder / "config.json", std::string_view(whole.config.dump())).ok());
  const auto with_index = [&](const Json& json) {
    EXPECT_TRUE(write_file_atomic(folder / "model.safetensors.index.json", std::string_view(json.dump())).ok());
    return load(folder);
  };
  EXPECT_TRUE(bit::serialize(with_index(index).value()).value() == bit::serialize(whole.read().value()).value());
  index["weight_map"]["model.norm.weight"] = "../model.safetensors";
  EXPECT_EQ(
      with_index(index).error().message,
      fmt::format("[hf] names of files in the folder in weight_map, got \"../model.safetensors\" (tensor=model.norm.weight) "
                  "(path={})",
                  folder.string()));
  index["weight_map"]["model.norm.weight"] = "missing.safetensors";
  EXPECT_EQ(with_index(index).error().code, ErrorCode::kNotFound);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace bitlab::format::hf
