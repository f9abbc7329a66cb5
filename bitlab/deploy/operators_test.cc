// Operators in the forms that libraries write them in, and what capture may take for a constant.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/test_support.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

namespace F = torch::nn::functional;
using test::capture_net, test::Net, test::run_program;
using Body = std::function<at::Tensor(const at::Tensor&)>;

struct Operator {
  const char* what;
  std::vector<int64_t> shape;
  Body body;
  bool has_batch = true;
};

Result<program::Program> captured(Net& net, const Operator& op) {
  net.body = [&](Net&, const at::Tensor& x) { return op.body(x); };
  CaptureOptions options;
  if (!op.has_batch) {
    const program::Shape shape(op.shape.begin(), op.shape.end());
    options.signature = Signature{{}, {{"input", {program::DType::kFloat32, shape}}}, {}};
  }
  return capture(net, torch::randn(op.shape), options);
}

// Against LibTorch in double; on other values than those that were captured, and another batch where there is one.
void check(const Operator& op) {
  SCOPED_TRACE(op.what);
  torch::manual_seed(7);
  Net net;
  const auto program = captured(net, op);
  ASSERT_TRUE(program.ok()) << program.error().message;
  const at::NoGradGuard no_grad;
  std::vector<int64_t> shape = op.shape;
  if (op.has_batch) shape[0] += 2;
  const at::Tensor x = torch::randn(shape), found = run_program(*program, x), wanted = op.body(x.to(at::kDouble));
  ASSERT_EQ(found.sizes(), wanted.sizes());
  EXPECT_TRUE(torch::allclose(found.to(at::kDouble), wanted.to(at::kDouble), 2e-5, 5e-6))
      << "by " << (found.to(at::kDouble) - wanted.to(at::kDouble)).abs().max().item<double>() << "\n"
      << print(*program);
}

std::string error_of(const Body& body) {
  Net net;
  const auto program = captured(net, {"", {3, 4, 4}, body, false});
  return program.ok() ? "captured" : program.error().message;
}

at::Tensor long_tensor(std::vector<int64_t> values) { return torch::tensor(values); }

// As transformers make masks: [batch, keys] at the places of a grid.
TEST(Operators, IndicesOfSeveralDimensions) {
  const auto places = [](const at::Tensor& x) { return (x * 2).abs().floor().to(at::kLong).clamp_max(3); };
  const Operator cases[] = {
      {"a grid of all samples and keys",
       {3, 5},
       [](auto& x) {
         const at::Tensor samples = torch::arange(x.size(0)).view({-1, 1, 1, 1}), keys = torch::arange(5).view({1, 1, 1, 5});
         return x.index({samples, keys}) * 2;
       }},
      {"keys in front of samples",
       {3, 5},
       [](auto& x) {
         return x.index({torch::arange(x.size(0)).view({1, -1}), torch::arange(5).view({5, 1})}).transpose(0, 1) + 1;
       }},
      {"places of each sample",
       {3, 4, 6},
       [=](auto& x) {
         return x.index({torch::arange(x.size(0)).unsqueeze(1), places(x.select(1, 0).slice(1, 0, 2))});
       }},
      {"one place of each sample",
       {3, 4, 6},
       [=](auto& x) {
         return x.index({torch::arange(x.size(0)), places(x.select(1, 0).select(1, 0))});
       }},
      {"computed and constant places",
       {3, 4, 6},
       [=](auto& x) {
         return x.index({at::indexing::Slice(), places(x[0].select(1, 0).slice(0, 0, 3)), long_tensor({5, -1, 0})});
       },
       false},
      {"a whole dimension and places in another",
       {3, 4, 6},
       [](auto& x) {
         return x.index({at::indexing::Slice(), torch::arange(4).view({4, 1}), long_tensor({2, -1, 0}).view({1, 3})});
       }},
      {"with a dimension between",
       {3, 4, 5, 6},
       [](auto& x) {
         return x.index({at::indexing::Slice(), long_tensor({1, 3}), at::indexing::Slice(), long_tensor({0, -2})})
             .permute({1, 0, 2});
       }},
      {"a diagonal",
       {3, 5, 5},
       [](auto& x) {
         return x.index({at::indexing::Slice(), torch::arange(5), torch::arange(5)});
       }},
  };
  for (const Operator& op : cases) check(op);
}

TEST(Operators, ComputedParameters) {
  const Operator cases[] = {
      {"bias of a convolution",
       {3, 4, 6, 5},
       [](auto& x) {
         return at::conv2d(x, torch::ones({4, 4, 3, 3}, x.options()), x.mean({0, 2, 3}));
       },
       false},
      {"weight and bias of a layer", {6, 6}, [](auto& x) { return at::linear(x, x.tanh(), x.select(0, 0)); }, false},
      {"a layer of a vector",
       {6},
       [](auto& x) {
         return at::linear(x, torch::ones({2, 6}, x.options()), x.slice(0, 0, 2));
       },
       false},
      {"weight of a convolution",
       {3, 4, 6},
       [](auto& x) {
         return at::conv1d(x, x.slice(2, 0, 3) * 2, x.mean({1, 2}), 2, 1);
       },
       false},
      {"a layer norm", {3, 5, 6}, [](auto& x) { return at::layer_norm(x, {6}, x[0][0], x[0][1]); }, false},
      {"a group norm", {3, 4, 6}, [](auto& x) { return at::group_norm(x, 2, x[0].select(1, 0), x[0].select(1, 1)); }, false},
      {"a table",
       {6, 3},
       [](auto& x) {
         return at::embedding(x, long_tensor({5, 0, 2})) * 2;
       },
       false},
  };
  for (const Operator& op : cases) check(op);
  const Body norm = [](auto& x) {
    // A plain {0, 2} may be two names at a null pointer, too, which LibTorch 2.11 has an overload for.
    const at::Tensor of_channels = x.mean(at::IntArrayRef{0, 2});
    return at::batch_norm(x, of_channels, of_channels, torch::zeros(4), torch::ones(4), false, 0.1, 1e-5, false);
  };
  EXPECT_NE(error_of(norm).find("a constant as 'weight', got an activation"), std::string::npos) << error_of(norm);
}

TEST(Operators, WithoutABatch) {
  const Operator cases[] = {
      {"conv2d",
       {4, 6, 5},
       [](auto& x) {
         return at::conv2d(x, torch::ones({2, 4, 3, 3}, x.options()));
       },
       false},
      {"conv_transpose1d",
       {4, 5},
       [](auto& x) {
         return at::conv_transpose1d(x, torch::ones({4, 2, 3}, x.options()));
       },
       false},
      {"max_pool2d", {4, 6, 5}, [](auto& x) { return at::max_pool2d(x, 2); }, false},
      {"adaptive_avg_pool2d",
       {4, 6, 5},
       [](auto& x) {
         return at::adaptive_avg_pool2d(x, {3, 2});
       },
       false},
      {"sort", {7}, [](auto& x) { return std::get<0>(x.sort()); }, false},
      {"cumsum", {7}, [](auto& x) { return x.cumsum(0); }, false},
      {"log_softmax", {7}, [](auto& x) { return x.log_softmax(0); }, false},
      {"logcumsumexp", {7}, [](auto& x) { return x.logcumsumexp(0); }, false},
      {"dot", {7}, [](auto& x) { return x.dot(x + 1); }, false},
      {"numbers", {7}, [](auto& x) { return x.sum() / (x.abs().max() + 1) - 2; }, false},
      {"trace", {5, 4}, [](auto& x) { return x.trace(); }, false},
      {"t of a vector", {5}, [](auto& x) { return x.t() * 2; }, false},
      {"take",
       {5, 4},
       [](auto& x) {
         return x.take(long_tensor({19, 0, 7}));
       },
       false},
      {"median", {3, 3}, [](auto& x) { return x.median(); }, false},
  };
  for (const Operator& op : cases) check(op);
}

TEST(Operators, ScalesOfImagesThatRound) {
  using Mode = F::InterpolateFuncOptions;
  const auto scaled = [](double by, const auto& mode) {
    return [=](const at::Tensor& x) {
      return F::interpolate(x, Mode().scale_factor(std::vector<double>{by, by}).mode(mode));
    };
  };
  for (const double by : {1.7, 0.6}) {
    check({"nearest", {3, 2, 7, 5}, scaled(by, torch::kNearest)});
    check({"bilinear", {3, 2, 7, 5}, [=](const at::Tensor& x) {
             return F::interpolate(
                 x, Mode().scale_factor(std::vector<double>{by, by}).mode(torch::kBilinear).align_corners(false));
           }});
    check({"bicubic", {3, 2, 7, 5}, [=](const at::Tensor& x) {
             return F::interpolate(
                 x, Mode().scale_factor(std::vector<double>{by, by}).mode(torch::kBicubic).align_corners(false));
           }});
  }
}

// As FNet and networks with global filters use them.
TEST(Operators, TransformsOfFourier) {
  const Operator cases[] = {
      {"fft2", {3, 5, 6}, [](auto& x) { return at::real(torch::fft::fft2(x)); }},
      {"ifft", {3, 5, 6}, [](auto& x) { return at::imag(torch::fft::ifft(torch::fft::fft(x, {}, 1) * 2, {}, 1)); }},
      {"rfft2 and back",
       {3, 5, 6},
       [](auto& x) {
         const at::Tensor filter = torch::view_as_complex(torch::linspace(-1, 1, 40, x.options()).view({5, 4, 2}));
         return torch::fft::irfft2(torch::fft::rfft2(x, std::nullopt, {1, 2}, "ortho") * filter, at::IntArrayRef{5, 6},
                                   {1, 2}, "ortho");
       }},
      {"irfft of an odd size", {3, 4}, [](auto& x) { return torch::fft::irfft(torch::fft::rfft(x, 7), 7); }},
      {"hfft", {3, 4}, [](auto& x) { return torch::fft::hfft(x); }},
      {"polar and conj", {3, 4}, [](auto& x) { return at::imag(at::polar(x.abs(), x).conj() + x); }},
      {"complex", {3, 4}, [](auto& x) { return at::real(at::complex(x, x + 1) * at::complex(x - 1, x) / x.abs().add(1)); }},
  };
  for (const Operator& op : cases) check(op);
}

TEST(Operators, Formulas) {
  const Operator cases[] = {
      {"softplus with a threshold",
       {3, 40},
       [](auto& x) { return F::softplus(x * 3, F::SoftplusFuncOptions().beta(2).threshold(0.5)); }},
      {"logaddexp2", {3, 9}, [](auto& x) { return at::logaddexp2(x * 30, x + 1); }},
      {"sinc", {3, 9}, [](auto& x) { return at::sinc(x.where(x > 0, torch::zeros({}, x.options()))); }},
      {"entr", {3, 9}, [](auto& x) { return at::special_entr(x.abs()); }},
      {"xlog1py", {3, 9}, [](auto& x) { return at::special_xlog1py(x, x.abs()); }},
      {"copysign", {3, 9}, [](auto& x) { return at::copysign(x, -x * 0); }},
      {"round to decimals", {3, 9}, [](auto& x) { return at::round(x.abs() * 7, 1).sub(0.01) + at::round(x * 1000, -2); }},
      {"isin",
       {3, 9},
       [](auto& x) {
         return at::isin(x.floor(), torch::tensor({-1.0, 2.0}, x.options()), false, true).to(x.scalar_type());
       }},
      {"count_nonzero", {3, 9}, [](auto& x) { return at::count_nonzero(at::relu(x), at::IntArrayRef{1}); }},
      {"nansum", {3, 9}, [](auto& x) { return at::nansum((x - 0.5).sqrt(), {1}); }},
      {"norms of other orders",
       {3, 9},
       [](auto& x) {
         return x.norm(0, {1}) + at::linalg_vector_norm(x, -INFINITY, {1}) + at::linalg_vector_norm(x, -1, {1});
       }},
      {"cdist of order 1", {3, 4, 5}, [](auto& x) { return at::cdist(x, x * 2, 1); }},
      {"diag_embed", {3, 2, 4}, [](auto& x) { return at::diag_embed(x, -1, 1, 3); }},
      {"vstack of what it is given",
       {3, 4},
       [](auto& x) {
         return at::hstack({x, x * 2});
       }},
      {"an empty part",
       {3, 6},
       [](auto& x) {
         return at::cat({x.slice(1, 0, 6) * 2, x.slice(1, 6)}, 1) + 1;
       }},
      {"parts of several types",
       {3, 6},
       [](auto& x) {
         return at::cat({x, (x * 2).to(at::kLong), torch::ones({x.size(0), 2}, at::kBool)}, 1);
       }},
      {"slopes of heads",
       {3, 4, 5},
       [](auto& x) {
         const at::Tensor slopes =
             torch::tensor({1.0, 2.0, 3.0, 4.0}, x.options()).view({1, 4, 1}).expand({x.size(0), 4, 1});
         return x.reshape({-1, 1, 5}) + slopes.reshape({-1, 1, 1});
       }},
  };
  for (const Operator& op : cases) check(op);
}

struct Doubled : torch::autograd::Function<Doubled> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x.tanh() * 2; }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list g) {
    return g;
  }
};

TEST(Operators, FunctionsWithGradientsOfTheirOwn) {
  check({"a function of autograd", {3, 5}, [](auto& x) { return Doubled::apply(x) + 1; }});
}

// A constant output is one; what only looks like a constant is refused.
TEST(Operators, WhatIsConstant) {
  check({"zeros beside", {3, 4}, [](auto& x) { return torch::zeros_like(x); }});
  EXPECT_NE(error_of([](auto& x) {
              return x + torch::full({1}, *x.template const_data_ptr<float>());
            }).find("neither sizes nor values of inputs"),
            std::string::npos);
  EXPECT_NE(error_of([](auto& x) { return std::get<0>(at::linalg_qr(x)); }).find("operator=aten::linalg_qr"),
            std::string::npos);
  EXPECT_NE(error_of([](auto& x) { return x.renorm(2, 1, 0.5); }).find("operator=aten::renorm"), std::string::npos);
  EXPECT_NE(error_of([](auto& x) { return at::linalg_matrix_exp(x); }).find("got aten::linalg_matrix_exp"),
            std::string::npos);
}

}  // namespace
}  // namespace bitlab::deploy
