// ternary_linear and ternary_conv2d: the operators of evaluation, on the kernels that the runtime uses.
#include <ATen/ops/empty.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"
#include "bitlab/ops/torch_pool.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::ops {
namespace {

struct Pair {
  int64_t h, w;
};

Pair pair_of(const char* op, const char* name, at::IntArrayRef values, int64_t least) {
  require(values.size() == 2 && values[0] >= least && values[1] >= least, ErrorCode::kInvalidArgument,
          "[{}] two numbers of at least {}, got {} (name={})", op, least, show(c10::fromIntArrayRefSlow(values)), name);
  return {values[0], values[1]};
}

void check_operands(const char* op, const at::Tensor& x, const at::Tensor& scale, const OptionalTensor& bias,
                    const c10::SymInt& rows) {
  require_float32(op, "x", x);
  require_float32(op, "scale", scale);
  require(scale.dim() == 1 && (scale.sym_size(0) == 1 || scale.sym_size(0) == rows), ErrorCode::kShapeMismatch,
          "[{}] a scale [1] or [N], got {}", op, show(scale));
  if (!bias) return;
  require_float32(op, "bias", *bias);
  require(bias->dim() == 1 && bias->sym_size(0) == rows, ErrorCode::kShapeMismatch, "[{}] a bias [N], got {}", op,
          show(*bias));
}

// Keeps contiguous copies alive while their pointers are in use.
struct Operands {
  at::Tensor scale, bias;
  std::shared_ptr<const CachedWeight> cached;

  Operands(const char* op, const at::Tensor& codes, int64_t depth, const at::Tensor& scale_, const OptionalTensor& bias_)
      : scale(scale_.contiguous()),
        bias(bias_ ? bias_->contiguous() : at::Tensor()),
        cached(packed_weight(op, codes, depth)) {}
  kernels::TernaryWeight weight() const {
    return {&cached->packed, scale.const_data_ptr<float>(), scale.numel() > 1 ? 1 : 0,
            bias.defined() ? bias.const_data_ptr<float>() : nullptr};
  }
};

struct Window2d {
  Pair kernel, stride, padding, dilation;

  Window2d(const char* op, at::IntArrayRef kernel_, at::IntArrayRef stride_, at::IntArrayRef padding_,
           at::IntArrayRef dilation_)
      : kernel(pair_of(op, "kernel_size", kernel_, 1)),
        stride(pair_of(op, "stride", stride_, 1)),
        padding(pair_of(op, "padding", padding_, 0)),
        dilation(pair_of(op, "dilation", dilation_, 1)) {}

  static c10::SymInt out(const c10::SymInt& size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
    return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  }
  // Of x [..., C, H, W] with N filters.
  c10::SymDimVector output(const char* op, const at::Tensor& x, const c10::SymInt& filters) const {
    require(x.dim() == 3 || x.dim() == 4, ErrorCode::kShapeMismatch, "[{}] x [B, C, H, W] or [C, H, W], got {}", op,
            show(x));
    const c10::SymInt h = x.sym_size(-2), w = x.sym_size(-1);
    require(h + 2 * padding.h >= dilation.h * (kernel.h - 1) + 1 && w + 2 * padding.w >= dilation.w * (kernel.w - 1) + 1,
            ErrorCode::kShapeMismatch, "[{}] an image of at least the kernel's size, got {}", op, show(x));
    c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
    const size_t rank = shape.size();
    shape[rank - 3] = filters;
    shape[rank - 2] = out(h, kernel.h, stride.h, padding.h, dilation.h);
    shape[rank - 1] = out(w, kernel.w, stride.w, padding.w, dilation.w);
    return shape;
  }
};

}  // namespace

namespace cpu {

at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          std::string_view activation) {
  constexpr const char* kOp = "ternary_linear";
  const at::Tensor y = meta::ternary_linear(x, codes, scale, bias, activation);
  const int64_t depth = x.size(-1);
  const Operands operands(kOp, codes, depth, scale, bias);
  const at::Tensor rows = x.contiguous();
  const int64_t tokens = y.numel() / codes.size(0);
  if (tokens == 0) return y;
  TorchPool pool;
  const auto chosen = operands.cached->kernels_for(tokens);
  const auto scratch = AlignedBuffer::allocate(
      static_cast<size_t>(ternary_linear_scratch_bytes(chosen, operands.weight(), tokens, pool.threads())));
  kernels::ternary_linear(chosen, operands.weight(), rows.const_data_ptr<float>(), tokens, y.mutable_data_ptr<float>(),
                          const_cast<uint8_t*>(scratch.value().data()), pool)
      .value();
  return y;
}

at::Tensor ternary_conv2d(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, std::string_view activation) {
  constexpr const char* kOp = "ternary_conv2d";
  const at::Tensor y = meta::ternary_conv2d(x, codes, scale, bias, kernel_size, stride, padding, dilation, activation);
  const Window2d window(kOp, kernel_size, stride, padding, dilation);
  const at::Tensor image = x.dim() == 4 ? x : x.unsqueeze(0), out = x.dim() == 4 ? y : y.unsqueeze(0);
  const kernels::ConvGeometry g{.batch = image.size(0),
                                .channels = image.size(1),
                                .input = {1, image.size(2), image.size(3)},
                                .kernel = {1, window.kernel.h, window.kernel.w},
                                .stride = {1, window.stride.h, window.stride.w},
                                .padding = {0, window.padding.h, window.padding.w},
                                .dilation = {1, window.dilation.h, window.dilation.w}};
  const Operands operands(kOp, codes, g.depth(), scale, bias);
  if (y.numel() == 0) return y;
  const at::Tensor channels_last = image.permute({0, 2, 3, 1}).contiguous();
  TorchPool pool;
  const auto chosen = operands.cached->kernels_for(kernels::ternary_conv_problem(g, codes.size(0)).tokens);
  const auto scratch =
      AlignedBuffer::allocate(static_cast<size_t>(ternary_conv_scratch_bytes(chosen, operands.weight(), g, pool.threads())));
  const at::Tensor target = at::empty({g.batch, g.out(1), g.out(2), codes.size(0)}, x.options());
  kernels::TernaryGemmArgs results;
  results.y = target.mutable_data_ptr<float>();
  kernels::ternary_conv(chosen, operands.weight(), g, {.op = kOp, .x = channels_last.const_data_ptr<float>()}, results,
                        const_cast<uint8_t*>(scratch.value().data()), pool)
      .value();
  const at::Tensor result = target.permute({0, 3, 1, 2});  // channels last, as the kernel wrote it
  return x.dim() == 4 ? result : result.squeeze(0);
}

}  // namespace cpu

namespace meta {

at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          std::string_view activation) {
  constexpr const char* kOp = "ternary_linear";
  ternary::parse_act_kind(activation).value();
  require(x.dim() >= 1 && codes.dim() == 2, ErrorCode::kShapeMismatch,
          "[{}] x [..., K] and codes [N, ceil(K / 4)], got {} and {}", kOp, show(x), show(codes));
  check_operands(kOp, x, scale, bias, codes.sym_size(0));
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  shape.back() = codes.sym_size(0);
  return at::empty_symint(shape, x.options());
}

at::Tensor ternary_conv2d(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, std::string_view activation) {
  constexpr const char* kOp = "ternary_conv2d";
  ternary::parse_act_kind(activation).value();
  require(codes.dim() == 2, ErrorCode::kShapeMismatch, "[{}] codes [N, ceil(K / 4)], got {}", kOp, show(codes));
  check_operands(kOp, x, scale, bias, codes.sym_size(0));
  const Window2d window(kOp, kernel_size, stride, padding, dilation);
  return at::empty_symint(window.output(kOp, x, codes.sym_size(0)), x.options());
}

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  const auto [codes, scale] = meta::ternary_pack(weight, method, granularity);
  return meta::ternary_linear(x, codes, scale, bias, activation);
}

at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation) {
  const auto [codes, scale] = meta::ternary_pack(weight, method, granularity);
  require(weight.dim() == 4, ErrorCode::kShapeMismatch, "[bit_conv2d] a weight [N, C, kh, kw], got {}", show(weight));
  return meta::ternary_conv2d(x, codes, scale, bias, weight.sizes().slice(2), stride, padding, dilation, activation);
}

}  // namespace meta
}  // namespace bitlab::ops
