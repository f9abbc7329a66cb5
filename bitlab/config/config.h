// Every configuration, each with one visit() that names and documents its fields. The visit drives JSON, YAML, command-line
// flags and equality (config/io.h, cli/flags.h): a field is written once.
//
// visit(self, v) calls v(name, field, help) for each field in order. Fields are bool, int64_t, double, std::string, an enumeration
// of config/enums.h, an optional enumeration ("none"), another config, a list of configs, or Overrides.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bitlab/config/enums.h"
#include "bitlab/ternary/spec.h"

namespace bitlab {

// How the layers of a model are quantized. The choices: ternary/spec.h and ternary/methods.def.
struct BitQuantConfig {
  std::optional<ternary::Method> method = ternary::Method::kAbsmean;
  ternary::Granularity granularity = ternary::Granularity::kTensor;
  int64_t group_size = 128;
  double threshold = 0;
  ternary::Gradient gradient = ternary::Gradient::kStraightThrough;
  ternary::ActKind activation = ternary::ActKind::kInt8;
  ternary::Sparsity sparsity = ternary::Sparsity::kDense;
  ternary::Rounding rounding = ternary::Rounding::kNearest;
  double smoothing = 0;

  static BitQuantConfig none() {
    BitQuantConfig config;
    config.method.reset();
    return config;
  }
  // A layer that is kept in 8 bits.
  static BitQuantConfig int8() { return {.method = ternary::Method::kInt8, .granularity = ternary::Granularity::kChannel}; }
  // Small and quick on a phone: scales by channel fit convolutions and narrow layers, and a static step saves the search for the maximum of
  // every input. LSQ learns the steps together with the weights' scales.
  static BitQuantConfig for_mobile() {
    return {.method = ternary::Method::kLsq,
            .granularity = ternary::Granularity::kChannel,
            .activation = ternary::ActKind::kInt8Static};
  }
  // Wide layers on a server: a scale for each 128 weights of a row follows them closely, at 0.125 bits a weight; dynamic activations take
  // whatever comes in.
  static BitQuantConfig for_server() {
    return {.method = ternary::Method::kAbsmean,
            .granularity = ternary::Granularity::kGroup,
            .group_size = 128,
            .activation = ternary::ActKind::kInt8};
  }
  // What papers compare with: BitNet b1.58 as it is published, one scale a tensor, straight-through.
  static BitQuantConfig for_research() { return {}; }
  bool enabled() const { return method.has_value(); }
  ternary::WeightSpec weight_spec() const {
    return {.method = method.value_or(ternary::Method::kAbsmean),
            .granularity = granularity,
            .group = group_size,
            .threshold = threshold,
            .gradient = gradient,
            .sparsity = sparsity,
            .rounding = rounding};
  }

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("method", self.method, ternary::method_help());
    v("granularity", self.granularity, ternary::granularity_help());
    v("group_size", self.group_size, ternary::group_help());
    v("threshold", self.threshold, ternary::threshold_help());
    v("gradient", self.gradient, ternary::gradient_help());
    v("activation", self.activation, ternary::activation_help());
    v("sparsity", self.sparsity, ternary::sparsity_help());
    v("rounding", self.rounding, ternary::rounding_help());
    v("smoothing", self.smoothing,
      "share of a channel's range that post-training quantization moves from activations into weights, 0.5 in SmoothQuant; "
      "0: none");
  }
};

// Some fields of a config, by key, as texts: what a rule changes. Which keys and values fit shows when they are applied (config/io.h).
using Overrides = std::map<std::string, std::string>;

// Which layers a rule is about, and what they become. Every condition that is given must hold.
struct QuantRule {
  std::string path;
  std::string type;
  std::string tag;
  int64_t min_size = 0;
  int64_t max_size = 0;
  config::Position position = config::Position::kAny;
  config::Keep keep = config::Keep::kNo;
  Overrides quant;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("path", self.path, "the layer's path, as a pattern with * and ?, or between slashes as a regular expression");
    v("type", self.type,
      "the layer's type: linear, conv1d to conv3d, conv_transpose1d to 3d, embedding, embedding_bag, parameter");
    v("tag", self.tag, "a tag that the program gave the layer");
    v("min_size", self.min_size, "at least so many weights; 0: any number");
    v("max_size", self.max_size, "at most so many weights; 0: any number");
    v("position", self.position, "first or last of the layers that can be converted, or any");
    v("keep", self.keep, "float or int8: the layer is not made ternary");
    v("quant", self.quant, "fields of the quantization that differ for these layers");
  }
};

// A quantization for all layers, and rules for those that differ: the first rule that fits a layer decides.
struct MixedPrecisionConfig {
  BitQuantConfig quant{};
  std::vector<QuantRule> rules;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("quant", self.quant, "quantization of layers that no rule fits");
    v("rules", self.rules, "rules, the first that fits decides");
  }
};

// Which architecture, and its sizes.
struct ModelConfig {
  std::string name = "lenet5";
  int64_t channels = 1;
  int64_t height = 28;
  int64_t width = 28;
  int64_t classes = 10;
  BitQuantConfig quant{};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("name", self.name, "architecture");
    v("channels", self.channels, "channels of an input image");
    v("height", self.height, "height of an input image in pixels");
    v("width", self.width, "width of an input image in pixels");
    v("classes", self.classes, "number of classes");
    v("quant", self.quant, "quantization");
  }
};

// Which data to train and evaluate on.
struct DataConfig {
  std::string name = "mnist";
  std::string root;
  int64_t limit = 0;
  double validation = 0.05;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("name", self.name, "data set");
    v("root", self.root, "folder of the data set; empty: the one that comes with BitLab");
    v("limit", self.limit, "use at most this many samples of each split; 0: all");
    v("validation", self.validation, "fraction of the training samples that are held out to choose the best epoch");
  }
};

// How to train.
struct TrainingConfig {
  int64_t epochs = 5;
  int64_t batch_size = 128;
  config::Optimizer optimizer = config::Optimizer::kAdam;
  double learning_rate = 2e-3;
  double momentum = 0.9;
  double weight_decay = 0.0;
  config::Schedule schedule = config::Schedule::kCosine;
  double warmup = 0.1;
  double ternary_warmup = 0.0;
  int64_t seed = 1;
  int64_t threads = 0;

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("epochs", self.epochs, "passes over the training data");
    v("batch_size", self.batch_size, "samples a step");
    v("optimizer", self.optimizer, "adam or sgd");
    v("learning_rate", self.learning_rate, "highest learning rate of the schedule");
    v("momentum", self.momentum, "momentum of sgd");
    v("weight_decay", self.weight_decay, "decoupled for adam (AdamW), L2 for sgd; biases are left out");
    v("schedule", self.schedule, "cosine (to zero) or constant");
    v("warmup", self.warmup, "fraction of all steps in which the learning rate rises linearly");
    v("ternary_warmup", self.ternary_warmup,
      "fraction of all steps in which layers turn from float to ternary linearly; 0: ternary from the first");
    v("seed", self.seed, "seed of initialization and shuffling");
    v("threads", self.threads, "threads of LibTorch; 0: all cores");
  }
};

// A whole training run: what `bitlab train` writes beside its checkpoints and `bitlab deploy` reads.
struct RunConfig {
  ModelConfig model{};
  DataConfig data{};
  TrainingConfig train{};

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& v) {
    v("model", self.model, "architecture and quantization");
    v("data", self.data, "data set");
    v("train", self.train, "training");
  }
};

}  // namespace bitlab
