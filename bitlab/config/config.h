// The configurations that every library shares, each with one visit() that names and documents its fields, from which JSON, YAML, flags and
// equality follow (fields.h, io.h). Models have configs of their own, in their own files (models/model.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bitlab/config/enums.h"
#include "bitlab/config/fields.h"
#include "bitlab/ternary/calibrate.h"
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

  void visit(config::Fields& f) {
    f("method", method, ternary::method_help());
    f("granularity", granularity, ternary::granularity_help());
    f("group_size", group_size, ternary::group_help(), config::at_least(1));
    f("threshold", threshold, ternary::threshold_help(), config::at_least(0));
    f("gradient", gradient, ternary::gradient_help());
    f("activation", activation, ternary::activation_help());
    f("sparsity", sparsity, ternary::sparsity_help());
    f("rounding", rounding, ternary::rounding_help());
    f("smoothing", smoothing,
      "share of a channel's range that post-training quantization moves from activations into weights, 0.5 in SmoothQuant; "
      "0: none",
      config::between(0, 1));
  }
};

// Which layers a rule is about, and what they become. Every condition that is given must hold.
struct QuantRule {
  std::string path;
  std::string type;
  std::string tag;
  int64_t min_size = 0;
  int64_t max_size = 0;
  config::Position position = config::Position::kAny;
  bool master = false;
  Overrides quant;

  // What `quant` is for a layer that stays float, and for one in 8 bits by channel.
  static Overrides in_float() { return {{"method", "none"}}; }
  static Overrides in_int8() { return {{"method", "int8"}, {"granularity", "channel"}}; }

  void visit(config::Fields& f) {
    f("path", path, "the layer's path, as a pattern with * and ?, or between slashes as a regular expression");
    f("type", type,
      "the layer's type: linear, conv1d to conv3d, conv_transpose1d to 3d, embedding, embedding_bag, lstm, gru, parameter");
    f("tag", tag, "a tag that the program gave the layer");
    f("min_size", min_size, "at least so many weights; 0: any number", config::at_least(0));
    f("max_size", max_size, "at most so many weights; 0: any number", config::at_least(0));
    f("position", position, "first or last of the layers that can be converted, or any");
    f("master", master, "the quantized weight stands for the weight wherever that is read; its activations stay float");
    f("quant", quant, "fields of the quantization that differ for these layers; method none: they stay float");
  }
};

// A quantization for all layers, and rules for those that differ: the first rule that fits a layer decides. In a file the fields of `quant`
// stand beside `rules`.
struct MixedPrecisionConfig {
  BitQuantConfig quant{};
  std::vector<QuantRule> rules{};

  void visit(config::Fields& f) {
    quant.visit(f);
    f("rules", rules, "rules, the first that fits decides");
  }
};

// Random changes of training pictures, before they are normalized.
struct AugmentConfig {
  int64_t crop = 0;
  bool flip = false;
  int64_t randaugment = 0;
  double magnitude = 9;
  int64_t cutout = 0;

  void visit(config::Fields& f) {
    f("crop", crop, "pixels by which pictures move at most to each side, zeros come in; 0: none", config::at_least(0));
    f("flip", flip, "mirror every other picture left to right");
    f("randaugment", randaugment, "operations of RandAugment in a row; 0: none", config::at_least(0));
    f("magnitude", magnitude, "how far these go", config::between(0, 10));
    f("cutout", cutout, "side of a square of zeros at a random place; 0: none", config::at_least(0));
  }
};

// Which data to train and evaluate on.
struct DataConfig {
  std::string name = "mnist";
  std::string root;
  int64_t limit = 0;
  double validation = 0.05;
  Overrides options;
  AugmentConfig augment{};

  void visit(config::Fields& f) {
    f("name", name, "data set");
    f("root", root, "folder of the data set; empty: the one that comes with BitLab");
    f("limit", limit, "use at most this many samples of each split; 0: all", config::at_least(0));
    f("validation", validation, "fraction of the training samples that are held out to choose the best epoch",
      config::from_to_below(0, 1));
    f("options", options, "what the data set alone takes, as {tokens: 64} of text");
    f("augment", augment, "random changes of training samples");
  }
};

// Parameters that the optimizer treats in a way of their own.
struct ParameterRule {
  std::string path;
  double rate = 1.0;
  double decay = -1.0;
  config::ParameterOptimizer optimizer = config::ParameterOptimizer::kDefault;

  void visit(config::Fields& f) {
    f("path", path,
      "the parameter's path, as blocks.0.weight or *.act_scale: a pattern with * and ?, or between slashes a regular "
      "expression");
    f("rate", rate, "by which the learning rate is multiplied; 0: it stays as it is", config::at_least(0));
    f("decay", decay,
      "by which weight_decay is multiplied; below 0: as without a rule, 1 for weights, 0 for biases, norms and scales");
    f("optimizer", optimizer,
      "where the run's is muon: muon or adamw for these; default: muon for matrices and filters, but of embeddings and of "
      "the "
      "last layer");
  }
};

// Layers of the network, and the teacher's whose outputs theirs are to resemble.
struct FeatureLayer {
  std::string path{};
  std::string teacher{};

  void visit(config::Fields& f) {
    f("path", path,
      "the layer's path, as blocks.0.fc1, or a pattern with * and ?, or between slashes a regular expression; of layers "
      "with parameters");
    f("teacher", teacher, "the path of the teacher's layer; empty: the same one");
  }
};

// How to train.
struct TrainingConfig {
  int64_t epochs = 5;
  int64_t batch_size = 128;
  config::Optimizer optimizer = config::Optimizer::kAdamW;
  double learning_rate = 2e-3;
  double momentum = 0.9;
  bool nesterov = false;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  std::vector<ParameterRule> parameters{};
  config::Schedule schedule = config::Schedule::kCosine;
  double warmup = 0.1;
  double final_rate = 0.0;
  double power = 1.0;
  int64_t step_epochs = 30;
  double step_factor = 0.1;
  double ternary_delay = 0.0;
  double ternary_warmup = 0.0;
  config::TernaryOrder ternary_order = config::TernaryOrder::kTogether;
  int64_t seed = 1;
  int64_t threads = 0;
  std::string device{};
  int64_t accumulate = 1;
  double clip_norm = 0.0;
  double label_smoothing = 0.0;
  double mixup = 0.0;
  double ema = 0.0;
  std::string init_from{};
  std::string teacher{};
  double distillation = 0.0;
  double temperature = 1.0;
  double feature_distillation = 0.0;
  std::vector<FeatureLayer> feature_layers{};
  double relation_distillation = 0.0;
  std::string relation_layer{};
  std::string relation_teacher_layer{};
  int64_t relation_heads = 1;
  int64_t statistics_batches = 0;
  double freeze_oscillation = 0.0;
  double oscillation_momentum = 0.01;
  config::Precision precision = config::Precision::kFloat32;
  bool channels_last = false;
  config::Precision ternary_gradients = config::Precision::kFloat32;
  int64_t workers = 0;
  int64_t evaluate_steps = 0;
  int64_t patience = 0;
  double min_delta = 0.0;
  int64_t checkpoint_steps = 0;
  int64_t keep_best = 1;
  int64_t keep_last = 1;

  void visit(config::Fields& f) {
    visit_optimizer(f);
    visit_schedule(f);
    visit_step(f);
    visit_run(f);
  }

 private:
  void visit_optimizer(config::Fields& f) {
    f("epochs", epochs, "passes over the training data", config::at_least(1));
    f("batch_size", batch_size, "samples a batch", config::at_least(1));
    f("optimizer", optimizer,
      "adamw, with decoupled weight decay; adam and sgd, where the decay is a part of the gradient; muon, which makes the "
      "momentum of hidden layers' matrices and filters orthogonal, with the rate and decay of adamw, and adamw for all "
      "others");
    f("learning_rate", learning_rate, "highest learning rate of the schedule", config::above(0));
    f("momentum", momentum, "momentum of sgd and muon", config::at_least(0));
    f("nesterov", nesterov, "sgd looks ahead, as Nesterov's");
    f("beta1", beta1,
      "share of the past in the mean of gradients of adam and adamw, of parameters that muon leaves to it, too",
      config::from_to_below(0, 1));
    f("beta2", beta2, "share of the past in the mean of their squares", config::from_to_below(0, 1));
    f("epsilon", epsilon, "added to the root of that mean", config::at_least(0));
    f("weight_decay", weight_decay, "of weights; biases, norms and scales have none", config::at_least(0));
    f("parameters", parameters, "rules for parameters that differ, the first that fits decides");
  }
  void visit_schedule(config::Fields& f) {
    f("schedule", schedule,
      "of the learning rate: cosine, linear or polynomial down to final_rate; constant; step, by step_factor after every "
      "step_epochs; one_cycle, a "
      "cosine up over warmup and down to nothing; two_phase, linear down, in the second half by step_factor and without "
      "weight decay");
    f("warmup", warmup, "fraction of all steps in which the learning rate rises linearly", config::between(0, 1));
    f("final_rate", final_rate, "share of the learning rate at the end of cosine, linear and polynomial",
      config::between(0, 1));
    f("power", power, "of polynomial", config::above(0));
    f("step_epochs", step_epochs, "epochs between the drops of step", config::at_least(1));
    f("step_factor", step_factor, "of each drop of step, and of that in the middle of two_phase", config::above(0));
    f("ternary_delay", ternary_delay, "fraction of all steps before layers begin to turn ternary; until then they are float",
      config::between(0, 1));
    f("ternary_warmup", ternary_warmup,
      "fraction of all steps in which layers turn from float to ternary linearly; 0: at once", config::between(0, 1));
    f("ternary_order", ternary_order,
      "how layers share ternary_warmup: all of them together; or one after another, each in a part of its own, from the "
      "first to the last in the order in which the network has them, or from the last to the first");
  }
  void visit_step(config::Fields& f) {
    f("seed", seed, "seed of initialization and shuffling");
    f("threads", threads, "threads of LibTorch; 0: all cores", config::between(0, 1024));
    f("device", device,
      "where it trains: cpu, cuda or, as the second NVIDIA GPU, cuda:1; empty: where the network is, on the CPU for bitlab "
      "train");
    f("accumulate", accumulate, "batches whose gradients make one step of the optimizer", config::at_least(1));
    f("clip_norm", clip_norm, "largest L2 norm of all gradients together; larger ones are scaled down; 0: any",
      config::at_least(0));
    f("label_smoothing", label_smoothing,
      "share of each label that is spread over all classes evenly, in training; 0: none, 0.1 is usual",
      config::from_to_below(0, 1));
    f("mixup", mixup,
      "each input of a batch is blended with another's by a share from Beta(mixup, mixup), and so is the loss; 0: none, "
      "0.2 is usual",
      config::at_least(0));
    f("ema", ema,
      "share of the past in a moving average of the parameters, which is what is evaluated and kept then; 0: none, 0.999 is "
      "usual",
      config::from_to_below(0, 1));
    f("init_from", init_from,
      "folder of a trained run of the same architecture, whose parameters training begins with; empty: random ones");
    f("teacher", teacher, "folder of a trained run whose network is the teacher");
    f("distillation", distillation,
      "share of the loss that is the divergence from the teacher's classes; 0: no teacher, 1: labels do not count",
      config::between(0, 1));
    f("temperature", temperature, "by which the logits of both are divided first, above 0; larger: softer",
      config::above(0));
    visit_distillation_of_layers(f);
    f("statistics_batches", statistics_batches,
      "training batches that pass through the network before each evaluation, so that batch norms have the statistics of "
      "the parameters that are evaluated; 0: those of training",
      config::at_least(0));
    f("freeze_oscillation", freeze_oscillation,
      "a ternary weight is frozen once it turns back and forth more often than this, as a share of steps; 0: none",
      config::from_to_below(0, 1));
    f("oscillation_momentum", oscillation_momentum, "share of the present step in the moving average of how often it turns",
      config::above_up_to(0, 1));
    f("precision", precision,
      "of forward and backward passes in training: float32; bfloat16 or float16, by autocast, with the parameters in "
      "float32; float16 with a loss that is scaled, so that gradients do not vanish, and steps that are skipped where it "
      "was "
      "too much");
    f("channels_last", channels_last,
      "pictures lie in memory pixel by pixel, which convolutions take faster; not for a network that calls view() on them");
    f("ternary_gradients", ternary_gradients,
      "what the gradients of ternary weights travel as between processes that train together: float32; bfloat16, half as "
      "much");
  }
  void visit_distillation_of_layers(config::Fields& f) {
    f("feature_distillation", feature_distillation,
      "what the mean squared error between outputs of feature_layers and the teacher's is multiplied by, each divided by "
      "its root mean square, in the loss; 0: none",
      config::at_least(0));
    f("feature_layers", feature_layers, "layers whose outputs resemble the teacher's");
    f("relation_distillation", relation_distillation,
      "what the divergence of the relations between queries, between keys and between values of an attention from the "
      "teacher's is multiplied by in the loss; 0: none",
      config::at_least(0));
    f("relation_layer", relation_layer, "path of that attention; empty: the last");
    f("relation_teacher_layer", relation_teacher_layer,
      "path of the teacher's; empty: as relation_layer, or the last of the teacher's");
    f("relation_heads", relation_heads, "parts of vectors that have relations of their own", config::at_least(1));
  }
  void visit_run(config::Fields& f) {
    f("workers", workers, "threads that prepare batches ahead; 0: the training thread does", config::between(0, 1024));
    f("evaluate_steps", evaluate_steps, "steps of the optimizer between evaluations; 0: after each epoch",
      config::at_least(0));
    f("patience", patience, "evaluations in a row without a better one after which training ends; 0: it goes on",
      config::at_least(0));
    f("min_delta", min_delta, "by how much the metric must be better to count for patience", config::at_least(0));
    f("checkpoint_steps", checkpoint_steps,
      "steps of the optimizer between checkpoints, besides those after each epoch; 0: none", config::at_least(0));
    f("keep_best", keep_best, "models that are kept, the best by the metric; above 1 each in a file named by its step",
      config::at_least(1));
    f("keep_last", keep_last, "checkpoints that are kept, the newest; above 1 each in a file named by its step",
      config::at_least(1));
  }
};

// What a training run writes down as it goes.
struct LogConfig {
  std::vector<config::LogFormat> formats{config::LogFormat::kJsonLines, config::LogFormat::kCsv};
  int64_t steps = 10;
  std::string folder;

  void visit(config::Fields& f) {
    f("formats", formats,
      "jsonl: log.jsonl, an object a line; csv: metrics.csv; tensorboard: an event file that TensorBoard reads");
    f("steps", steps, "every how many batches one of them is written down; epochs always are", config::at_least(1));
    f("folder", folder, "where; empty: the folder of the run");
  }
};

// How a float network is fitted to ternary codes without training (deploy/post_training.h).
struct DeploymentConfig {
  ternary::Calibration calibration = ternary::Calibration::kMse;
  double percentile = 99.9;
  bool fold_batch_norm = true;
  bool refit_scales = true;
  bool correct_bias = true;

  void visit(config::Fields& f) {
    f("calibration", calibration,
      "what the step of static activations follows, as the float network's layers read them: minmax, percentile or mse");
    f("percentile", percentile, "of calibration by percentile, above 0, at most 100", config::above_up_to(0, 100));
    f("fold_batch_norm", fold_batch_norm,
      "a BatchNorm goes into the scales and bias of the layer in front, where nothing else reads either");
    f("refit_scales", refit_scales, "scales are fitted by channel to what the float weights make of the samples");
    f("correct_bias", correct_bias, "what is still missing in a channel on average is added to its bias");
  }
};

}  // namespace bitlab
