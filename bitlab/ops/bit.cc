// bit_linear and bit_conv2d: the operators of training.
#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"

namespace bitlab::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// What an evaluation leaves for its gradient: integers, a quarter of the memory of the float tensors they stand for.
struct Quantized {
  QuantizedActivation x;
  QuantizedWeight weight;

  at::Tensor x_value() const { return x.q.to(at::kFloat).mul_(x.a); }
  // The scale shaped to multiply the first dimension of a tensor of `rank` dimensions.
  at::Tensor weight_value() const {
    std::vector<int64_t> shape(static_cast<size_t>(weight.t.dim()), 1);
    shape[0] = weight.scale.size(0);
    return weight.t.to(at::kFloat).mul_(weight.scale.view(shape));
  }
};

// Products of integers are exact in float32 below 2^24, in float64 far beyond kMaxDepth.
at::ScalarType exact_type(const at::Tensor& weight) {
  return weight.sym_numel() / weight.sym_size(0) * ternary::kActMax < (1 << 24) ? at::kFloat : at::kDouble;
}

// The contract's epilogue on `sum`, float32, which is overwritten. Channels are dimension `channel_dim`.
at::Tensor epilogue(at::Tensor sum, const at::Tensor& a, const at::Tensor& scale, const OptionalTensor& bias,
                    int64_t trailing) {
  std::vector<int64_t> channel(static_cast<size_t>(trailing + 1), 1);
  channel[0] = -1;
  sum.mul_(a).mul_(scale.view(channel));
  if (bias) sum.add_(bias->view(channel));
  return sum;
}

void check_bias(const char* op, const at::Tensor& weight, const OptionalTensor& bias) {
  if (!bias) return;
  require_float32(op, "bias", *bias);
  require(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), ErrorCode::kShapeMismatch, "[{}] a bias [N], got {}",
          op, show(*bias));
}

struct LinearForward {
  Quantized quantized;
  at::Tensor y;

  LinearForward(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                std::string_view granularity, std::string_view activation) {
    constexpr const char* kOp = "bit_linear";
    require(weight.dim() == 2 && x.dim() >= 1 && x.sym_size(-1) == weight.sym_size(1), ErrorCode::kShapeMismatch,
            "[{}] x [..., K] and a weight [N, K], got {} and {}", kOp, show(x), show(weight));
    check_bias(kOp, weight, bias);
    const at::ScalarType type = exact_type(weight);
    quantized = {quantize_activation(x, -1, ternary::parse_act_kind(activation).value()),
                 quantize_weight(weight, parse_spec(method, granularity))};
    const at::Tensor sum = at::linear(quantized.x.q.to(type), quantized.weight.t.to(type)).to(at::kFloat);
    y = epilogue(sum, quantized.x.a, quantized.weight.scale, bias, 0);
  }
};

struct Conv2dForward {
  Quantized quantized;
  at::Tensor y;

  Conv2dForward(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method, std::string_view granularity,
                std::string_view activation) {
    constexpr const char* kOp = "bit_conv2d";
    require(weight.dim() == 4 && x.dim() == 4 && x.sym_size(1) == weight.sym_size(1), ErrorCode::kShapeMismatch,
            "[{}] x [B, C, H, W] and a weight [N, C, kh, kw], got {} and {}", kOp, show(x), show(weight));
    check_bias(kOp, weight, bias);
    const at::ScalarType type = exact_type(weight);
    quantized = {quantize_activation(x, 1, ternary::parse_act_kind(activation).value()),
                 quantize_weight(weight, parse_spec(method, granularity))};
    const at::Tensor sum =
        at::conv2d(quantized.x.q.to(type), quantized.weight.t.to(type), {}, stride, padding, dilation).to(at::kFloat);
    y = epilogue(sum, quantized.x.a, quantized.weight.scale, bias, 2);
  }
};

void save(AutogradContext* ctx, const Quantized& quantized, const OptionalTensor& bias) {
  ctx->saved_data["has_bias"] = bias.has_value();
  ctx->save_for_backward({quantized.x.q, quantized.x.a, quantized.weight.t, quantized.weight.scale});
}

Quantized saved(AutogradContext* ctx) {
  const auto tensors = ctx->get_saved_variables();
  return {{tensors[0], tensors[1]}, {tensors[2], tensors[3]}};
}

// An argument that is left out has no edge to ask about.
bool needs_bias_grad(AutogradContext* ctx) { return ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2); }

// One gradient for each argument of apply(); only tensors have one.
variable_list gradients(Variable x, Variable weight, Variable bias, size_t arguments) {
  variable_list list{std::move(x), std::move(weight), std::move(bias)};
  list.resize(arguments);
  return list;
}

struct BitLinear : torch::autograd::Function<BitLinear> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const OptionalTensor& bias,
                          const std::string& method, const std::string& granularity, const std::string& activation) {
    const at::AutoDispatchBelowADInplaceOrView below;
    LinearForward run(x, weight, bias, method, granularity, activation);
    save(ctx, run.quantized, bias);
    return run.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    const at::Tensor& g = outputs[0];
    const Quantized quantized = saved(ctx);
    at::Tensor x, weight, bias;
    if (ctx->needs_input_grad(0)) x = g.matmul(quantized.weight_value());
    const at::Tensor rows = g.reshape_symint({-1, g.sym_size(-1)});
    if (ctx->needs_input_grad(1))
      weight = rows.t().matmul(quantized.x_value().reshape_symint({-1, quantized.x.q.sym_size(-1)}));
    if (needs_bias_grad(ctx)) bias = rows.sum(0);
    return gradients(x, weight, bias, 6);
  }
};

struct BitConv2d : torch::autograd::Function<BitConv2d> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const OptionalTensor& bias,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                          const std::vector<int64_t>& dilation, const std::string& method, const std::string& granularity,
                          const std::string& activation) {
    const at::AutoDispatchBelowADInplaceOrView below;
    Conv2dForward run(x, weight, bias, stride, padding, dilation, method, granularity, activation);
    save(ctx, run.quantized, bias);
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["dilation"] = dilation;
    return run.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    const Quantized quantized = saved(ctx);
    const std::vector<int64_t> bias_sizes{quantized.weight.t.size(0)}, no_output_padding{0, 0};
    auto [x, weight, bias] = at::convolution_backward(
        outputs[0], quantized.x_value(), quantized.weight_value(), bias_sizes, ctx->saved_data["stride"].toIntVector(),
        ctx->saved_data["padding"].toIntVector(), ctx->saved_data["dilation"].toIntVector(), false, no_output_padding, 1,
        {ctx->needs_input_grad(0), ctx->needs_input_grad(1), needs_bias_grad(ctx)});
    return gradients(x, weight, bias, 9);
  }
};

bool needs_gradient(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || (bias && bias->requires_grad()));
}

// LibTorch's convention for images without a batch: [C, H, W].
template <class Convolve>
at::Tensor with_batch(const at::Tensor& x, Convolve convolve) {
  return x.dim() == 3 ? convolve(x.unsqueeze(0)).squeeze(0) : convolve(x);
}

}  // namespace

namespace any_device {

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  return LinearForward(x, weight, bias, method, granularity, activation).y;
}

at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  return with_batch(x, [&](const at::Tensor& batch) {
    return Conv2dForward(batch, weight, bias, stride, padding, dilation, method, granularity, activation).y;
  });
}

}  // namespace any_device

namespace autograd {

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  if (!needs_gradient(x, weight, bias)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ops::bit_linear(x, weight, bias, parse_spec(method, granularity), ternary::parse_act_kind(activation).value());
  }
  return BitLinear::apply(x, weight, bias, std::string(method), std::string(granularity), std::string(activation));
}

at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  if (!needs_gradient(x, weight, bias)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ops::bit_conv2d(x, weight, bias, {stride, padding, dilation}, parse_spec(method, granularity),
                           ternary::parse_act_kind(activation).value());
  }
  return with_batch(x, [&](const at::Tensor& batch) {
    return BitConv2d::apply(batch, weight, bias, stride.vec(), padding.vec(), dilation.vec(), std::string(method),
                            std::string(granularity), std::string(activation));
  });
}

}  // namespace autograd
}  // namespace bitlab::ops
