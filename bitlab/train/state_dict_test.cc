// A state_dict and a model: names, shapes, values.
#include "bitlab/train/state_dict.h"

#include <torch/torch.h>

#include "bitlab/train/test_support.h"

namespace bitlab::train {
namespace {

using test::expect_equal, test::fixture, test::values;

TEST(StateDictTest, ComparesNamesAndShapes) {
  const State model{
      {"conv1.weight", torch::zeros({2, 3})}, {"conv1.bias", torch::zeros({2})}, {"fc.scale", torch::zeros({})}};
  State file{{"conv1.weights", torch::zeros({2, 3})}, {"conv1.bias", torch::zeros({3})}, {"fc.scale", torch::zeros({1})}};
  EXPECT_EQ(to_text(compare(model, file)),
            "Missing in the file: 1\n"
            "  conv1.weight  [2, 3]  near 'conv1.weights'\n"
            "Unknown to the model: 1\n"
            "  conv1.weights  [2, 3]  near 'conv1.weight'\n"
            "Of another shape: 2\n"
            "  conv1.bias  [2], got [3]\n"
            "  fc.scale    [], got [1]\n");
  EXPECT_TRUE(compare(model, model).empty());
  EXPECT_EQ(to_text(compare(model, model)), "");
  EXPECT_TRUE(compare(model, {}, [](std::string_view) { return true; }).empty());

  State wrapped;
  for (const auto& [name, tensor] : model) wrapped["_orig_mod.module." + name] = tensor;
  EXPECT_EQ(compare(model, wrapped).prefix, "_orig_mod.module.");

  State many;
  for (int i = 0; i < 25; ++i) many[fmt::format("w{:02}", i)] = torch::zeros({1});
  const std::string text = to_text(compare(many, {}));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 22);
  EXPECT_NE(text.find("  w19  [1]\n  and 5 more\n"), std::string::npos) << text;
}

TEST(StateDictTest, LoadsAllOrNothing) {
  torch::nn::Linear layer(3, 4);
  const at::Tensor before = layer->weight.detach().clone();
  const State file = read_pytorch_file(fixture("plain.pth")).value();
  State state{{"weight", file.at("fc.weight")}, {"bias", file.at("fc.bias")}};
  State other = state;
  other["extra"] = other["more"] = torch::zeros({1});
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] a parameter of the model, got 'extra' and 1 more");
  EXPECT_EQ(load_into(*layer, {}).error().message, "[train] every parameter of the model, got none for 'bias' and 1 more");
  other = state;
  other["weight"] = torch::zeros({4, 4});
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] a shape of [4, 3], got [4, 4] (name=weight)");
  other["weight"] = torch::zeros({4, 3}, at::kLong);
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] values of Float, got Long (name=weight)");
  EXPECT_TRUE(torch::equal(layer->weight, before));
  state.erase("bias");
  ASSERT_TRUE(load_into(*layer, state, [](std::string_view name) { return name == "bias"; }).ok());
  EXPECT_TRUE(torch::equal(layer->weight, values({4, 3}, 0)));
  EXPECT_TRUE(layer->weight.requires_grad());
}

TEST(StateDictTest, LoadsEveryFloatingType) {
  State file = read_pytorch_file(fixture("dtypes.pth")).value();
  for (const char* name : {"float16", "bfloat16", "float32", "float64", "float8"}) {
    torch::nn::Module module;
    const at::Tensor weight = module.register_parameter("weight", torch::zeros(file.at(name).sizes()));
    load_into(module, {{"weight", file.at(name)}}).value();
    const bool is_short = std::string_view(name) == "float8";
    EXPECT_TRUE(torch::equal(weight, is_short ? torch::tensor({0.5F, -1.75F, 448.0F}) : values({2, 3}, 1))) << name;
  }
}

TEST(StateDictTest, LoadsBatchNormsWithoutACount) {
  torch::nn::BatchNorm1d layer(4);
  const State file = read_pytorch_file(fixture("plain.pth")).value();
  State state;
  for (const char* name : {"weight", "bias", "running_mean", "running_var"})
    state[name] = file.at(fmt::format("bn.{}", name));
  load_into(*layer, state).value();
  expect_equal(layer->running_var, values({4}, 5), "running_var");
  EXPECT_EQ(layer->num_batches_tracked.item<int64_t>(), 0);
  state["num_batches_tracked"] = file.at("bn.num_batches_tracked");
  load_into(*layer, state).value();
  EXPECT_EQ(layer->num_batches_tracked.item<int64_t>(), 5);
  state.erase("running_var");
  EXPECT_EQ(load_into(*layer, state).error().message, "[train] every parameter of the model, got none for 'running_var'");
}

TEST(StateDictTest, LoadsTiedWeightsUnderAnyName) {
  torch::nn::Module net;
  const at::Tensor weight = net.register_parameter("embed", torch::zeros({4, 3}));
  net.register_parameter("head", weight);
  const at::Tensor one = values({4, 3}, 1), two = values({4, 3}, 2);
  ASSERT_EQ(state_of(net).size(), 2U);
  load_into(net, {{"embed", one}}).value();
  EXPECT_TRUE(torch::equal(weight, one));
  load_into(net, {{"head", two}}).value();
  EXPECT_TRUE(torch::equal(weight, two));
  load_into(net, {{"embed", one}, {"head", one.to(at::kDouble)}}).value();
  EXPECT_TRUE(torch::equal(weight, one));
  EXPECT_EQ(load_into(net, {{"embed", two}, {"head", one}}).error().message,
            fmt::format("[train] equal values for tied weights, got {} in 'embed' and {} in 'head'",
                        two.flatten()[0].item<double>(), one.flatten()[0].item<double>()));
  EXPECT_TRUE(torch::equal(weight, one));
  EXPECT_EQ(load_into(net, {}).error().message, "[train] every parameter of the model, got none for 'embed' and 1 more");
  const at::Tensor broken = torch::full({4, 3}, std::nan(""));
  EXPECT_TRUE(load_into(net, {{"embed", broken}, {"head", broken.clone()}}).ok());
}

TEST(StateDictTest, FindsWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  State state{{"a", values({4, 2, 3}, 1)}, {"b", torch::zeros({2})}, {"c", torch::tensor({1, 2})}, {"d", torch::zeros({})}};
  EXPECT_TRUE(check_finite(state).ok());
  state.at("a").index_put_({3, 0, 2}, std::nan(""));
  EXPECT_EQ(check_finite(state).error().message, "[train] finite values, got nan at [3, 0, 2] (name=a)");
  EXPECT_EQ(check_finite(state).error().code, ErrorCode::kNotFinite);
  state.at("a").index_put_({1, 1, 0}, -infinity);
  state.at("a").index_put_({3, 1, 2}, infinity);
  EXPECT_EQ(check_finite(state).error().message, "[train] finite values, got -inf at [1, 1, 0] and 2 more (name=a)");
  state.at("b").index_put_({1}, infinity);
  state.at("d").fill_(infinity);
  EXPECT_EQ(check_finite(state).error().message,
            "[train] finite values, got -inf at [1, 1, 0] and 2 more (name=a and 2 more)");
  EXPECT_EQ(check_finite({{"d", state.at("d")}}).error().message, "[train] finite values, got inf at [] (name=d)");
  EXPECT_EQ(check_finite({{"large", read_pytorch_file(fixture("dtypes.pth")).value().at("large")}}).error().message,
            "[train] values within the range of float32, got 1e+300 at [0] (name=large)");
  EXPECT_EQ(check_finite({{"h", torch::tensor({65504.0, 1e9}).to(at::kHalf)}}).error().message,
            "[train] finite values, got inf at [1] (name=h)");
  EXPECT_EQ(check_finite({{"f", torch::tensor({1.0, std::nan("")}).to(at::kFloat8_e4m3fn)}}).error().message,
            "[train] finite values, got nan at [1] (name=f)");
}

}  // namespace
}  // namespace bitlab::train
