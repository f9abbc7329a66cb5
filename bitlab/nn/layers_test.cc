// One suite for every layer of layers.def. Its cases: layer_cases_test.cc.
#include <fstream>
#include <map>
#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_batch_norm.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"
#include "bitlab/nn/bit_recurrent.h"
#include "bitlab/nn/bit_transformer.h"
#include "bitlab/nn/test_support.h"

namespace bitlab::nn {

#define BITLAB_LAYER(Name, twin, ternary) \
  template <>                             \
  std::vector<LayerCase> layer_cases<Name>(const BitQuantConfig& quant);
#include "bitlab/nn/layers.def"
#undef BITLAB_LAYER

namespace {

struct Row {
  std::string name, twin, ternary;
  std::vector<LayerCase> (*cases)(const BitQuantConfig& quant);
};
const std::vector<Row> kRows{
#define BITLAB_LAYER(Name, twin, ternary) {#Name, twin, ternary, layer_cases<Name>},
#include "bitlab/nn/layers.def"
#undef BITLAB_LAYER
};

void PrintTo(const Row& row, std::ostream* stream) { *stream << row.name; }

// Of this program's tests: their shapes are small, and threads would wait for each other on a busy machine.
struct OneThread : testing::Environment {
  void SetUp() override { torch::set_num_threads(1); }
};
[[maybe_unused]] const testing::Environment* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

class Layers : public testing::TestWithParam<Row> {
 protected:
  void SetUp() override { torch::manual_seed(3); }
};
INSTANTIATE_TEST_SUITE_P(All, Layers, testing::ValuesIn(kRows), [](const auto& row) { return row.param.name; });

at::Tensor evaluate(const LayerCase& c, torch::nn::Module& module) {
  const at::NoGradGuard no_grad;
  module.eval();
  return c.forward(module, c.input);
}

using Named = std::map<std::string, at::Tensor>;

// The twin's tensors by our names; the rows of an attention's in_proj are three projections.
Named by_our_names(const Named& twin, const Renames& renames) {
  Named ours;
  for (const auto& [key, tensor] : twin) {
    std::string name = key;
    for (const auto& [from, to] : renames)
      if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    const size_t packed = name.find("in_proj_");
    if (packed == std::string::npos) {
      ours[name] = tensor;
      continue;
    }
    const char* const projections[] = {"q_proj.", "k_proj.", "v_proj."};
    for (size_t i = 0; i < 3; ++i)
      ours[name.substr(0, packed) + projections[i] + name.substr(packed + 8)] = tensor.chunk(3)[i];
  }
  return ours;
}

Named gradients(const torch::nn::Module& module) {
  Named named;
  for (const auto& parameter : module.named_parameters()) named[parameter.key()] = parameter.value().grad();
  return named;
}

// Gives the twin our parameters.
void copy_parameters(const LayerCase& c) {
  Named twin;
  for (const auto& parameter : c.twin->named_parameters()) twin[parameter.key()] = parameter.value().detach();
  const Named theirs = by_our_names(twin, c.renames);
  const auto ours = c.ours->named_parameters();
  ASSERT_EQ(theirs.size(), ours.size());
  for (const auto& parameter : ours) {
    ASSERT_TRUE(theirs.count(parameter.key())) << parameter.key();
    theirs.at(parameter.key()).copy_(parameter.value().detach());
  }
}

// Ours and the twin with equal parameters: the same outputs and gradients.
void expect_twins(const LayerCase& c, at::ScalarType type, double tolerance) {
  const auto close = [&](const at::Tensor& a, const at::Tensor& b) {
    return torch::allclose(a, b, 10 * tolerance, tolerance);
  };
  c.ours->to(type);
  c.twin->to(type);
  copy_parameters(c);
  const bool floats = c.input.is_floating_point();
  const at::Tensor x = floats ? c.input.to(type).clone().requires_grad_() : c.input;
  const at::Tensor z = floats ? c.input.to(type).clone().requires_grad_() : c.input;
  for (bool training : {true, true, false}) {  // twice: statistics of batches
    c.ours->train(training);
    c.twin->train(training);
    c.ours->zero_grad();
    c.twin->zero_grad();
    const at::Tensor y = c.forward(*c.ours, x), expected = c.twin_forward(*c.twin, z);
    EXPECT_EQ(y.scalar_type(), type);
    ASSERT_EQ(y.sizes(), expected.sizes());
    EXPECT_TRUE(close(y, expected)) << (y - expected).abs().max();
    const at::Tensor g = torch::randn_like(y);
    y.backward(g);
    expected.backward(g);
    if (floats) {
      EXPECT_TRUE(close(x.grad(), z.grad())) << (x.grad() - z.grad()).abs().max();
    }
    const Named theirs = by_our_names(gradients(*c.twin), c.renames);
    for (const auto& [name, gradient] : gradients(*c.ours))
      EXPECT_TRUE(close(gradient, theirs.at(name))) << name << (gradient - theirs.at(name)).abs().max();
  }
  for (const auto& buffer : c.ours->named_buffers())
    EXPECT_TRUE(close(buffer.value(), c.twin->named_buffers()[buffer.key()])) << buffer.key();
}

TEST_P(Layers, WithoutQuantizationIsItsTwin) {
  for (const LayerCase& c : GetParam().cases(BitQuantConfig::none())) {
    SCOPED_TRACE(c.ours->name());
    expect_twins(c, at::kFloat, 2e-6);
    expect_twins(c, at::kDouble, 1e-12);
  }
}

TEST_P(Layers, PrintsItsName) {
  for (const LayerCase& c : GetParam().cases({})) {
    std::ostringstream stream;
    c.ours->pretty_print(stream);
    EXPECT_EQ(stream.str().find("bitlab::nn::" + GetParam().name + "("), 0U) << stream.str();
    EXPECT_EQ(stream.str().find("quant=absmean/tensor/int8)") != std::string::npos, c.ternary) << stream.str();
  }
}

TEST_P(Layers, ClonesAreEqualAndIndependent) {
  for (const LayerCase& c : GetParam().cases({})) {
    const at::Tensor expected = evaluate(c, *c.ours);
    const auto copy = c.ours->clone();
    EXPECT_TRUE(same_bits(evaluate(c, *copy), expected));
    for (at::Tensor& parameter : copy->parameters()) parameter.data().neg_();
    for (at::Tensor& buffer : copy->buffers()) buffer.zero_();
    EXPECT_TRUE(same_bits(evaluate(c, *c.ours), expected));
  }
}

TEST_P(Layers, StateGoesThroughSaveAndLoad) {
  const auto from = GetParam().cases({}), to = GetParam().cases({});
  for (size_t i = 0; i < from.size(); ++i) {
    from[i].ours->train();
    from[i].forward(*from[i].ours, from[i].input);  // batches leave statistics
    std::stringstream stream;
    torch::save(from[i].ours, stream);
    std::shared_ptr<torch::nn::Module> loaded = to[i].ours;
    torch::load(loaded, stream);
    EXPECT_TRUE(same_bits(evaluate(from[i], *loaded), evaluate(from[i], *from[i].ours)));
  }
}

// A forward and a backward pass reach every parameter; evaluation, on codes, gives what training's forward pass gives.
void expect_trains(const LayerCase& c, bool grouped) {
  std::ostringstream what;
  what << *c.ours;
  SCOPED_TRACE(what.str());
  c.ours->train();
  const at::Tensor trained = c.forward(*c.ours, c.input);
  trained.square().mean().backward();
  for (const auto& [name, gradient] : gradients(*c.ours)) {
    ASSERT_TRUE(gradient.defined()) << name;
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << name;
    // Softmax does not see a bias of the keys.
    EXPECT_TRUE(name.find("k_proj.bias") != std::string::npos || gradient.count_nonzero().item<int64_t>() > 0) << name;
  }
  const at::Tensor evaluated = evaluate(c, *c.ours);
  if (c.same_bits && !grouped) {
    EXPECT_TRUE(same_bits(evaluated, trained));
  } else {
    EXPECT_TRUE(torch::allclose(evaluated, trained, 1e-3, 1e-4)) << (evaluated - trained).abs().max();
  }
}

TEST_P(Layers, TrainsAndEvaluatesWithEveryConfiguration) {
  for (const BitQuantConfig& config : configs())
    for (const LayerCase& c : GetParam().cases(config))
      if (c.ternary) expect_trains(c, config.granularity == ternary::Granularity::kGroup);
}

TEST_P(Layers, NamesWhatFitsWhereChoicesDoNot) {
  BitQuantConfig ttq;
  ttq.method = ternary::Method::kTtq;
  ttq.granularity = ternary::Granularity::kGroup;
  const std::string text = message_of([&] { GetParam().cases(ttq); });
  EXPECT_NE(text.find(GetParam().ternary == "nothing" ? "no error" : "tensor or channel scales for ttq"), std::string::npos)
      << text;
}

TEST_P(Layers, HasARowInTheDocs) {
  std::ifstream file(BITLAB_SOURCE_DIR "/docs/tutorials/layers.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  const Row& row = GetParam();
  EXPECT_NE(page.find("| `" + row.name + "` | " + row.twin + " | " + row.ternary + " |"), std::string::npos);
}

TEST(LayerList, Size) { EXPECT_EQ(kRows.size(), 20U); }

}  // namespace
}  // namespace bitlab::nn
