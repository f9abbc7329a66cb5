// Ordinary parts of networks, as people write them: those without a row in lowerings.def give way to the operators that they call.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/test_support.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

namespace F = torch::nn::functional;
using test::capture_net, test::Net, test::run_program;

using Body = std::function<at::Tensor(const at::Tensor&)>;
struct Part {
  const char* what;
  std::vector<int64_t> shape;  // of a sample
  Body body;
  double scale = 1;  // of the inputs
};

// Against LibTorch in double, at two batch sizes.
void check(const Part& part) {
  SCOPED_TRACE(part.what);
  torch::manual_seed(5);
  Net net;
  net.body = [&](Net&, const at::Tensor& x) { return part.body(x); };
  std::vector<int64_t> shape = part.shape;
  shape.insert(shape.begin(), 3);
  const at::Tensor x = torch::randn(shape) * part.scale;
  const auto program = capture_net(net, x);
  ASSERT_TRUE(program.ok()) << program.error().message;
  const at::NoGradGuard no_grad;
  for (const int64_t batch : {int64_t{1}, x.size(0)}) {
    const at::Tensor inputs = x.narrow(0, 0, batch).contiguous(), found = run_program(*program, inputs);
    const at::Tensor in_double = part.body(inputs.to(at::kDouble)), in_float = part.body(inputs);
    ASSERT_EQ(found.scalar_type(), in_float.scalar_type());
    ASSERT_EQ(found.sizes(), in_float.sizes());
    EXPECT_TRUE(torch::allclose(found.to(at::kDouble), in_double.to(at::kDouble), 2e-5, 2e-6))
        << "by " << (found.to(at::kDouble) - in_double.to(at::kDouble)).abs().max().item<double>() << "\n"
        << print(*program);
  }
}

void check_all(const std::vector<Part>& parts) {
  for (const Part& part : parts) check(part);
}

// Always the same random values in a shape, in the dtype of x.
const at::Tensor kValues = torch::randn({4096});
at::Tensor values(at::IntArrayRef shape, const at::Tensor& x) {
  return kValues.narrow(0, 0, c10::multiply_integers(shape)).view(shape).to(x.scalar_type());
}

TEST(Parts, Activations) {
  check_all({
      {"relu6", {37}, [](auto& x) { return F::relu6(x); }, 5},
      {"hardtanh", {37}, [](auto& x) { return torch::hardtanh(x, -0.5, 2); }},
      {"clamp", {37}, [](auto& x) { return x.clamp(-0.3, 0.7) + x.clamp_min(0.1) + x.clamp_max(-0.2); }},
      {"clamp by tensors", {37}, [](auto& x) { return torch::clamp(x, -values({37}, x).abs(), values({37}, x).abs()); }},
      {"hardswish", {37}, [](auto& x) { return torch::hardswish(x); }, 4},
      {"hardsigmoid", {37}, [](auto& x) { return torch::hardsigmoid(x); }, 4},
      {"leaky_relu", {37}, [](auto& x) { return torch::leaky_relu(x, 0.1); }},
      {"elu", {37}, [](auto& x) { return torch::elu(x, 0.7); }},
      {"selu", {37}, [](auto& x) { return torch::selu(x); }},
      {"celu", {37}, [](auto& x) { return torch::celu(x, 0.5); }},
      {"softplus", {37}, [](auto& x) { return torch::softplus(x, 2); }, 6},
      {"mish", {37}, [](auto& x) { return torch::mish(x); }, 3},
      {"logsigmoid", {37}, [](auto& x) { return torch::log_sigmoid(x); }, 10},
      {"softsign", {37}, [](auto& x) { return F::softsign(x); }},
      {"tanhshrink", {37}, [](auto& x) { return F::tanhshrink(x); }},
      {"prelu", {4, 5, 3}, [](auto& x) { return torch::prelu(x, values({4}, x)); }},
      {"threshold", {37}, [](auto& x) { return torch::threshold(x, 0.2, -1); }},
      {"glu", {4, 6}, [](auto& x) { return torch::glu(x, 1); }},
      {"in place",
       {37},
       [](auto& x) {
         auto y = x * 2;
         return F::relu6(y, F::ReLU6FuncOptions(true)).add_(1);
       }},
  });
}

TEST(Parts, Functions) {
  check_all({
      {"exp", {37}, [](auto& x) { return torch::exp(x) + torch::expm1(x); }},
      {"log", {37}, [](auto& x) { return torch::log(x.abs() + 0.1) + torch::log1p(x.abs()); }},
      {"roots", {37}, [](auto& x) { return torch::sqrt(x.abs()) + torch::rsqrt(x * x + 0.5) + torch::pow(x.abs(), 0.5); }},
      {"sin and cos", {37}, [](auto& x) { return torch::sin(x * 30) + torch::cos(x); }},
      {"erf", {37}, [](auto& x) { return torch::erf(x); }},
      {"whole numbers", {37}, [](auto& x) { return torch::floor(x) + torch::ceil(x * 2) - torch::round(x * 3); }},
      {"reciprocal", {37}, [](auto& x) { return torch::reciprocal(x.abs() + 1) - torch::neg(x); }},
      {"floor_divide", {37}, [](auto& x) { return torch::floor_divide(x, 0.3); }},
      {"minimum",
       {4, 5},
       [](auto& x) {
         return torch::minimum(x, values({5}, x)) + torch::maximum(x, values({4, 1}, x));
       }},
      {"a multiple that is added", {4, 5}, [](auto& x) { return torch::add(x, x * 2, 0.5); }},
      {"addcmul",
       {4, 5},
       [](auto& x) {
         return torch::addcmul(values({5}, x), x, values({4, 1}, x), 0.5);
       }},
  });
}

TEST(Parts, Comparisons) {
  check_all({
      {"where", {4, 5}, [](auto& x) { return torch::where(x > 0, x * 2, values({5}, x)); }},
      {"comparisons",
       {4, 5},
       [](auto& x) {
         const auto y = values({5}, x);
         return (x < y).to(x.dtype()) + (x >= 0).to(x.dtype()) * 2 + ((x != y) & ~(x == 0)).to(x.dtype()) * 4 +
                ((x <= 0.5).logical_or(x > 1)).to(x.dtype()) * 8;
       }},
      {"bool", {37}, [](auto& x) { return x > 0.1; }},
      {"masked_fill", {4, 5}, [](auto& x) { return x.masked_fill(x > 0.5, 7); }},
      {"a mask that multiplies", {37}, [](auto& x) { return x * (x > 0); }},
      {"counts", {4, 5}, [](auto& x) { return (x > 0).sum(-1); }},
      {"int32", {9}, [](auto& x) { return ((x > 0).to(torch::kInt) * 3 - 1) * (x < 1).to(torch::kInt); }},
      {"positions of what is there", {9}, [](auto& x) { return torch::cumsum((x > 0).to(torch::kLong), 1) * (x > 0) + 1; }},
  });
}

// Functions that are written with others.
TEST(Parts, Formulas) {
  const auto of = [](auto f) { return [f](const at::Tensor& x) { return f(x); }; };
  check_all({
      {"erfc, exp2, sinh, cosh, tan", {37}, of([](auto& x) {
         return torch::erfc(x) + x.exp2() + x.sinh() * x.cosh() + (x / 3).tan();
       })},
      {"logarithms", {37}, of([](auto& x) { return (x.abs() + 0.1).log2() + (x.abs() + 0.1).log10(); })},
      {"sign, trunc, frac", {37}, of([](auto& x) { return x.sign() + 2 * x.trunc() + x.frac(); }), 3},
      {"remainders", {37}, of([](auto& x) { return x.fmod(0.7) + x.remainder(0.7) + x.remainder(-(x.abs() + 1)); }), 3},
      {"powers of numbers", {37}, of([](auto& x) {
         return x.pow(4) + x.pow(-3) * 1e-3 + x.abs().pow(0.75) + torch::pow(2.5, x);
       })},
      {"a power by tensors", {37}, of([](auto& x) { return (x.abs() + 0.1).pow(values({37}, x)); })},
      {"negative bases", {6}, of([](auto& x) {
         return x.pow(torch::tensor({0., 1., 2., 3., -1., -2.}).to(x.scalar_type()));
       })},
      {"lerp", {37}, of([](auto& x) {
         return torch::lerp(x, 2 * x + 1, 0.3) + torch::lerp(x, values({37}, x), x.sigmoid());
       })},
      {"addcdiv", {37}, of([](auto& x) { return torch::addcdiv(x, x, x.abs() + 1, 0.5); })},
      {"logits", {37}, of([](auto& x) {
         return x.sigmoid().logit() + x.sigmoid().logit(0.2) + torch::logaddexp(x, -2 * x);
       })},
      {"hypot, xlogy", {37}, of([](auto& x) { return torch::hypot(x, x + 1) + torch::xlogy(x, x.abs() + 1); })},
      {"steps", {37}, of([](auto& x) {
         return torch::heaviside(x, torch::full({1}, 0.5, x.options())) + torch::hardshrink(x) + torch::softshrink(x, 0.3);
       })},
      {"what is no number", {37}, of([](auto& x) {
         return torch::nan_to_num(x.log(), 7.0, 1.0, -3.0) + torch::fmax(x.sqrt(), -x) + torch::fmin(x, x.log()) +
                torch::isfinite(x.log());
       })},
      {"moments", {4, 5}, of([](auto& x) {
         const auto [v, m] = torch::var_mean(x, 1);
         const auto [s, n] = torch::std_mean(x, {-1});
         return (v + m).sum(-1) + (s * n).sum(-1);
       })},
      {"norms", {4, 5}, of([](auto& x) {
         return torch::linalg_vector_norm(x, INFINITY, {-1}) + torch::norm(x, 1, {1}).sum(-1, true) + torch::norm(x, 3, {2});
       })},
      {"similarities", {4, 5}, of([](auto& x) {
         return F::cosine_similarity(x, x.flip({1}), F::CosineSimilarityFuncOptions().dim(-1)) +
                torch::cdist(x, x.slice(1, 1)).sum(-1);
       })},
  });
}

TEST(Parts, Indices) {
  check_all({
      {"one_hot", {4, 5}, [](auto& x) { return torch::one_hot(x.argmax(-1), 5) * x; }},
      {"triangles", {5, 5}, [](auto& x) { return 2 * x.tril() + x.triu(1); }},
      {"a diagonal", {4, 5, 3}, [](auto& x) { return x.diagonal(1, 1, 2).sum(-1) + x.diagonal(-1, 2, 1).sum(-1); }},
      {"along a dimension",
       {4, 5},
       [](auto& x) { return x.take_along_dim(x.argsort(1, true), 1) + x.take_along_dim(x.argmax(1, true), 1); }},
      {"padding that cuts",
       {3, 6, 6},
       [](auto& x) {
         return F::pad(x, F::PadFuncOptions({-1, 2, -2, 0}));
       }},
      {"windows", {9, 3}, [](auto& x) { return x.unfold(1, 3, 2).sum(-1); }},
      {"a mask of places",
       {4, 5},
       [](auto& x) {
         return x.index({at::indexing::Slice(), torch::tensor({true, false, true, true})});
       }},
      {"pairs below the diagonal",
       {5, 4},
       [](auto& x) {
         const at::Tensor pairs = at::tril_indices(5, 5, -1);
         return x.bmm(x.transpose(1, 2)).index({at::indexing::Slice(), pairs[0], pairs[1]});
       }},
      {"places that broadcast, some from the end",
       {5, 4, 3},
       [](auto& x) {
         return x.index({at::indexing::Slice(), torch::tensor({{0}, {-1}}), torch::tensor({3, -4, 2})});
       }},
      {"a token of each sample",
       {7, 3},
       [](auto& x) {
         return x.index({torch::arange(x.size(0)), x.sum(-1).argmax(-1)});
       }},
      {"what enters comes out", {4}, [](auto& x) { return torch::dropout(x, 0.5, false); }},
  });
}

// Parts of tensors are written through views and by indices; what shares their memory sees it.
TEST(Parts, Writes) {
  using at::indexing::Slice;
  check_all({
      {"a part",
       {7, 6},
       [](auto& x) {
         auto y = x * 2;
         y.select(1, 0).copy_(x.select(1, 3));
         y.slice(1, 2, 6, 2).mul_(x.slice(1, 0, 2));
         y.narrow(2, 1, 2).zero_();
         return y;
       }},
      {"the first place, counted from the end",
       {6, 5},
       [](auto& x) {
         auto y = x.clone();
         y.select(1, -y.size(1)).zero_();
         return y + x.select(1, x.size(1) / 2).unsqueeze(1);
       }},
      {"a part of what is concatenated and stacked next",
       {6, 5},
       [](auto& x) {
         auto y = x.clone(), z = x * 3;
         y.slice(1, 0, 6, 3).copy_(x.slice(1, 0, 6, 3).sigmoid());
         z.select(1, 2).zero_();
         return torch::stack({torch::cat({x, y}, 1), torch::cat({z, x}, 1)}, 1);
       }},
      {"memory that nothing was written to",
       {4, 6},
       [](auto& x) {
         auto y = torch::empty_like(x);
         y.slice(2, 0, 6, 2).copy_(x.slice(2, 0, 3));
         y.slice(2, 1, 6, 2).copy_(-x.slice(2, 3, 6));
         return y;
       }},
      {"a constant of which a part is written",
       {4, 5},
       [](auto& x) {
         auto y = torch::ones({x.size(0), 4, 5}, x.options());
         y.narrow(1, 0, 2).copy_(x.narrow(1, 0, 2));
         return y.clone() + x;
       }},
      {"views of views",
       {4, 6},
       [](auto& x) {
         auto y = x * 1;
         y.view({-1, 4, 3, 2}).transpose(1, 2).select(1, 1).unbind(2)[1].add_(5);
         return y;
       }},
      {"views from before",
       {4, 6},
       [](auto& x) {
         auto y = x * 1;
         auto all = y.flatten(1), corner = y.narrow(1, 0, 2).narrow(2, 0, 2);
         y.select(2, 1).fill_(3);
         corner.chunk(2, 1)[0].neg_();
         return all + y.flatten(1) * corner.sum({1, 2}).unsqueeze(1);
       }},
      {"by a mask",
       {4, 5},
       [](auto& x) {
         auto y = x * 1;
         y.index_put_({x > 0.5}, 2);
         y.index_put_({x.sum(-1) > 0}, values({5}, x));
         return y;
       }},
      {"at indices",
       {6, 5},
       [](auto& x) {
         auto y = x * 1;
         y.index_put_({Slice(), torch::tensor({4, -6})}, x.narrow(1, 1, 2));
         y.index_put_(c10::List<std::optional<at::Tensor>>({std::nullopt, torch::tensor({1, 1})}), x.narrow(1, 2, 2), true);
         y.index_put_({torch::arange(x.size(0)), x.sum(-1).argmax(-1)}, x.select(1, 2));
         return y;
       }},
      {"scatter",
       {6, 5},
       [](auto& x) {
         const auto best = std::get<1>(x.topk(2, -1));
         return torch::zeros_like(x).scatter(-1, best, 1) +
                x.scatter(1, x.argsort(1, false).narrow(1, 0, 3).narrow(2, 0, 4), x * 2);
       }},
      {"sums by index",
       {6, 5},
       [](auto& x) {
         const auto group = (x > 0).to(torch::kLong);
         return torch::zeros_like(x).scatter_add(1, group, x) + x.scatter_reduce(1, group, x * 2, "amax") +
                x.scatter_reduce(1, group, x * 2, "mean", false) + x.scatter_reduce(1, group, x, "prod", false) +
                x.index_add(1, torch::tensor({0, 2, 0}), x.narrow(1, 0, 3), 0.5);
       }},
      {"copies by index",
       {6, 5},
       [](auto& x) {
         return x.index_copy(1, torch::tensor({5, 0}), x.narrow(1, 1, 2)) + x.index_fill(2, torch::tensor({1, 3}), 3) +
                x.slice_scatter(x.narrow(1, 0, 2), 1, 2, 6, 2) + x.select_scatter(x.select(1, 1), 1, -1);
       }},
  });
}

// Of integers, rounded down and towards zero, with negative divisors; bit by bit.
TEST(Parts, Integers) {
  const auto whole = [](const at::Tensor& x) { return (x * 10).to(torch::kLong); };
  check_all({
      {"quotients",
       {37},
       [&](auto& x) {
         return torch::floor_divide(whole(x), 3) + 100 * torch::floor_divide(whole(x).to(torch::kInt), -4) +
                10000 * torch::div(whole(x), -3, "trunc");
       }},
      {"remainders",
       {37},
       [&](auto& x) { return whole(x).remainder(3) + 10 * whole(x).remainder(-4) + 100 * whole(x).fmod(-3); }},
      {"bits",
       {37},
       [&](auto& x) { return (whole(x) & 3) + 10 * (whole(x) | 5) + 100 * (whole(x).to(torch::kInt) ^ 6) + ~whole(x); }},
      {"shifts",
       {37},
       [&](auto& x) {
         return torch::bitwise_right_shift(whole(x), 1) + torch::bitwise_left_shift(whole(x), 2) +
                torch::bitwise_right_shift(whole(x).to(torch::kInt), 40);
       }},
      {"true division", {37}, [&](auto& x) { return (whole(x) / 3).to(x.dtype()); }},
  });
}

TEST(Parts, Angles) {
  const auto of = [](auto f) { return [f](const at::Tensor& x) { return f(x); }; };
  check_all({
      {"atan, atan2", {37}, of([](auto& x) { return torch::atan(3 * x) + torch::atan2(x, x.flip({1})); })},
      {"asin, acos", {37}, of([](auto& x) { return torch::asin(x.tanh()) - 2 * torch::acos(x.tanh()); })},
      {"hyperbolic ones", {37}, of([](auto& x) {
         return torch::asinh(x * 5) + torch::acosh(x.abs() + 1) + torch::atanh(x.tanh());
       })},
      {"erfinv", {37}, of([](auto& x) { return torch::erfinv(x.tanh()); })},
  });
}

// A factor may be a constant in any orientation, of any rank.
TEST(Parts, ProductsWithConstants) {
  check_all({
      {"addmm",
       {5},
       [](auto& x) {
         return torch::addmm(values({3}, x), x, values({5, 3}, x));
       }},
      {"addmm with factors",
       {5},
       [](auto& x) {
         return torch::addmm(values({3}, x), x, values({5, 3}, x), 0.5, 2);
       }},
      {"a constant in front",
       {7, 6},
       [](auto& x) {
         return torch::matmul(values({5, 7}, x), x);
       }},
      {"a vector", {7, 6}, [](auto& x) { return torch::matmul(x, values({6}, x)); }},
      {"a matrix for each head",
       {2, 7, 6},
       [](auto& x) {
         return torch::matmul(x, values({2, 6, 3}, x));
       }},
      {"in front of each head",
       {2, 7, 6},
       [](auto& x) {
         return torch::matmul(values({2, 4, 7}, x), x);
       }},
      {"bilinear",
       {5},
       [](auto& x) {
         return torch::bilinear(x, 2 * x, values({3, 5, 5}, x), values({3}, x));
       }},
  });
}

// Complex values are pairs; transforms are products.
TEST(Parts, Spectra) {
  check_all({
      {"rotations by complex numbers",
       {7, 2, 8},
       [](auto& x) {
         const auto angles = values({7, 1, 4}, x);
         const auto turned =
             torch::view_as_complex(x.reshape({-1, 7, 2, 4, 2})) * torch::polar(torch::ones_like(angles), angles);
         return torch::view_as_real(turned).flatten(3);
       }},
      {"rfft", {5, 12}, [](auto& x) { return torch::fft_rfft(x).abs() + torch::view_as_real(torch::fft_rfft(x)).sum(-1); }},
      {"stft",
       {64},
       [](auto& x) { return torch::stft(x, 16, 4, 16, torch::hann_window(16, x.options()), false, true, true).abs(); }},
  });
}

// Halves are float32 rounded behind each operator, as LibTorch's CPU kernels do: the same bits where an operator rounds once.
TEST(Parts, HalvesAreRoundedByEachOperator) {
  for (const auto type : {torch::kHalf, torch::kBFloat16}) {
    Net net;
    net.body = [type](Net&, const at::Tensor& x) {
      const auto y = (x.to(type) * 3 + x.to(type)).view({-1, 5, 4}).transpose(1, 2);
      return (y * y).to(torch::kFloat);
    };
    const at::Tensor x = torch::randn({3, 4, 5});
    const auto program = capture_net(net, x);
    ASSERT_TRUE(program.ok()) << program.error().message;
    EXPECT_TRUE(test::same_bits(run_program(*program, x), net.body(net, x)));
  }
}

TEST(Parts, Orders) {
  check_all({
      {"sort", {4, 5}, [](auto& x) { return std::get<0>(x.sort(1)) + std::get<1>(x.sort(-1, true)); }},
      {"argsort", {17}, [](auto& x) { return x.argsort(-1, true).argsort(); }},
      {"sorted integers", {17}, [](auto& x) { return std::get<0>((x * 100).to(torch::kLong).sort(1)); }},
      {"the best of a router",
       {6, 8},
       [](auto& x) {
         const auto [weights, experts] = torch::softmax(x, -1).topk(2, -1);
         return weights / weights.sum(-1, true) + experts;
       }},
      {"the least of another dimension", {7, 3}, [](auto& x) { return std::get<0>(x.topk(4, 1, false)); }},
      {"median", {4, 5}, [](auto& x) { return std::get<0>(x.median(1)) + std::get<1>(x.median(1, false)); }},
      {"kthvalue", {4, 5}, [](auto& x) { return std::get<0>(x.kthvalue(2, -1)); }},
      {"quantile", {4, 5}, [](auto& x) { return x.quantile(0.3, -1) + x.quantile(0.5, 1).sum(-1, true); }},
      {"buckets",
       {4, 5},
       [](auto& x) {
         const auto limits = torch::tensor({-1., 0., 1.}, x.options());
         return torch::bucketize(x, limits) + 10 * torch::searchsorted(limits, x, false, true);
       }},
      {"values above the k-th are kept",
       {40},
       [](auto& x) { return x.masked_fill(x < std::get<0>(x.topk(5, -1)).slice(-1, -1), -1e9); }},
  });
}

TEST(Parts, Reductions) {
  check_all({
      {"sum",
       {4, 5, 3},
       [](auto& x) {
         return x.sum({1}) + x.sum({2, 3}).unsqueeze(1).sum(1).sum(1, true).unsqueeze(1) * 0 + 1;
       }},
      {"sums",
       {4, 5},
       [](auto& x) {
         return x.sum({1, 2}, true) + x.sum(1, true);
       }},
      {"extremes",
       {4, 5},
       [](auto& x) {
         return x.amax(1, true) - x.amin({1, 2}, true) + std::get<0>(x.max(1, true));
       }},
      {"any and all", {4, 5}, [](auto& x) { return (x > 1).any(1).logical_xor((x < 1).all(1, false)); }},
      {"argmax", {4, 5}, [](auto& x) { return x.argmax(1); }},
      {"std",
       {4, 5},
       [](auto& x) {
         return x.std(1, true, true) + x.var({1, 2}, false, true);
       }},
      {"argmin", {4, 5}, [](auto& x) { return x.argmin(1); }},
      {"extremes and their places",
       {4, 5},
       [](auto& x) {
         const auto [most, where] = x.max(1);
         const auto [least, place] = x.min(-1, true);
         return most + where + least.squeeze(-1).sum(-1, true) + place.sum({1, 2}).unsqueeze(-1);
       }},
      {"products", {4, 5}, [](auto& x) { return x.prod(1) + (x > 0).to(torch::kLong).add(1).prod(1); }},
      {"logsumexp",
       {4, 5},
       [](auto& x) {
         return torch::logsumexp(x, -1) + torch::logsumexp(x, {1, 2}, true).squeeze(-1);
       }},
      {"scans",
       {4, 5},
       [](auto& x) {
         return x.cumprod(1) + std::get<0>(x.cummax(1)) + std::get<1>(x.cummax(-1)) - std::get<0>(x.cummin(2));
       }},
      {"cross", {5, 3}, [](auto& x) { return torch::linalg_cross(x, x.roll(1, 1)); }},
      {"cumsum", {4, 5}, [](auto& x) { return x.cumsum(1) + x.cumsum(-1); }},
      {"normalize", {4, 5}, [](auto& x) { return F::normalize(x, F::NormalizeFuncOptions().dim(2)); }},
      {"log_softmax", {4, 5}, [](auto& x) { return torch::log_softmax(x, -1) + torch::log_softmax(x, 1); }},
      {"softmax in front", {4, 5}, [](auto& x) { return torch::softmax(x, 1); }},
      {"a standardized weight",
       {6},
       [](auto& x) {
         const auto w = values({5, 6}, x);
         return F::linear(x, (w - w.mean(1, true)) / w.std(1, true, true));
       }},
  });
}

TEST(Parts, Movement) {
  check_all({
      {"stack",
       {4, 5},
       [](auto& x) {
         return torch::stack({x, x * 2}, 1) + torch::stack({x, x}, -1).transpose(1, 3).transpose(2, 3);
       }},
      {"roll",
       {4, 5},
       [](auto& x) {
         return torch::roll(x, {1, -2}, {1, 2});
       }},
      {"flip",
       {4, 5},
       [](auto& x) {
         return torch::flip(x, {1, -1});
       }},
      {"einsum",
       {4, 5},
       [](auto& x) {
         return torch::einsum("bij,kj->bki", {x, values({3, 5}, x)});
       }},
      {"einsum of two",
       {4, 5},
       [](auto& x) {
         return torch::einsum("bij,bkj->bik", {x, x});
       }},
      {"attention of windows", {3, 2, 4, 5}, [](auto& x) { return torch::scaled_dot_product_attention(x, x * 2, x + 1); }},
      {"baddbmm",
       {4, 5},
       [](auto& x) {
         return torch::baddbmm(values({4, 4}, x), x, x.transpose(1, 2), 1, 0.5);
       }},
      {"pad with a number",
       {3, 4},
       [](auto& x) {
         return torch::constant_pad_nd(x, {2, 1, 0, 1}, -1.5);
       }},
      {"unfold",
       {2, 6, 7},
       [](auto& x) {
         return torch::im2col(x, {3, 2}, {1, 2}, {1, 0}, {2, 1});
       }},
      {"fold",
       {2, 6, 7},
       [](auto& x) {
         return torch::col2im(torch::im2col(x, {3, 2}, {1, 2}, {1, 0}, {2, 1}), {6, 7}, {3, 2}, {1, 2}, {1, 0}, {2, 1});
       }},
      {"pixel_shuffle", {12, 3, 2}, [](auto& x) { return torch::pixel_unshuffle(torch::pixel_shuffle(x, 2) + 1, 2); }},
      {"channel_shuffle", {6, 3, 2}, [](auto& x) { return torch::channel_shuffle(x, 3); }},
      {"steps", {9, 8}, [](auto& x) { return x.slice(1, 0, 9, 2).slice(2, 1, 8, 3); }},
      {"patch merging",
       {6, 8, 3},
       [](auto& x) {
         return torch::cat({x.slice(1, 0, 6, 2).slice(2, 0, 8, 2), x.slice(1, 1, 6, 2).slice(2, 1, 8, 2)}, -1);
       }},
      {"windows",
       {4, 6, 5},
       [](auto& x) {
         return x.view({-1, 2, 2, 3, 2, 5}).permute({0, 1, 3, 2, 4, 5}).reshape({-1, 4, 5});
       }},
      {"repeat",
       {4, 5},
       [](auto& x) {
         return x.repeat({1, 2, 3}) + torch::tile(x, {2, 3});
       }},
      {"index_select",
       {6, 5},
       [](auto& x) {
         return x.index_select(1, torch::tensor({4, 0, 4}));
       }},
      {"index",
       {6, 5},
       [](auto& x) {
         return x.index({torch::indexing::Slice(), torch::tensor({{1, 5}, {0, -1}})});
       }},
      {"gather", {6, 5}, [](auto& x) { return x.gather(1, (x.narrow(1, 0, 3) > 0).to(torch::kLong) * 2 + 1); }},
      {"movedim", {4, 5, 3}, [](auto& x) { return torch::movedim(x, 1, -1).swapaxes(1, 2); }},
      {"written in place",
       {4, 5},
       [](auto& x) {
         auto y = torch::empty_like(x);
         y.copy_(x * 2);
         return y + x;
       }},
  });
}

TEST(Parts, Images) {
  const auto interpolate = [](torch::nn::functional::InterpolateFuncOptions options) {
    return [options](const at::Tensor& x) { return F::interpolate(x, options); };
  };
  using Options = F::InterpolateFuncOptions;
  const std::vector<double> twice{2, 2};
  check_all({
      {"ceil_mode", {3, 7, 8}, [](auto& x) { return torch::max_pool2d(x, 3, 2, 1, 1, true); }},
      {"avg_pool without padding", {3, 7, 8}, [](auto& x) { return torch::avg_pool2d(x, 3, 2, 1, true, false); }},
      {"avg_pool in ceil_mode", {3, 7, 8}, [](auto& x) { return torch::avg_pool2d(x, 3, 2, 1, true, true); }},
      {"avg_pool by a divisor", {3, 7, 8}, [](auto& x) { return torch::avg_pool2d(x, 3, 2, 0, false, true, 5); }},
      {"adaptive_avg_pool to any grid",
       {3, 7, 8},
       [](auto& x) {
         return torch::adaptive_avg_pool2d(x, {3, 5});
       }},
      {"adaptive_max_pool",
       {3, 7, 8},
       [](auto& x) {
         return std::get<0>(torch::adaptive_max_pool2d(x, {3, 5}));
       }},
      {"nearest", {3, 4, 5}, interpolate(Options().scale_factor(twice).mode(torch::kNearest))},
      {"bilinear", {3, 4, 5}, interpolate(Options().scale_factor(twice).mode(torch::kBilinear).align_corners(false))},
      {"bilinear to a size",
       {3, 4, 5},
       interpolate(Options().size(std::vector<int64_t>{7, 9}).mode(torch::kBilinear).align_corners(true))},
      {"bicubic",
       {3, 4, 5},
       interpolate(Options().size(std::vector<int64_t>{7, 3}).mode(torch::kBicubic).align_corners(false))},
      {"linear", {3, 5}, interpolate(Options().size(std::vector<int64_t>{8}).mode(torch::kLinear).align_corners(false))},
      {"nearest-exact", {3, 4, 5}, interpolate(Options().size(std::vector<int64_t>{7, 3}).mode(torch::kNearestExact))},
      {"antialiased",
       {3, 9, 8},
       [](auto& x) {
         return at::_upsample_bilinear2d_aa(x, {4, 11}, false) + at::_upsample_bicubic2d_aa(x, {4, 11}, false);
       }},
      {"a grid of each sample",
       {3, 5, 6},
       [](auto& x) {
         const auto grid = x.narrow(1, 0, 2).permute({0, 2, 3, 1}).contiguous();
         const auto sampled = [&](auto padding, bool align) {
           return F::grid_sample(
               x, grid, F::GridSampleFuncOptions().mode(torch::kBilinear).padding_mode(padding).align_corners(align));
         };
         return sampled(torch::kZeros, false) + sampled(torch::kBorder, true) + sampled(torch::kReflection, false);
       }},
      {"instance_norm",
       {4, 5, 3},
       [](auto& x) { return torch::instance_norm(x, values({4}, x), values({4}, x), {}, {}, true, 0.1, 1e-5, false); }},
  });
}

// A recurrent layer is the operators of its steps.
TEST(Parts, Recurrent) {
  torch::manual_seed(1);
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(5, 6).num_layers(2).bidirectional(true).batch_first(true));
  torch::nn::GRU gru(torch::nn::GRUOptions(5, 6).batch_first(true));
  const auto in_type = [](auto& module, const at::Tensor& x) {
    module->to(x.scalar_type());
    const auto y = std::get<0>(module->forward(x));
    module->to(at::kFloat);
    return y;
  };
  check_all({
      {"lstm",
       {4, 5},
       [&](auto& x) { return x.scalar_type() == at::kFloat ? std::get<0>(lstm->forward(x)) : in_type(lstm, x); }},
      {"gru",
       {4, 5},
       [&](auto& x) { return x.scalar_type() == at::kFloat ? std::get<0>(gru->forward(x)) : in_type(gru, x); }},
  });
}

// Modules may compute something once, in their first pass in eval.
TEST(Parts, CachesAreFilledOnce) {
  Net net;
  const auto table = torch::randn({4, 5});
  at::Tensor cache;
  net.body = [&](Net&, const at::Tensor& x) {
    if (!cache.defined()) cache = table.index_select(0, torch::tensor({3, 1, 0, 2}));
    return x + cache;
  };
  const at::Tensor x = torch::randn({3, 4, 5});
  const auto program = capture_net(net, x);
  ASSERT_TRUE(program.ok()) << program.error().message;
  EXPECT_TRUE(test::same_bits(run_program(*program, x), x + cache));
}

// What programs cannot say is refused, in the name of the operator that is missing and the one that calls it.
TEST(Parts, AreRefusedByName) {
  const auto error_of = [](const Body& body) {
    Net net;
    net.body = [&](Net&, const at::Tensor& x) { return body(x); };
    const auto program = capture_net(net, torch::randn({3, 4, 5}));
    return program.ok() ? std::string("captured") : program.error().message;
  };
  EXPECT_NE(error_of([](auto& x) { return torch::nextafter(x, x * 2); }).find("operator=aten::nextafter"),
            std::string::npos);
  // A part by strides is written: nothing puts it back into the tensor.
  EXPECT_NE(error_of([](auto& x) {
              auto y = x * 2;
              y.as_strided({y.size(0), 4}, {20, 5}).add_(1);
              return y;
            }).find("a view whose memory can be written"),
            std::string::npos);
  EXPECT_NE(error_of([](auto& x) { return x.to(torch::kDouble).sum(-1).to(torch::kFloat); }).find("got Double"),
            std::string::npos);
}

}  // namespace
}  // namespace bitlab::deploy
