// Each operator of lowerings.def, and networks of plain torch::nn: the runtime computes what LibTorch does in eval.
#include "bitlab/deploy/internal/lowering.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/test_support.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_norm.h"
#include "bitlab/ops/ops.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

using test::capture_net, test::Net, test::run_program, test::same_bits;
namespace F = torch::nn::functional;

using test::Promise;

// Captures and runs `net` on `x` and parts of it, which must be near what it computes, and equal where the program says so.
void check(Net& net, const at::Tensor& x, Promise promise, const std::string& what) {
  const auto program = capture_net(net, x);
  ASSERT_TRUE(program.ok()) << what << ": " << program.error().message;
  EXPECT_EQ(program->is_exact(), promise == Promise::kExact) << what << "\n" << print(*program);
  const at::NoGradGuard no_grad;
  net.eval();
  for (int64_t batch : {int64_t{1}, x.size(0)}) {
    const at::Tensor part = x.narrow(0, 0, batch).contiguous(), expected = net.forward(part),
                     found = run_program(*program, part);
    if (promise == Promise::kExact) {
      EXPECT_TRUE(same_bits(found, expected)) << what << " " << batch;
    } else {
      EXPECT_TRUE(torch::allclose(found, expected, 1e-4, 1e-5))
          << what << " " << batch << " by " << (found - expected).abs().max() << "\n"
          << print(*program);
    }
  }
}

using Body = std::function<at::Tensor(const at::Tensor&)>;
struct Case {
  const char* what;
  Promise promise;
  std::vector<int64_t> shape;  // of a sample
  Body body;
};

void check_all(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    torch::manual_seed(3);
    Net net;
    net.body = [&](Net&, const at::Tensor& x) { return c.body(x); };
    std::vector<int64_t> shape = c.shape;
    shape.insert(shape.begin(), 3);
    check(net, torch::randn(shape), c.promise, c.what);
  }
}

const at::Tensor kRandom = torch::randn({4096});
// Always the same random values in a shape.
at::Tensor values(at::IntArrayRef shape) { return kRandom.narrow(0, 0, c10::multiply_integers(shape)).view(shape); }

TEST(Lowering, Windows) {
  check_all({
      {"conv1d",
       Promise::kBounded,
       {6, 11},
       [](auto& x) {
         return at::conv1d(x, values({4, 3, 3}), values({4}), 2, 1, 2, 2);
       }},
      {"conv2d depthwise",
       Promise::kBounded,
       {6, 7, 5},
       [](auto& x) {
         return at::conv2d(x, values({6, 1, 3, 3}), {}, 1, 1, 1, 6);
       }},
      {"conv3d",
       Promise::kBounded,
       {2, 4, 5, 6},
       [](auto& x) {
         return at::conv3d(x, values({3, 2, 2, 3, 1}), values({3}));
       }},
      {"conv_transpose1d",
       Promise::kBounded,
       {4, 5},
       [](auto& x) {
         return at::conv_transpose1d(x, values({4, 3, 3}), values({6}), 2, 1, 1, 2);
       }},
      {"conv_transpose2d",
       Promise::kBounded,
       {4, 5, 3},
       [](auto& x) {
         return at::conv_transpose2d(x, values({4, 3, 2, 2}), {}, 2);
       }},
      {"conv_transpose3d",
       Promise::kBounded,
       {2, 3, 3, 2},
       [](auto& x) {
         return at::conv_transpose3d(x, values({2, 2, 2, 2, 2}), {}, 2);
       }},
      {"max_pool1d", Promise::kExact, {4, 9}, [](auto& x) { return at::max_pool1d(x, 3, 2, 1); }},
      {"max_pool3d", Promise::kExact, {2, 4, 6, 4}, [](auto& x) { return at::max_pool3d(x, 2); }},
      {"avg_pool1d", Promise::kBounded, {4, 9}, [](auto& x) { return at::avg_pool1d(x, 3); }},
      {"avg_pool3d", Promise::kBounded, {2, 4, 6, 4}, [](auto& x) { return at::avg_pool3d(x, 2); }},
      {"adaptive_avg_pool2d",
       Promise::kBounded,
       {3, 6, 4},
       [](auto& x) {
         return at::adaptive_avg_pool2d(x, {3, 2});
       }},
  });
}

TEST(Lowering, Norms) {
  const at::Tensor positive = values({6}).abs() + 0.5;
  check_all({
      {"batch_norm",
       Promise::kBounded,
       {6, 4, 3},
       [&](auto& x) { return at::batch_norm(x, values({6}), values({6}), values({6}), positive, false, 0.1, 1e-5, false); }},
      {"batch_norm of rank 2",
       Promise::kBounded,
       {6},
       [&](auto& x) { return at::batch_norm(x, {}, {}, values({6}), positive, false, 0.1, 1e-5, false); }},
      {"batch_norm of the contract",
       Promise::kExact,
       {6, 4, 3},
       [&](auto& x) { return ops::batch_norm(x, values({6}), values({6}), values({6}), positive, 1e-5); }},
      {"batch_norm of the contract, of rank 2",
       Promise::kExact,
       {6},
       [&](auto& x) { return ops::batch_norm(x, {}, {}, values({6}), positive, 1e-5); }},
      {"layer_norm",
       Promise::kBounded,
       {5, 4, 3},
       [](auto& x) {
         return at::layer_norm(x, {4, 3}, values({4, 3}), values({4, 3}));
       }},
      {"rms_norm", Promise::kBounded, {5, 7}, [](auto& x) { return at::rms_norm(x, {7}, values({7})); }},
      {"group_norm", Promise::kBounded, {6, 3, 2}, [](auto& x) { return at::group_norm(x, 3, values({6}), values({6})); }},
  });
}

TEST(Lowering, Pointwise) {
  check_all({
      {"gelu", Promise::kBounded, {37}, [](auto& x) { return at::gelu(x); }},
      {"gelu tanh", Promise::kBounded, {37}, [](auto& x) { return at::gelu(x, "tanh"); }},
      {"silu", Promise::kBounded, {37}, [](auto& x) { return at::silu(x); }},
      {"sigmoid", Promise::kBounded, {37}, [](auto& x) { return at::sigmoid(x); }},
      {"tanh", Promise::kBounded, {37}, [](auto& x) { return at::tanh(x); }},
      // That of LibTorch's library is a bit off for one number in a hundred.
      {"sqrt", Promise::kBounded, {4096}, [](auto& x) { return at::sqrt(at::abs(x)); }},
      {"squares and cubes",
       Promise::kExact,
       {37},
       [](auto& x) { return at::square(at::relu(x)) + at::pow(x, 2) - at::pow(x, 3); }},
      {"what rounds once",
       Promise::kExact,
       {37},
       [](auto& x) { return at::sign(x) + at::trunc(x * 3) + at::frac(x * 3) + at::fmax(x, -x) + at::hardshrink(x, 0.4); }},
      {"numbers", Promise::kExact, {37}, [](auto& x) { return 2 - (-x * 3 + 1.5) / 7 - 0.25; }},
      {"in place", Promise::kExact, {37}, [](auto& x) { return (x + 1).mul_(2).sub_(x).div_(3).relu_(); }},
      {"a constant's row",
       Promise::kExact,
       {4, 5},
       [](auto& x) {
         return x * values({5}) + values({4, 1}) - values({4, 5});
       }},
      {"a constant in front",
       Promise::kExact,
       {4, 5},
       [](auto& x) {
         return values({5}) - values({4, 1}) / x;
       }},
      {"channels of images",
       Promise::kExact,
       {6, 4, 3},
       [](auto& x) {
         return at::max_pool2d(x, 2) * values({6, 1, 1}) + values({2, 1});
       }},
      {"a gate of images",
       Promise::kBounded,
       {6, 4, 3},
       [](auto& x) {
         return at::max_pool2d(x, 1) * at::sigmoid(at::adaptive_avg_pool2d(x, {1, 1}));
       }},
      {"another layout",
       Promise::kExact,
       {6, 4, 3},
       [](auto& x) {
         return x.flatten(1).view({-1, 6, 4, 3}) + at::max_pool2d(x, 1);
       }},
      {"softmax", Promise::kBounded, {4, 5}, [](auto& x) { return at::softmax(x, -1); }},
      {"means",
       Promise::kBounded,
       {6, 4, 3},
       [](auto& x) {
         return x.mean({2, 3}, true) + x.mean({1}).mean({-1}, true).unsqueeze(1);
       }},
  });
}

TEST(Lowering, Movement) {
  check_all({
      {"flatten and back",
       Promise::kExact,
       {6, 4},
       [](auto& x) {
         return x.flatten(0).unflatten(0, {-1, 4, 6});
       }},
      {"the batch in the middle",
       Promise::kExact,
       {6, 4},
       [](auto& x) {
         return x.transpose(0, 1).reshape({6, -1, 2}).permute({1, 2, 0});
       }},
      {"images in another order",
       Promise::kExact,
       {2, 3, 4},
       [](auto& x) {
         return at::max_pool2d(x, 1).permute({0, 2, 3, 1}).reshape({-1, 12, 2});
       }},
      {"slices",
       Promise::kExact,
       {6, 4},
       [](auto& x) {
         return at::cat({x.slice(1, -2), x.narrow(1, 1, 2), x.select(1, -1).unsqueeze(1)}, 1);
       }},
      {"slices of images",
       Promise::kExact,
       {6, 4, 4},
       [](auto& x) { return at::max_pool2d(x, 1).slice(1, 1, 5).slice(3, 1, 3).contiguous(); }},
      {"chunks",
       Promise::kExact,
       {7, 4},
       [](auto& x) {
         const auto p = x.chunk(3, 1);
         return p[0] - p[1].clone();
       }},
      {"splits",
       Promise::kExact,
       {7, 4},
       [](auto& x) {
         const auto p = x.split_with_sizes({2, 5}, 1);
         return p[1].split(2, 1)[2].squeeze(1);
       }},
      {"unbind",
       Promise::kExact,
       {3, 4},
       [](auto& x) {
         const auto p = x.unbind(1);
         return p[0] * p[2];
       }},
      {"expand",
       Promise::kExact,
       {1, 4},
       [](auto& x) {
         return x.expand({-1, 3, 4}).reshape({-1, 12});
       }},
      {"repeat_interleave", Promise::kExact, {2, 4}, [](auto& x) { return x.repeat_interleave(3, 1); }},
      {"a row for each sample",
       Promise::kExact,
       {3, 4},
       [](auto& x) {
         return at::cat({values({1, 1, 4}).expand({x.size(0), -1, -1}), x}, 1);
       }},
  });
}

TEST(Lowering, ProductsAndAttention) {
  const at::Tensor allowed = at::ones({5, 5}, at::kBool).tril();
  const auto sdpa = [](const at::Tensor& q, const at::Tensor& k, const std::optional<at::Tensor>& mask, bool causal,
                       bool gqa) {
    return at::scaled_dot_product_attention(q, k, k * 0.5, mask, 0, causal, std::nullopt, gqa);
  };
  check_all({
      {"linear of rank 2",
       Promise::kBounded,
       {7},
       [](auto& x) {
         return F::linear(x, values({3, 7}), values({3}));
       }},
      {"linear of rank 3",
       Promise::kBounded,
       {5, 7},
       [](auto& x) {
         return F::linear(x, values({3, 7}), values({3}));
       }},
      {"matmul with a constant",
       Promise::kBounded,
       {5, 7},
       [](auto& x) {
         return x.matmul(values({7, 3}));
       }},
      {"matmul of two", Promise::kBounded, {2, 70, 6}, [](auto& x) { return at::matmul(x, x.transpose(-1, -2)); }},
      {"attention by hand",
       Promise::kBounded,
       {5, 6},
       [&](auto& x) {
         return at::softmax(x.bmm(x.transpose(1, 2)).masked_fill(allowed.logical_not(), -INFINITY), -1).bmm(x);
       }},
      {"sdpa", Promise::kBounded, {2, 5, 6}, [&](auto& x) { return sdpa(x, x, {}, false, false); }},
      {"sdpa, causal, 70 queries", Promise::kBounded, {2, 70, 6}, [&](auto& x) { return sdpa(x, x, {}, true, false); }},
      {"sdpa, boolean mask", Promise::kBounded, {2, 5, 6}, [&](auto& x) { return sdpa(x, x, allowed, false, false); }},
      {"sdpa, a query that sees nothing",
       Promise::kBounded,
       {2, 5, 6},
       [&](auto& x) {
         return sdpa(x, x, at::arange(5).unsqueeze(1).ne(2).expand({5, 5}), false, false);
       }},
      {"sdpa, added mask",
       Promise::kBounded,
       {2, 5, 6},
       [&](auto& x) {
         return sdpa(x, x, values({2, 1, 5}), false, false);
       }},
      {"sdpa, grouped", Promise::kBounded, {4, 5, 6}, [&](auto& x) { return sdpa(x, x.slice(1, 0, 2), {}, true, true); }},
      {"sdpa of rank 3", Promise::kBounded, {5, 6}, [&](auto& x) { return sdpa(x, x, {}, false, false); }},
  });
}

// LibTorch's layer passes undefined tensors for what it does not have.
TEST(Lowering, BatchNormsWithoutWeights) {
  torch::manual_seed(5);
  Net net;
  auto norm = net.register_module("norm", torch::nn::BatchNorm2d(torch::nn::BatchNormOptions(4).affine(false)));
  norm->running_mean.normal_();
  net.body = [=](Net&, const at::Tensor& x) mutable { return norm->forward(x); };
  check(net, torch::randn({3, 4, 2, 5}), Promise::kBounded, "affine false");
}

// A batch norm that changes nothing leaves no node; x * 1 + 0 does change a zero's sign.
TEST(Lowering, BatchNormsWithoutEffectAreLeftOut) {
  const at::Tensor zero = torch::zeros({2}), one = torch::ones({2});
  for (const double shift : {-0.0, 0.0}) {
    Net net;
    const at::Tensor bias = torch::full({2}, shift);
    net.body = [&](Net&, const at::Tensor& x) { return ops::batch_norm(at::relu(x) * x, one, bias, zero, one, 0); };
    check(net, torch::tensor({{-0.0F, 1.0F}, {2.0F, -3.0F}, {0.0F, -0.0F}}), Promise::kExact, "zeros");
    EXPECT_EQ(capture_net(net, torch::randn({3, 2})).value().nodes.size(), std::signbit(shift) ? 2U : 3U);
  }
}

TEST(Lowering, IndicesAreLookedUp) {
  torch::manual_seed(4);
  Net net;
  auto tokens = net.register_module("tokens", nn::BitEmbedding(nn::BitEmbeddingOptions(11, 8)));
  auto positions = net.register_module("positions", torch::nn::Embedding(5, 8));
  net.body = [=](Net&, const at::Tensor& x) mutable {
    return tokens->forward(x) + positions->forward(torch::arange(x.size(1)));
  };
  check(net, torch::randint(11, {3, 5}), Promise::kExact, "ternary table");
  auto plain = net.register_module("plain", torch::nn::Embedding(11, 8));
  net.body = [=](Net&, const at::Tensor& x) mutable { return plain->forward(x) * 2; };
  check(net, torch::randint(11, {3, 5}), Promise::kExact, "float table");
  const auto program = capture_net(net, torch::randint(11, {3, 5})).value();
  const auto session = runtime::Session::create(runtime::Model::create(program).value()).value();
  const at::Tensor beyond = torch::full({1, 5}, 11), wrong = torch::zeros({1, 5});
  const runtime::TensorView views[] = {view_of(beyond), view_of(wrong)};
  EXPECT_EQ(session->run({&views[0], 1}).error().message, "[embedding] indices from 0 to 10, got 11 (node=plain)");
  EXPECT_EQ(session->run({&views[1], 1}).error().code, ErrorCode::kTypeMismatch);
}

// Convolutions of every kind, ternary: the same bits.
TEST(Lowering, TernaryConvolutionsOfEveryKind) {
  torch::manual_seed(5);
  Net net;
  BitQuantConfig quant;
  quant.granularity = ternary::Granularity::kChannel;
  auto conv1 = net.register_module(
      "conv1", nn::BitConv1d(nn::BitConv1dOptions(6, 4, 3).groups(2).dilation(2).padding(1).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) mutable { return conv1->forward(x); };
  check(net, torch::randn({3, 6, 12}), Promise::kExact, "conv1d");
  auto depthwise =
      net.register_module("depthwise", nn::BitConv2d(nn::BitConv2dOptions(6, 6, 3).groups(6).padding(1).quant(quant)));
  auto grouped =
      net.register_module("grouped", nn::BitConv2d(nn::BitConv2dOptions(6, 9, {3, 2}).groups(3).stride(2).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) mutable { return grouped->forward(at::relu(depthwise->forward(x))); };
  check(net, torch::randn({3, 6, 8, 7}), Promise::kExact, "conv2d in groups");
  auto conv3 =
      net.register_module("conv3", nn::BitConv3d(nn::BitConv3dOptions(2, 5, {2, 3, 1}).padding({0, 1, 0}).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) mutable { return conv3->forward(x); };
  check(net, torch::randn({3, 2, 4, 5, 3}), Promise::kExact, "conv3d");
  auto up = net.register_module(
      "up",
      nn::BitConvTranspose2d(nn::BitConvOptions<2>(6, 4, 3).stride(2).padding(1).output_padding(1).groups(2).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) mutable { return up->forward(x); };
  check(net, torch::randn({3, 6, 5, 4}), Promise::kExact, "conv_transpose2d");
}

// What lies beyond an edge, in every mode, of BitLab's layers and of LibTorch's.
TEST(Lowering, PaddingModes) {
  torch::manual_seed(8);
  for (const nn::BitConv2dOptions::padding_mode_t mode :
       {nn::BitConv2dOptions::padding_mode_t(torch::kReflect), {torch::kReplicate}, {torch::kCircular}}) {
    Net net;
    auto conv = net.register_module("conv", nn::BitConv2d(nn::BitConv2dOptions(2, 3, 3).padding({1, 2}).padding_mode(mode)));
    net.body = [=](Net&, const at::Tensor& x) { return conv->forward(x); };
    check(net, torch::randn({3, 2, 5, 4}), Promise::kExact, "padding mode");
  }
  Net net;
  auto same = net.register_module("same", nn::BitConv2d(nn::BitConv2dOptions(2, 3, {4, 3}).padding(torch::kSame)));
  net.body = [=](Net&, const at::Tensor& x) { return same->forward(x); };
  check(net, torch::randn({3, 2, 5, 4}), Promise::kExact, "same");
  for (const char* padding : {"same", "valid"})
    check_all({{padding, Promise::kBounded, {6, 7, 8}, [&](auto& x) {
                  return at::conv2d(x, values({4, 3, 4, 3}), values({4}), 1, padding, {1, 2}, 2);
                }}});
  check_all({
      {"zeros",
       Promise::kExact,
       {2, 4, 3},
       [](auto& x) {
         return at::pad(x, {1, 2, 0, 1});
       }},
      {"constant",
       Promise::kExact,
       {4, 3},
       [](auto& x) {
         return F::pad(x, F::PadFuncOptions({2, 0}));
       }},
      {"reflect",
       Promise::kExact,
       {4, 5},
       [](auto& x) {
         return F::pad(x, F::PadFuncOptions({2, 3}).mode(torch::kReflect));
       }},
      {"replicate",
       Promise::kExact,
       {2, 4, 5},
       [](auto& x) {
         return F::pad(x, F::PadFuncOptions({2, 3, 1, 0}).mode(torch::kReplicate));
       }},
      {"circular",
       Promise::kExact,
       {2, 4, 5},
       [](auto& x) {
         return F::pad(x, F::PadFuncOptions({2, 3, 1, 0}).mode(torch::kCircular));
       }},
  });
}

TEST(Lowering, TernaryNorms) {
  torch::manual_seed(6);
  Net net;
  auto layer = net.register_module("layer", nn::BitLayerNorm(std::vector<int64_t>{7}));
  auto rms = net.register_module("rms", nn::BitRMSNorm(std::vector<int64_t>{7}));
  net.body = [=](Net&, const at::Tensor& x) mutable { return rms->forward(layer->forward(x) + x); };
  check(net, torch::randn({3, 4, 7}), Promise::kBounded, "layer and rms norm");
  auto group = net.register_module("group", nn::BitGroupNorm(2, 6));
  net.body = [=](Net&, const at::Tensor& x) mutable { return group->forward(x); };
  check(net, torch::randn({3, 6, 4, 2}), Promise::kBounded, "group norm");
}

// Modules of LibTorch that are made of many operators; their tokens come first.
TEST(Lowering, TransformersOfLibTorch) {
  torch::manual_seed(7);
  Net net;
  auto attention = net.register_module("attention", torch::nn::MultiheadAttention(8, 2));
  auto encoder = net.register_module(
      "encoder", torch::nn::TransformerEncoderLayer(torch::nn::TransformerEncoderLayerOptions(8, 2).dim_feedforward(16)));
  auto decoder = net.register_module(
      "decoder", torch::nn::TransformerDecoderLayer(torch::nn::TransformerDecoderLayerOptions(8, 2).dim_feedforward(16)));
  net.body = [=](Net&, const at::Tensor& x) mutable {
    const at::Tensor tokens = x.transpose(0, 1);
    const at::Tensor memory = encoder->forward(std::get<0>(attention->forward(tokens, tokens, tokens)));
    return decoder->forward(tokens, memory).transpose(0, 1);
  };
  check(net, torch::randn({3, 5, 8}), Promise::kBounded, "transformer");
}

}  // namespace
}  // namespace bitlab::deploy
