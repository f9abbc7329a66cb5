#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/config/io.h"

namespace bitlab::config {
namespace {

RunConfig unusual() {
  RunConfig config;
  config.model.name = "mlp";
  config.model.quant = {.method = ternary::Method::kTwn,
                        .granularity = ternary::Granularity::kGroup,
                        .group_size = 64,
                        .threshold = 0.8,
                        .gradient = ternary::Gradient::kTanh,
                        .activation = ternary::ActKind::kInt4,
                        .sparsity = ternary::Sparsity::k2of4,
                        .smoothing = 0.5};
  config.data.root = "a: \"b\" #c";
  config.train.learning_rate = 0.1;
  config.train.optimizer = Optimizer::kSgd;
  config.train.seed = -7;
  return config;
}

TEST(Io, RoundTripsEveryField) {
  for (const RunConfig& config : {RunConfig{}, unusual()}) {
    EXPECT_TRUE(equal(from_json<RunConfig>(to_json(config)).value(), config));
    EXPECT_TRUE(equal(from_yaml<RunConfig>(to_yaml(config)).value(), config));
  }
  RunConfig none;
  none.model.quant = BitQuantConfig::none();
  EXPECT_FALSE(from_yaml<RunConfig>(to_yaml(none)).value().model.quant.enabled());
}

TEST(Rules, RoundTripAndApply) {
  const char* text =
      "quant: {granularity: channel}\n"
      "rules:\n"
      "  - {position: first, keep: float}\n"
      "  - path: \"*.attn.*\"\n"
      "    min_size: 100\n"
      "    quant: {method: twn, threshold: 0.8, activation: int4}\n";
  const auto config = from_yaml<MixedPrecisionConfig>(text).value();
  ASSERT_EQ(config.rules.size(), 2U);
  EXPECT_EQ(config.rules[0].position, Position::kFirst);
  EXPECT_EQ(config.rules[0].keep, Keep::kFloat);
  EXPECT_EQ(config.rules[1].path, "*.attn.*");
  EXPECT_TRUE(equal(from_yaml<MixedPrecisionConfig>(to_yaml(config)).value(), config));
  EXPECT_TRUE(equal(from_json<MixedPrecisionConfig>(to_json(config)).value(), config));
  BitQuantConfig quant = config.quant;
  ASSERT_TRUE(apply(config.rules[1].quant, quant).ok());
  EXPECT_EQ(quant.method, ternary::Method::kTwn);
  EXPECT_EQ(quant.threshold, 0.8);
  EXPECT_EQ(quant.activation, ternary::ActKind::kInt4);
  EXPECT_EQ(quant.granularity, ternary::Granularity::kChannel) << "what is not overridden stays";
  EXPECT_EQ(apply({{"methot", "twn"}}, quant).error().message, "[config] a known key, got 'methot'; did you mean 'method'?");
  EXPECT_EQ(apply({{"group_size", "many"}}, quant).error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_yaml<MixedPrecisionConfig>("rules: [{keep: int7}]").error().message,
            "[config] one of {no, float, int8}, got 'int7' (key=rules[0].keep)");
  EXPECT_EQ(from_yaml<MixedPrecisionConfig>("rules: {keep: float}").error().code, ErrorCode::kTypeMismatch);
}

TEST(Quantization, TextsComeFromTheLists) {
  std::map<std::string, std::string> help;
  BitQuantConfig quant;
  BitQuantConfig::visit(quant, [&](const char* key, auto&, const char* text) { help[key] = text; });
  for (const ternary::MethodInfo& method : ternary::method_list()) {
    EXPECT_NE(help["method"].find(method.name), std::string::npos) << method.name;
    EXPECT_EQ(help["threshold"].find(" " + std::string(method.name) + " (") != std::string::npos,
              method.default_threshold != 0)
        << method.name;
  }
  EXPECT_EQ(help["group_size"], "weights of a row that share a scale by group: 64, 128 or 256");
  quant = from_yaml<BitQuantConfig>("{method: lsq, sparsity: '2:4', rounding: stochastic}").value();
  EXPECT_EQ(to_text(quant.weight_spec()), "lsq/tensor/2:4/stochastic");
  EXPECT_EQ(from_yaml<BitQuantConfig>("sparsity: '2:5'").error().message,
            "[quantization] a sparsity of {dense, 1:2, 1:4, 2:4, 3:4, 2:8, 4:8, 6:8, 4:16, 8:16}, got '2:5' (key=sparsity)");
}

TEST(Presets, FitTogether) {
  for (const BitQuantConfig& preset :
       {BitQuantConfig::for_mobile(), BitQuantConfig::for_server(), BitQuantConfig::for_research()}) {
    EXPECT_TRUE(preset.enabled());
    EXPECT_TRUE(validate(preset.weight_spec()).ok());
    EXPECT_TRUE(equal(from_yaml<BitQuantConfig>(to_yaml(preset)).value(), preset));
  }
  EXPECT_TRUE(is_static(BitQuantConfig::for_mobile().activation));
  EXPECT_EQ(to_text(BitQuantConfig::for_server().weight_spec()), "absmean/group128");
}

TEST(Io, TextThatLooksLikeANumberStaysText) {
  DataConfig config;
  for (const char* text : {"12", "true", "", "null", "1e3", " x "}) {
    config.root = text;
    EXPECT_EQ(from_yaml<DataConfig>(to_yaml(config)).value().root, text);
  }
}

TEST(Io, MissingKeysKeepTheirDefaults) {
  const RunConfig config = from_yaml<RunConfig>("train: {epochs: 2}\nmodel:\n  quant: {method: none}\n").value();
  EXPECT_EQ(config.train.epochs, 2);
  EXPECT_EQ(config.train.batch_size, TrainingConfig{}.batch_size);
  EXPECT_FALSE(config.model.quant.enabled());
  EXPECT_TRUE(equal(from_yaml<RunConfig>("").value(), RunConfig{}));
}

TEST(Io, ErrorsNameThePath) {
  EXPECT_EQ(from_yaml<RunConfig>("train: {epoch: 2}").error().message,
            "[config] a known key, got 'train.epoch'; did you mean 'epochs'?");
  EXPECT_EQ(from_yaml<RunConfig>("train: {epochs: many}").error().message,
            "[config] a 64-bit integer for 'train.epochs', got \"many\"");
  EXPECT_EQ(from_json<RunConfig>("{\"train\": {\"epochs\": 1.5}}").error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_json<RunConfig>("{\"train\": {\"seed\": 18446744073709551615}}").error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_yaml<RunConfig>("train: 3").error().message, "[config] a mapping for 'train', got 3");
  const Error choice = from_yaml<RunConfig>("train: {optimizer: adamm}").error();
  EXPECT_EQ(choice.message, "[config] one of {adam, sgd}, got 'adamm' (key=train.optimizer)");
  EXPECT_EQ(choice.code, ErrorCode::kUnknownName);
  EXPECT_EQ(from_yaml<RunConfig>("a: [").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(from_json<RunConfig>("{").error().code, ErrorCode::kCorrupt);
}

TEST(Io, HostileYamlIsBounded) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) bomb += fmt::format("*a{}{}", i - 1, j == 9 ? "]\n" : ", ");
  }
  EXPECT_EQ(from_yaml<RunConfig>(bomb).error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(from_yaml<RunConfig>(std::string(40, '[') + std::string(40, ']')).ok());
}

TEST(Io, FilesByTheirEnding) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("bitlab_config_{}", getpid());
  std::filesystem::create_directories(folder);
  for (const char* name : {"c.yaml", "c.json"}) {
    ASSERT_TRUE(save(unusual(), folder / name).ok());
    EXPECT_TRUE(equal(load<RunConfig>(folder / name).value(), unusual()));
  }
  EXPECT_EQ(load<RunConfig>(folder / "none.yaml").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load<RunConfig>(folder / "c.txt").error().code, ErrorCode::kInvalidArgument);
  std::filesystem::remove_all(folder);
}

TEST(Fields, FromTheTextOfAFlag) {
  int64_t number = 0;
  EXPECT_TRUE(assign("12", "--epochs", number).ok());
  EXPECT_EQ(number, 12);
  EXPECT_EQ(assign("1x", "--epochs", number).error().message, "[config] a 64-bit integer for '--epochs', got \"1x\"");
  std::string text;
  EXPECT_TRUE(assign("12", "--data", text).ok());
  EXPECT_EQ(text, "12");
  std::optional<ternary::Method> method = ternary::Method::kTwn;
  EXPECT_TRUE(assign("none", "--quant", method).ok());
  EXPECT_FALSE(method.has_value());
  EXPECT_EQ(to_text(method), "none");
  EXPECT_FALSE(assign("absmen", "--quant", method).ok());
}

}  // namespace
}  // namespace bitlab::config
