// The checkpoints of parts() in testdata/make_fixtures.py: which part of each is the model's.
#include "bitlab/train/find_weights.h"

#include <torch/torch.h>

#include "bitlab/train/state_dict.h"
#include "bitlab/train/test_support.h"

namespace bitlab::train {
namespace {

using test::expect_equal, test::fixture, test::values;
using Lines = std::vector<std::string>;

// small(k) of make_fixtures.py.
State small(int64_t k) {
  return {{"a.weight", values({2, 3}, k)}, {"a.bias", values({2}, k + 1)}, {"b.weight", values({1, 2}, k + 2)}};
}

Result<StateDict> find(const std::string& key, const std::string& prefix = "") {
  return load_state_dict(fixture("parts.pth"), small(0), {key, prefix, {}});
}

void expect_small(const std::string& key, int64_t k, const Lines& notes, const std::string& prefix = "") {
  const auto found = find(key, prefix);
  ASSERT_TRUE(found.ok()) << key << ": " << found.error().message;
  EXPECT_EQ(found->notes, notes) << key;
  EXPECT_EQ(found->tensors.size(), 3U) << key;
  for (const auto& [name, tensor] : small(k)) {
    ASSERT_TRUE(found->tensors.contains(name)) << key;
    expect_equal(found->tensors.at(name), tensor, fmt::format("{} of {}", name, key));
  }
}

std::string weights(const std::string& key) { return fmt::format("Weights: '{}' of the file (names of the model: 3)", key); }

std::string error_of(const std::string& key) {
  const std::string message = find(key).error().message, path = fmt::format(" (path={})", fixture("parts.pth").string());
  EXPECT_TRUE(message.ends_with(path)) << message;
  return message.substr(0, message.size() - path.size());
}

TEST(FindWeightsTest, TakesThePartThatMatchesBest) {
  expect_small("plain", 1, {weights("plain")});
  expect_small("ema_only", 1, {weights("ema_only.state_dict_ema")});
  expect_small("settings", 1, {weights("settings.net")});
  expect_small("sequence", 1, {weights("sequence.1.0")});
  expect_small("shapes", 1, {weights("shapes.net")});
  expect_small("nested", 1, {weights("nested.model")});
  expect_small("lightning", 1, {weights("lightning.state_dict.model")});
  for (const char* name : {"ordered", "attributes", "default", "reconstructed"})
    expect_small(name, 1, {weights(std::string(name) + ".state_dict")});
  EXPECT_EQ(find("ema_only").value().skipped.at(0), "plain (dict)");
  EXPECT_EQ(find("same").value().notes, Lines{weights("same.best")});
}

TEST(FindWeightsTest, RemovesTheNamesOfWrappers) {
  expect_small(
      "wrapped", 1,
      {weights("wrapped.model"), "Names: without '_orig_mod.', in 3 of them", "Names: without 'module.', in 3 of them"});
  expect_small(
      "inner", 1,
      {weights("inner.model"), "Names: without '_orig_mod.', in 1 of them", "Names: without 'module.', in 1 of them"});
  expect_small("averaged.best", 1, {weights("averaged.best"), "Names: without 'module.', in 3 of them"});
  expect_small("wrapped", 1, {weights("wrapped.model")}, "_orig_mod.module.");
  expect_small("wrapped", 1, {weights("wrapped.model"), "Names: without 'module.', in 3 of them"}, "_orig_mod.");
  expect_small("lightning.state_dict", 1, {weights("lightning.state_dict.model")});
  expect_small("deepspeed", 1,
               {weights("deepspeed"), "Names: without 'module.', in 3 of them",
                "'deepspeed.module_ema' matches as well; --key deepspeed.module_ema takes it"});
  expect_small("deepspeed.module", 1, {weights("deepspeed.module")});

  // What a wrapper and its inside both have is not one tensor.
  const State both = find("both").value().tensors;
  EXPECT_EQ(both.size(), 6U);
  expect_equal(both.at("a.weight"), values({2, 3}, 1), "a.weight");
  EXPECT_EQ(both.at("module.a.weight").sizes(), (at::IntArrayRef{2, 3}));
  EXPECT_TRUE(both.at("module.a.weight").is_meta()) << "not read";

  // A model with such a name of its own.
  const State own{
      {"module.a.weight", torch::zeros({2, 3})}, {"a.bias", torch::zeros({2})}, {"b.weight", torch::zeros({1, 2})}};
  const State found = load_state_dict(fixture("parts.pth"), own, {"plain"}).value().tensors;
  EXPECT_TRUE(compare(own, found).empty()) << to_text(compare(own, found));
  expect_equal(found.at("module.a.weight"), values({2, 3}, 1), "module.a.weight");
}

TEST(FindWeightsTest, PrefersConventionalNamesToAverages) {
  const auto as_well = [](const std::string& key) {
    return fmt::format("'{}' matches as well; --key {} takes it", key, key);
  };
  expect_small("timm", 1, {weights("timm.state_dict"), as_well("timm.state_dict_ema")});
  expect_small("gradients", 1, {weights("gradients.model"), as_well("gradients.exp_avg"), as_well("gradients.grads")});
  expect_small("timm.state_dict_ema", 2, {weights("timm.state_dict_ema")});
}

TEST(FindWeightsTest, DoesNotGuess) {
  const auto one_of = [](const std::string& keys) {
    return fmt::format("[state_dict] one part of the file that matches best, got {}; --key chooses one", keys);
  };
  EXPECT_EQ(error_of("student_teacher"), one_of("'student_teacher.student', 'student_teacher.teacher'"));
  EXPECT_EQ(error_of("flat"), one_of("'flat.state_dict.student', 'flat.state_dict.teacher'"));
  EXPECT_EQ(error_of("two"), one_of("'two.model', 'two.state_dict'"));
  EXPECT_EQ(error_of("averaged"), one_of("'averaged.model', 'averaged.best'"));
  expect_small("flat.state_dict.teacher", 2, {weights("flat.state_dict.teacher")});
  EXPECT_EQ(find("student_teacher").error().code, ErrorCode::kUnknownName);
}

TEST(FindWeightsTest, SaysWhichKeysThereAre) {
  EXPECT_EQ(
      error_of("plane"),
      "[state_dict] a key of the file with tensors, got 'plane'; did you mean 'plain'? (keys: 'attributes', 'averaged', "
      "'both', 'deepspeed', 'default', 'ema_only', 'flat', 'gradients', 'inner', 'lightning' and 53 more)");
  EXPECT_EQ(error_of("whole"),
            "[state_dict] a key of the file with tensors, got 'whole' (keys: 'attributes', 'averaged', 'both', 'deepspeed', "
            "'default', 'ema_only', 'flat', 'gradients', 'inner', 'lightning' and 53 more)");
  const std::string path = fmt::format(" (path={})", fixture("plain.pth").string());
  EXPECT_EQ(load_state_dict(fixture("plain.pth"), small(0), {"ema"}).error().message,
            "[state_dict] a key of the file with tensors, got 'ema' (keys: none)" + path);
}

TEST(FindWeightsTest, FindsWhatToCompareWhereLittleMatches) {
  const StateDict partial = find("partial").value();
  EXPECT_EQ(partial.notes, Lines{"Weights: 'partial.net' of the file (names of the model: 1; missing: 2)"});
  EXPECT_EQ(to_text(compare(small(0), partial.tensors)),
            "Missing in the file: 2\n"
            "  a.bias    [2]\n"
            "  b.weight  [1, 2]  near 'c.weight'\n"
            "Unknown to the model: 1\n"
            "  c.weight  [1]  near 'b.weight'\n");
  const StateDict other = find("other").value();
  EXPECT_EQ(other.notes, Lines{"Weights: 'other.state_dict' of the file (names of the model: 0; missing: 3)"});
  ASSERT_EQ(other.tensors.size(), 1U);
  EXPECT_EQ(other.tensors.at("c.weight").sizes(), (at::IntArrayRef{1}));
  const State dense = load_state_dict(fixture("unreadable.pth"), {{"dense", torch::zeros({4, 4})}}).value().tensors;
  expect_equal(dense.at("dense"), values({4, 4}, 1), "dense");
  EXPECT_EQ(dense.size(), 12U) << "what cannot be read and is not wanted";
  const State root = load_state_dict(fixture("plain.pth"), {{"scale", torch::zeros({})}}).value().tensors;
  EXPECT_EQ(root.size(), 7U);
  EXPECT_TRUE(root.contains("fc.weight"));
}

TEST(FindWeightsTest, ReadsTheFileAsAWhole) {
  const State model{{"weight", torch::zeros({2, 3})}, {"bias", torch::zeros({2})}};
  const StateDict odd = load_state_dict(fixture("odd.pth"), model).value();
  EXPECT_EQ(odd.notes, Lines{"Weights: 'state_dict' of the file (names of the model: 2)"});
  EXPECT_EQ(odd.tensors.size(), 2U);
  expect_equal(odd.tensors.at("weight"), values({2, 3}, 3), "weight");
  const State marked{{"weight", torch::zeros({2, 3})}, {"bias", torch::zeros({2})}, {"marked", torch::zeros({2})}};
  const StateDict wrapped = load_state_dict(fixture("wrapped.pth"), marked).value();
  EXPECT_EQ(wrapped.skipped,
            (Lines{"epoch (int)", "lr (float)", "best (NoneType)", "big (int)", "raw (_codecs.encode)", "classes (list)",
                   "state_dict.module.version (int)", "optimizer (state of an optimizer)", "args (argparse.Namespace)"}));
  EXPECT_TRUE(compare(marked, wrapped.tensors).empty());
  const State fc{{"fc.weight", torch::zeros({4, 3})}, {"fc.bias", torch::zeros({4})}};
  const StateDict inner =
      load_state_dict(fixture("plain.pth"), {{"weight", fc.at("fc.weight")}, {"bias", fc.at("fc.bias")}}).value();
  EXPECT_EQ(inner.notes, Lines{"Weights: 'fc' of the file (names of the model: 2)"});
  EXPECT_EQ(load_state_dict(fixture("plain.pth"), fc).value().tensors.size(), 7U);
  EXPECT_TRUE(load_state_dict(fixture("plain.pth"), fc, {"."}).value().notes.empty());
}

TEST(FindWeightsTest, TiedWeightsAndCountsMayBeAbsent) {
  const at::Tensor embedding = torch::zeros({4, 3});
  const State model{{"bn.num_batches_tracked", torch::tensor(int64_t{0})},
                    {"embed.weight", embedding},
                    {"head.weight", embedding},
                    {"head.bias", torch::zeros({4})},
                    {"view", embedding[0]},
                    {"empty", torch::zeros({0})},
                    {"other", torch::zeros({0})}};
  using Names = std::set<std::string>;
  const auto missing = [&](const Names& names, const NamePredicate& may_miss = {}) {
    return missing_names(
        model, [&](const std::string& name) { return names.contains(name); }, may_miss);
  };
  EXPECT_EQ(missing({"embed.weight", "head.bias", "view", "empty", "other"}), Lines{});
  EXPECT_EQ(missing({"head.weight", "head.bias", "view", "other"}), Lines{"empty"});
  EXPECT_EQ(missing({"view", "other"}), (Lines{"embed.weight", "empty", "head.bias", "head.weight"}));
  EXPECT_EQ(missing({"empty"}, [](std::string_view name) { return name.starts_with("head") || name == "view"; }),
            (Lines{"embed.weight", "head.weight", "other"}));
  EXPECT_EQ(tied_names(model).size(), 6U);
}

}  // namespace
}  // namespace bitlab::train
