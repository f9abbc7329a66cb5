#include <cmath>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/config/document.h"
#include "bitlab/config/io.h"
#include "bitlab/config/path_pattern.h"

namespace bitlab::config {
namespace {

// Two kinds of one thing, each with fields of its own, as models are.
struct Round {
  double radius = 1;
  void visit(Fields& f) { f("radius", radius, "half the width"); }
};
struct Angular {
  int64_t corners = 4;
  std::vector<int64_t> sides{1, 2};
  void visit(Fields& f) {
    f("corners", corners, "how many");
    f("sides", sides, "their lengths");
  }
};
struct Shape {
  std::string name = "round";
  AnyConfig own{Round()};
  void visit(Fields& f) {
    f.select("name",
             {[this] { return name; }, [this](std::string_view text) { return choose(text); },
              [] {
                return std::vector<std::string>{"round", "angular"};
              }},
             "which shape");
    own.visit(f);
  }
  Status choose(std::string_view text) {
    if (text != "round" && text != "angular")
      return make_error(ErrorCode::kUnknownName, "[shape] one of {{round, angular}}, got '{}'", text);
    if (text != name) own = text == "round" ? AnyConfig(Round()) : AnyConfig(Angular());
    name = text;
    return {};
  }
};

struct Whole {
  Shape shape{};
  MixedPrecisionConfig quant{};
  DataConfig data{};
  TrainingConfig train{};
  void visit(Fields& f) {
    f("shape", shape, "");
    f("quant", quant, "");
    f("data", data, "");
    f("train", train, "");
  }
};

Whole unusual() {
  Whole config;
  config.shape.name = "angular";
  config.shape.own = AnyConfig(Angular{5, {3, -4, 5}});
  config.quant.quant = {.method = ternary::Method::kTwn,
                        .granularity = ternary::Granularity::kGroup,
                        .group_size = 64,
                        .threshold = 0.8,
                        .gradient = ternary::Gradient::kTanh,
                        .activation = ternary::ActKind::kInt4,
                        .sparsity = ternary::Sparsity::k2of4,
                        .smoothing = 0.5};
  config.quant.rules.resize(2);
  config.quant.rules[1].master = true;
  config.quant.rules[1].quant = QuantRule::in_int8();
  config.data.root = "a: \"b\" #c";
  config.data.options = {{"tokens", "64"}};
  config.data.augment = {.crop = 4, .flip = true};
  config.train.learning_rate = 0.1;
  config.train.optimizer = Optimizer::kSgd;
  config.train.seed = -7;
  config.train.parameters = {{.path = "*.act_scale", .rate = 0.1}};
  config.train.precision = Precision::kFloat16;
  config.train.ternary_order = TernaryOrder::kLastToFirst;
  config.train.feature_layers = {{.path = "blocks.*", .teacher = "body.0"}, {.path = "fc1"}};
  return config;
}

TEST(Io, RoundTripsEveryField) {
  for (const Whole& config : {Whole{}, unusual()}) {
    EXPECT_TRUE(equal(from_json<Whole>(to_json(config)).value(), config));
    EXPECT_TRUE(equal(from_yaml<Whole>(to_yaml(config)).value(), config));
  }
  EXPECT_FALSE(equal(unusual(), Whole{}));
  const Whole back = from_yaml<Whole>(to_yaml(unusual())).value();
  ASSERT_NE(back.shape.own.as<Angular>(), nullptr);
  EXPECT_EQ(back.shape.own.as<Angular>()->sides, (std::vector<int64_t>{3, -4, 5}));
  EXPECT_EQ(back.quant.rules.at(1).quant.at("method"), "int8");
  EXPECT_TRUE(back.quant.rules[1].master);
  EXPECT_EQ(back.quant.quant.threshold, 0.8);
  Whole none;
  none.quant.quant = BitQuantConfig::none();
  EXPECT_FALSE(from_yaml<Whole>(to_yaml(none)).value().quant.quant.enabled());
}

// The order of keys in a file does not matter to what the fields are.
TEST(Io, FieldsFollowTheChosenKind) {
  const Whole config = from_yaml<Whole>("shape: {corners: 7, name: angular}").value();
  EXPECT_EQ(config.shape.own.as<Angular>()->corners, 7);
  EXPECT_EQ(from_yaml<Whole>("shape: {corners: 7}").error().message,
            "[config] a known key, got 'shape.corners'; did you mean 'name'?");
  EXPECT_EQ(from_yaml<Whole>("shape: {name: angular, cornesr: 7}").error().message,
            "[config] a known key, got 'shape.cornesr'; did you mean 'corners'?");
  EXPECT_EQ(from_yaml<Whole>("shape: {name: oval}").error().message,
            "[shape] one of {round, angular}, got 'oval' (key=shape.name)");
  EXPECT_EQ(from_yaml<Whole>("shape: {name: angular, sides: [1, b]}").error().message,
            "[config] a 64-bit integer for 'shape.sides[1]', got \"b\"");
}

TEST(PathPattern, FitsAsShellsAndRegularExpressionsDo) {
  EXPECT_TRUE(matches_path("", "blocks.0.fc"));
  EXPECT_TRUE(matches_path("blocks.*.fc", "blocks.0.fc"));
  EXPECT_FALSE(matches_path("blocks.?", "blocks.0.fc"));
  EXPECT_TRUE(matches_path("/s\\.[0-9]+\\./", "blocks.10.fc"));
  EXPECT_FALSE(matches_path("/^fc/", "blocks.0.fc"));
  EXPECT_TRUE(check_path_pattern("(").ok()) << "no regular expression";
  const Error error = check_path_pattern("/(/").error();
  EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
  EXPECT_NE(error.message.find("got '/(/'"), std::string::npos) << error.message;
}

TEST(AnyConfig, CopiesAreCopiesOfTheValue) {
  Whole a = unusual();
  Whole b = a;
  ASSERT_TRUE(assign_at(table_of(b), "shape.corners", "9").ok());
  EXPECT_EQ(a.shape.own.as<Angular>()->corners, 5);
  EXPECT_EQ(b.shape.own.as<Angular>()->corners, 9);
  EXPECT_EQ(b.shape.own.as<Round>(), nullptr);
}

TEST(Rules, RoundTripAndApply) {
  const char* text =
      "granularity: channel\n"
      "rules:\n"
      "  - {position: first, quant: {method: none}}\n"
      "  - path: \"*.attn.*\"\n"
      "    min_size: 100\n"
      "    quant: {method: twn, threshold: 0.8, activation: int4}\n";
  const auto config = from_yaml<MixedPrecisionConfig>(text).value();
  ASSERT_EQ(config.rules.size(), 2U);
  EXPECT_EQ(config.rules[0].position, Position::kFirst);
  EXPECT_EQ(config.rules[0].quant, QuantRule::in_float());
  EXPECT_EQ(config.rules[1].path, "*.attn.*");
  EXPECT_TRUE(equal(from_yaml<MixedPrecisionConfig>(to_yaml(config)).value(), config));
  EXPECT_TRUE(equal(from_json<MixedPrecisionConfig>(to_json(config)).value(), config));
  BitQuantConfig quant = config.quant;
  ASSERT_TRUE(set_fields(config.rules[1].quant, quant).ok());
  EXPECT_EQ(quant.method, ternary::Method::kTwn);
  EXPECT_EQ(quant.threshold, 0.8);
  EXPECT_EQ(quant.activation, ternary::ActKind::kInt4);
  EXPECT_EQ(quant.granularity, ternary::Granularity::kChannel) << "what is not overridden stays";
  EXPECT_EQ(set_fields({{"methot", "twn"}}, quant).error().message,
            "[config] a known key, got 'methot'; did you mean 'method'?");
  EXPECT_EQ(set_fields({{"group_size", "many"}}, quant).error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_yaml<MixedPrecisionConfig>("rules: [{position: middle}]").error().message,
            "[config] one of {any, first, last}, got 'middle' (key=rules[0].position)");
  EXPECT_EQ(from_yaml<MixedPrecisionConfig>("rules: {position: first}").error().code, ErrorCode::kTypeMismatch);
}

TEST(Rules, InInt8IsThePreset) {
  BitQuantConfig quant;
  ASSERT_TRUE(set_fields(QuantRule::in_int8(), quant).ok());
  EXPECT_TRUE(equal(quant, BitQuantConfig::int8()));
}

TEST(Quantization, TextsComeFromTheLists) {
  std::map<std::string, std::string> help;
  BitQuantConfig quant;
  config::Fields fields;
  quant.visit(fields);
  for (const config::Field& field : fields) help[field.name] = field.help;
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
  const Whole config = from_yaml<Whole>("train: {epochs: 2}\nquant: {method: none}\n").value();
  EXPECT_EQ(config.train.epochs, 2);
  EXPECT_EQ(config.train.batch_size, TrainingConfig{}.batch_size);
  EXPECT_FALSE(config.quant.quant.enabled());
  EXPECT_TRUE(equal(from_yaml<Whole>("").value(), Whole{}));
}

TEST(Io, ErrorsNameThePath) {
  EXPECT_EQ(from_yaml<Whole>("train: {epoch: 2}").error().message,
            "[config] a known key, got 'train.epoch'; did you mean 'epochs'?");
  EXPECT_EQ(from_yaml<Whole>("train: {epochs: many}").error().message,
            "[config] a 64-bit integer for 'train.epochs', got \"many\"");
  EXPECT_EQ(from_json<Whole>("{\"train\": {\"epochs\": 1.5}}").error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_json<Whole>("{\"train\": {\"seed\": 18446744073709551615}}").error().code, ErrorCode::kTypeMismatch);
  EXPECT_EQ(from_yaml<Whole>("train: 3").error().message, "[config] a mapping for 'train', got 3");
  const Error choice = from_yaml<Whole>("train: {optimizer: adamm}").error();
  EXPECT_EQ(choice.message, "[config] one of {adamw, adam, sgd, muon}, got 'adamm' (key=train.optimizer)");
  EXPECT_EQ(choice.code, ErrorCode::kUnknownName);
  EXPECT_EQ(from_yaml<Whole>("a: [").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(from_yaml<Whole>("[1]: 2").error().message, "[config] keys that are names, got a list");
  EXPECT_EQ(from_json<Whole>("{").error().code, ErrorCode::kCorrupt);
}

TEST(Io, HostileYamlIsBounded) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) bomb += fmt::format("*a{}{}", i - 1, j == 9 ? "]\n" : ", ");
  }
  EXPECT_EQ(from_yaml<Whole>(bomb).error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(from_yaml<Whole>(std::string(40, '[') + std::string(40, ']')).ok());
}

TEST(Io, FilesByTheirEnding) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("bitlab_config_{}", getpid());
  std::filesystem::create_directories(folder);
  for (const char* name : {"c.yaml", "c.json"}) {
    ASSERT_TRUE(save(unusual(), folder / name).ok());
    EXPECT_TRUE(equal(load<Whole>(folder / name).value(), unusual()));
  }
  EXPECT_EQ(load<Whole>(folder / "none.yaml").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load<Whole>(folder / "c.txt").error().code, ErrorCode::kInvalidArgument);
  std::filesystem::remove_all(folder);
}

TEST(Ranges, NumbersOutsideAreRefused) {
  EXPECT_EQ(from_yaml<Whole>("train: {epochs: 0}").error().message,
            "[config] a 64-bit integer in [1, inf) for 'train.epochs', got 0");
  EXPECT_EQ(from_yaml<Whole>("train: {beta1: 1}").error().message, "[config] a number in [0, 1) for 'train.beta1', got 1");
  EXPECT_EQ(from_json<Whole>("{\"train\": {\"learning_rate\": 0.0}}").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(from_yaml<Whole>("train: {parameters: [{rate: -1}]}").error().message,
            "[config] a number in [0, inf) for 'train.parameters[0].rate', got -1");
  EXPECT_TRUE(from_yaml<Whole>("train: {warmup: 1, beta1: 0, parameters: [{decay: -1}]}").ok());
  Whole config;
  EXPECT_TRUE(check_ranges(table_of(config)).ok());
  config.train.parameters = {{.path = "", .rate = 1}, {.path = "", .rate = std::nan("")}};
  EXPECT_EQ(check_ranges(table_of(config)).error().message,
            "[config] a number in [0, inf) for 'train.parameters[1].rate', got \"nan\"");
  EXPECT_FALSE(at_least(0).contains(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(to_text(Range{}), "");
  EXPECT_EQ(to_text(above_up_to(0, 100)), "in (0, 100]");
}

TEST(Io, KeysStandOnce) {
  EXPECT_EQ(from_yaml<Whole>("train:\n  epochs: 2\n  epochs: 3\n").error().message,
            "[config] each key once, got 'epochs' twice (line=3)");
}

TEST(Io, ErrorsOfFilesNameTheLine) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("bitlab_lines_{}", getpid());
  std::filesystem::create_directories(folder);
  const auto error_of = [&](const char* file, std::string_view text) {
    const auto path = folder / file;
    EXPECT_TRUE(write_file_atomic(path, text).ok());
    const std::string message = load<Whole>(path).error().message, place = " (path=" + path.string();
    const size_t at = message.find(place);
    return at == std::string::npos ? message : message.substr(0, at) + message.substr(at + place.size());
  };
  EXPECT_EQ(error_of("a.yaml", "# one\ntrain:\n  seed: 3\n  epoch: 2\n"),
            "[config] a known key, got 'train.epoch'; did you mean 'epochs'?, line=4)");
  EXPECT_EQ(error_of("b.json", "{\n  \"data\": {},\n  \"train\": {\n    \"epochs\": \"x\"}}"),
            "[config] a 64-bit integer for 'train.epochs', got \"x\", line=4)");
  EXPECT_EQ(error_of("c.yaml", "quant:\n  rules:\n    - path: a\n    - path: b\n      position: middle\n"),
            "[config] one of {any, first, last}, got 'middle' (key=quant.rules[1].position), line=5)");
  EXPECT_EQ(error_of("d.yaml", "data:\n  options:\n    tokens: [1]\n"),
            "[config] a name or a number for 'data.options.tokens', got [1], line=3)");
  EXPECT_EQ(error_of("e.yaml", "3"), "[config] a mapping for the whole, got 3)");
  EXPECT_EQ(error_of("f.json", "{\"a\": "), "[config] JSON, got \"{\\\"a\\\": \")");
  std::filesystem::remove_all(folder);
}

// What is not a comment of the example is the config; what is one is valid, too, once it is none.
TEST(Documents, AnExampleIsTheConfig) {
  for (const Whole& config : {Whole{}, unusual()}) {
    const std::string text = example(config, "A heading.");
    EXPECT_TRUE(text.starts_with("# A heading.\n"));
    EXPECT_TRUE(equal(from_yaml<Whole>(text).value(), config)) << text;
  }
  const std::string text = example(Whole{}, "");
  for (const char* part : {"  # passes over the training data (INT in [1, inf))\n  epochs: 5\n",
                           "# With angular instead:", "  # sides: [1,2]\n", "  #   position: any\n"})
    EXPECT_NE(text.find(part), std::string::npos) << part << text;
  std::string other = "shape:\n  name: angular\n";
  const size_t begin = text.find("# With angular"), end = text.find("quant:");
  for (size_t at = text.find('\n', begin) + 1; at < end; at = text.find('\n', at) + 1)
    if (text.compare(at, 4, "  # ") == 0) other += "  " + text.substr(at + 4, text.find('\n', at) - at - 3);
  EXPECT_EQ(from_yaml<Whole>(other).value().shape.own.as<Angular>()->corners, 4) << other;
}

TEST(Documents, PathsAreThoseOfEveryChoice) {
  std::map<std::string, PathInfo> paths;
  for (const PathInfo& info : paths_of(Whole())) EXPECT_TRUE(paths.insert({info.path, info}).second) << info.path;
  for (const char* path : {"shape.name", "shape.radius", "shape.corners", "shape.sides", "data.augment.crop", "quant.rules"})
    EXPECT_TRUE(paths.contains(path)) << path;
  EXPECT_TRUE(paths.at("shape.name").selects);
  EXPECT_EQ(paths.at("train.beta2").type, "FLOAT in [0, 1)");
  EXPECT_EQ(paths.at("quant.method").type, "NAME");
  EXPECT_EQ(paths.at("data.options").type, "MAP");
}

TEST(Values, FromTheTextOfAFlag) {
  int64_t number = 0;
  EXPECT_TRUE(assign("12", "--epochs", value_of(number)).ok());
  EXPECT_EQ(number, 12);
  EXPECT_EQ(assign("1x", "--epochs", value_of(number)).error().message,
            "[config] a 64-bit integer for '--epochs', got \"1x\"");
  std::string text;
  EXPECT_TRUE(assign("12", "--data", value_of(text)).ok());
  EXPECT_EQ(text, "12");
  std::optional<ternary::Method> method = ternary::Method::kTwn;
  EXPECT_TRUE(assign("none", "--quant", value_of(method)).ok());
  EXPECT_FALSE(method.has_value());
  EXPECT_EQ(to_text(value_of(method)), "none");
  EXPECT_FALSE(assign("absmen", "--quant", value_of(method)).ok());
  Overrides options;
  EXPECT_TRUE(assign("{tokens: 64, file: a.txt}", "--options", value_of(options)).ok());
  EXPECT_EQ(options, (Overrides{{"file", "a.txt"}, {"tokens", "64"}}));
}

TEST(Values, AtAPath) {
  Whole config = unusual();
  EXPECT_TRUE(assign_at(table_of(config), "train.epochs", "3").ok());
  EXPECT_EQ(config.train.epochs, 3);
  EXPECT_TRUE(assign_at(table_of(config), "shape.sides", "[8]").ok());
  EXPECT_EQ(config.shape.own.as<Angular>()->sides, std::vector<int64_t>{8});
  EXPECT_EQ(assign_at(table_of(config), "train.epoch", "3").error().message,
            "[config] a known key, got 'epoch'; did you mean 'epochs'? (in=train)");
  EXPECT_EQ(assign_at(table_of(config), "train.epochs.x", "3").error().code, ErrorCode::kTypeMismatch);
}

}  // namespace
}  // namespace bitlab::config
