#include "bitlab/ops/internal/cuda.h"

#include <algorithm>
#include <limits>

#include <ATen/ops/_int_mm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/cuda_plugin.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/encode.h"
#include "bitlab/ops/internal/tensor_cache.h"
#include "bitlab/ops/internal/traced.h"
#include "bitlab/ops/padding.h"
#include "bitlab/ops/weight_cache.h"
#include "bitlab/ternary/sum.h"

namespace bitlab::ops {
namespace {

const kernels::CudaPlugin* plugin() { return kernels::cuda_plugin().ok() ? *kernels::cuda_plugin() : nullptr; }

// LibTorch's current stream of the tensor's device.
void* stream_of(const at::Tensor& tensor) {
  return c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device()).native_handle();
}

void check(const char* wrong) {
  require(wrong == nullptr, ErrorCode::kInternal, "[cuda] work on the stream, got: {}", wrong == nullptr ? "" : wrong);
}

at::Tensor padded(const at::Tensor& matrix, int64_t rows, int64_t columns) {
  const int64_t more_rows = rows - matrix.size(0), more = columns - matrix.size(1);
  return more_rows == 0 && more == 0 ? matrix : at::constant_pad_nd(matrix, {0, more, 0, more_rows});
}

// int32 [M, N], of int8 q [M, K] and t [N, K]. cuBLAS takes more than 16 rows, and multiples of 8.
at::Tensor integer_product(const at::Tensor& q, const at::Tensor& t) {
  constexpr int64_t kUnit = 8, kMinRows = 24;
  const int64_t m = q.size(0), n = t.size(0), depth = round_up(q.size(1), kUnit);
  const at::Tensor sums = at::_int_mm(padded(q, std::max(m, kMinRows), depth), padded(t, round_up(n, kUnit), depth).t());
  return sums.narrow(0, 0, m).narrow(1, 0, n);
}

// The patches that a convolution reads, int8 [B * positions, kernel... * C], in the canonical order of k (ternary/codes.h), of q [B, C, sizes...].
at::Tensor patches(const at::Tensor& q, at::IntArrayRef kernel, const ConvWindow& w, at::IntArrayRef out) {
  std::vector<int64_t> around{0, 0};
  for (const int64_t side : sides(w.padding, w.padding)) around.push_back(side);
  at::Tensor last = q.movedim(1, -1);
  last = (std::ranges::all_of(around, [](int64_t side) { return side == 0; }) ? last : at::constant_pad_nd(last, around))
             .contiguous();
  const int64_t depth = last.size(-1) * c10::multiply_integers(kernel);
  // A copy of words is as much quicker as they are wider.
  constexpr int64_t kWord = sizeof(int64_t);
  if (last.size(-1) % kWord == 0) last = last.view(at::kLong);
  std::vector<int64_t> sizes{last.size(0)}, strides{last.stride(0)};
  for (size_t d = 0; d < kernel.size(); ++d) {
    sizes.push_back(out[d]);
    strides.push_back(last.stride(static_cast<int64_t>(d) + 1) * w.stride[d]);
  }
  for (size_t d = 0; d < kernel.size(); ++d) {
    sizes.push_back(kernel[d]);
    strides.push_back(last.stride(static_cast<int64_t>(d) + 1) * w.dilation[d]);
  }
  sizes.push_back(last.size(-1));
  strides.push_back(1);
  const int64_t positions = last.size(0) * c10::multiply_integers(out);
  return last.as_strided(sizes, strides).reshape({positions, -1}).view(at::kChar).view({positions, depth});
}

std::vector<int64_t> output_sizes(const at::Tensor& q, at::IntArrayRef kernel, const ConvWindow& w) {
  std::vector<int64_t> out;
  for (size_t d = 0; d < kernel.size(); ++d) {
    const int64_t reach = w.dilation[d] * (kernel[d] - 1) + 1;
    out.push_back((q.size(static_cast<int64_t>(d) + 2) + 2 * w.padding[d] - reach) / w.stride[d] + 1);
    require(out.back() > 0, ErrorCode::kShapeMismatch, "[bit_conv] a kernel that fits into x, got {} for {}",
            show(c10::fromIntArrayRefSlow(kernel)), show(q));
  }
  return out;
}

// A weight as products on a device read it.
struct DeviceWeight {
  bool is_mma = false;
  at::Tensor values;       // uint8, in kMma; else int8 [N, depth]
  at::Tensor group_scale;  // float16 [groups, N], where there are groups of k
};
struct WeightForm {
  int64_t depth, groups;
  bool operator==(const WeightForm&) const = default;
};

// Never destroyed: tensors may outlive static objects.
TensorCache<WeightForm, DeviceWeight>& device_weights() {
  static auto* instance = new TensorCache<WeightForm, DeviceWeight>;
  return *instance;
}

// The matrix units read ternary weights of one group of channels.
at::Tensor packed_values(const char* op, const at::Tensor& codes, const WeightForm& form, bool is_mma) {
  using kernels::TernaryLayout;
  const TernaryLayout layout = codes.scalar_type() == at::kChar ? TernaryLayout::kInt8Rows
                               : is_mma                         ? TernaryLayout::kMma
                                                                : TernaryLayout::kRows;
  const auto packed = pack_weight(op, codes.cpu(), {.depth = form.depth, .groups = form.groups, .layout = layout});
  if (is_mma) {
    const AlignedBuffer& data = packed->packed.data;
    const at::Tensor bytes = at::empty({static_cast<int64_t>(data.size())}, at::kByte);
    std::copy_n(data.data(), data.size(), bytes.mutable_data_ptr<uint8_t>());
    return bytes.to(codes.device());
  }
  const at::Tensor rows = at::empty({codes.size(0), form.depth}, at::kChar);
  for (int64_t row = 0; row < codes.size(0); ++row)
    kernels::unpack_row(packed->packed, row, 0,
                        {rows.mutable_data_ptr<int8_t>() + row * form.depth, static_cast<size_t>(form.depth)}, form.groups);
  return rows.to(codes.device());
}

std::shared_ptr<const DeviceWeight> device_weight(const cuda::TernaryLayer& l, const WeightForm& form) {
  std::vector<at::Tensor> sources{l.codes};
  if (l.group != 0) sources.push_back(l.scale);
  return device_weights().get(sources, form, [&] {
    auto weight = std::make_shared<DeviceWeight>();
    weight->is_mma = l.codes.scalar_type() == at::kByte && form.groups == 1;
    weight->values = packed_values(l.op, l.codes, form, weight->is_mma);
    if (l.group != 0) weight->group_scale = l.scale.t().contiguous();
    return weight;
  });
}

// A layer's operands as kernels read them; keeps contiguous copies alive.
struct BoundLayer {
  std::shared_ptr<const DeviceWeight> weight;
  at::Tensor scale, scale_neg, bias;
  kernels::TernaryGemmArgs args;

  BoundLayer(const cuda::TernaryLayer& l, const WeightForm& form) : weight(device_weight(l, form)) {
    const auto plain = [](const OptionalTensor& tensor) { return given(tensor) ? tensor->contiguous() : at::Tensor(); };
    const auto floats = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; };
    scale_neg = plain(l.scale_neg), bias = plain(l.bias);
    args.weights = static_cast<const uint8_t*>(weight->values.const_data_ptr());
    args.rows = args.y_stride = l.codes.size(0), args.depth = form.depth;
    args.scale_neg = floats(scale_neg), args.bias = floats(bias), args.group = l.group;
    if (l.group != 0) {
      args.group_scale = static_cast<const uint16_t*>(weight->group_scale.const_data_ptr());
    } else {
      scale = l.scale.contiguous();
      args.scale = floats(scale), args.scale_stride = scale.numel() > 1 ? 1 : 0;
    }
  }
};

// Rows of floats as int8, `stride` bytes apart, with `slack` bytes behind them that may be read.
struct QuantizedRows {
  at::Tensor q, a;
  QuantizedRows(const cuda::TernaryLayer& l, const at::Tensor& x, int64_t rows, int64_t stride, int64_t slack)
      : q(at::empty({rows * stride + slack}, x.options().dtype(at::kChar))), a(at::empty({rows}, x.options())) {
    const auto limit = static_cast<float>(act_limit(l.kind));
    cuda::quantize_rows(x, rows, limit, l.step == 0 ? 0 : 1.0F / l.step, q.narrow(0, 0, rows * stride), a);
  }
};

void multiply(const kernels::TernaryGemmArgs& args, int64_t tokens, void* stream) {
  check(plugin()->ternary_gemm(&args, tokens, static_cast<int32_t>(kernels::CudaProduct::kAny), stream));
}

// A convolution of one group by matrix units: patches of q in parts that a bounded memory holds, each a product.
void multiply_patches(const QuantizedRows& rows, kernels::TernaryGemmArgs args, const kernels::ConvGeometry& g,
                      void* stream) {
  constexpr int64_t kPatchBytes = int64_t{64} << 20, kLeast = 1024;  // of a part, about
  const int64_t pixels = g.batch * g.positions(), stride = round_up(args.depth, kernels::kMmaDepth),
                part = std::min(pixels, std::max(kLeast, kPatchBytes / stride));
  const at::Tensor patches = at::empty({part * stride}, rows.q.options()), scales = at::empty({part}, rows.a.options());
  float* y = args.y;
  args.q = patches.const_data_ptr<int8_t>(), args.q_stride = stride, args.a = scales.const_data_ptr<float>();
  for (int64_t first = 0; first < pixels; first += part) {
    const int64_t count = std::min(part, pixels - first);
    const kernels::CudaPatches gather{kernels::CudaImage::of(g),
                                      rows.q.const_data_ptr<int8_t>(),
                                      rows.a.const_data_ptr<float>(),
                                      1,
                                      first,
                                      count,
                                      args.depth,
                                      true,
                                      patches.mutable_data_ptr<int8_t>(),
                                      stride,
                                      scales.mutable_data_ptr<float>()};
    check(plugin()->patches(&gather, stream));
    args.y = y + first * args.y_stride;
    multiply(args, count, stream);
  }
}

// The commonest encoder; others, and sparse or drawn codes, are any_device's.
bool encodes(const Latent& from) {
  const ternary::WeightSpec& spec = from.spec;
  return cuda::serves(from.w) && spec.method == ternary::Method::kAbsmean &&
         spec.granularity != ternary::Granularity::kGroup && spec.sparsity == ternary::Sparsity::kDense && spec.draw == 0;
}

}  // namespace

namespace cuda {

at::Tensor linear(const TernaryLayer& l, const at::Tensor& x) {
  const c10::DeviceGuard guard(x.device());
  const int64_t depth = x.size(-1), rows = l.codes.size(0), tokens = x.numel() / depth;
  BoundLayer layer(l, {depth, 1});
  const at::Tensor plain = x.contiguous(), y = at::empty({tokens, rows}, x.options());
  layer.args.y = y.mutable_data_ptr<float>();
  void* stream = stream_of(x);
  if (l.kind == ternary::ActKind::kNone) {
    kernels::CudaTernaryF32 product{
        layer.args, !layer.weight->is_mma, plain.const_data_ptr<float>(), depth, tokens, false, {}, 1};
    check(plugin()->ternary_gemm_f32(&product, stream));
  } else {
    const int64_t stride = round_up(depth, kernels::kMmaDepth);
    const QuantizedRows input(l, plain, tokens, stride, 0);
    layer.args.q = input.q.const_data_ptr<int8_t>(), layer.args.q_stride = stride;
    layer.args.a = input.a.const_data_ptr<float>();
    if (layer.weight->is_mma) {
      multiply(layer.args, tokens, stream);
    } else {
      const kernels::CudaInt8Gemm product{layer.args, tokens, false, {}, 1};
      check(plugin()->int8_gemm(&product, stream));
    }
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = rows;
  return y.view(shape);
}

void conv(const TernaryLayer& l, const kernels::ConvGeometry& g, const at::Tensor& x, const at::Tensor& y) {
  const c10::DeviceGuard guard(x.device());
  BoundLayer layer(l, {g.depth(), g.groups});
  layer.args.y = y.mutable_data_ptr<float>();
  const int64_t pixels = g.batch * g.positions();
  void* stream = stream_of(x);
  if (l.kind == ternary::ActKind::kNone) {
    const kernels::CudaTernaryF32 product{
        layer.args, !layer.weight->is_mma, x.const_data_ptr<float>(), 0, pixels, true, kernels::CudaImage::of(g), g.groups};
    check(plugin()->ternary_gemm_f32(&product, stream));
    return;
  }
  const QuantizedRows input(l, x, g.batch, g.sample_values(), kernels::kMmaDepth);
  if (layer.weight->is_mma) {
    multiply_patches(input, layer.args, g, stream);
    return;
  }
  layer.args.q = input.q.const_data_ptr<int8_t>(), layer.args.a = input.a.const_data_ptr<float>();
  const kernels::CudaInt8Gemm product{layer.args, pixels, true, kernels::CudaImage::of(g), g.groups};
  check(plugin()->int8_gemm(&product, stream));
}

void embedding(const TernaryLayer& l, const at::Tensor& indices, int64_t depth, const at::Tensor& y) {
  const c10::DeviceGuard guard(y.device());
  const BoundLayer layer(l, {depth, 1});
  const at::Tensor plain = indices.contiguous(), failed = at::empty({1}, y.options().dtype(at::kInt));
  y.fill_(std::numeric_limits<float>::quiet_NaN());
  const kernels::CudaEmbedding args{layer.weight->is_mma ? kernels::CudaTable::kTernary : kernels::CudaTable::kInt8,
                                    layer.args,
                                    plain.const_data_ptr<int64_t>(),
                                    y.mutable_data_ptr<float>(),
                                    y.numel(),
                                    static_cast<uint32_t*>(failed.mutable_data_ptr())};
  check(plugin()->embedding(&args, stream_of(y)));
}

bool serves(const at::Tensor& tensor) {
  return tensor.is_cuda() && plugin() != nullptr && reaches(c10::DispatchKey::CUDA, {tensor});
}

std::optional<at::Tensor> contract(const Product& product, const Operands& o, const OptionalTensor& bias) {
  if (!serves(o.q) || o.q.numel() == 0 || o.weight.scale_neg.defined() || (product.window && product.window->transposed))
    return {};
  const c10::DeviceGuard guard(o.q.device());
  const WeightLayout layout = product.layout(o.weight.t);
  const at::Tensor t = layout.to_matrix(o.weight.t);
  const int64_t n = t.size(0);
  at::Tensor sums;
  std::vector<int64_t> out;
  if (!product.window) {
    sums = integer_product(o.q.reshape({-1, o.q.size(-1)}), t);
  } else {
    const at::IntArrayRef kernel = o.weight.t.sizes().slice(2);
    const int64_t groups = product.window->groups;
    out = output_sizes(o.q, kernel, *product.window);
    std::vector<at::Tensor> parts;
    for (int64_t g = 0; g < groups; ++g) {
      const at::Tensor channels = groups == 1 ? o.q : o.q.chunk(groups, 1)[static_cast<size_t>(g)];
      parts.push_back(
          integer_product(patches(channels, kernel, *product.window, out), t.narrow(0, g * n / groups, n / groups)));
    }
    sums = groups == 1 ? parts[0] : at::cat(parts, 1);
  }
  const int64_t tokens = sums.size(0);
  const at::Tensor y = at::empty({tokens, n}, o.a.options()), scale = o.weight.scale.contiguous(), a = o.a.contiguous();
  const at::Tensor added = given(bias) ? bias->contiguous() : at::Tensor();
  check(plugin()->finish_sums(sums.const_data_ptr<int32_t>(), tokens, n, sums.stride(0), a.const_data_ptr<float>(),
                              tokens / a.numel(), scale.const_data_ptr<float>(), scale.numel() == 1 ? 0 : 1,
                              added.defined() ? added.const_data_ptr<float>() : nullptr, y.mutable_data_ptr<float>(),
                              stream_of(y)));
  std::vector<int64_t> shape = o.q.sizes().vec();
  if (!product.window) {
    shape.back() = n;
    return y.view(shape);
  }
  shape = {o.q.size(0)};
  shape.insert(shape.end(), out.begin(), out.end());
  shape.push_back(n);
  return y.view(shape).movedim(-1, 1);
}

Encoded encode(const Latent& from) {
  if (!encodes(from)) return any_device::encode(from);
  const c10::DeviceGuard guard(from.w.device());
  const int64_t parts = from.scales(), length = from.w.numel() / parts,
                blocks = ceil_div(length, static_cast<int64_t>(ternary::kSumBlock));
  const auto options = from.w.options();
  Encoded to{at::empty(from.w.sizes(), options.dtype(at::kChar)), at::empty({parts}, options), at::empty({0}, options),
             at::empty({parts}, options)};
  const at::Tensor scratch = at::empty({2 * parts * blocks}, options.dtype(at::kDouble));
  check(plugin()->encode_absmean(from.w.const_data_ptr<float>(), parts, length, to.t.mutable_data_ptr<int8_t>(),
                                 to.scale.mutable_data_ptr<float>(), to.threshold.mutable_data_ptr<float>(),
                                 scratch.mutable_data_ptr<double>(), stream_of(from.w)));
  return to;
}

void quantize_rows(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q, const at::Tensor& a) {
  const c10::DeviceGuard guard(x.device());
  const int64_t columns = x.numel() / rows, q_stride = q.numel() / rows;
  const at::Tensor scratch = at::empty({rows}, a.options().dtype(at::kInt));
  check(plugin()->activation_quant(x.const_data_ptr<float>(), rows, columns, limit, inv, q.mutable_data_ptr<int8_t>(),
                                   q_stride, a.mutable_data_ptr<float>(), static_cast<uint32_t*>(scratch.mutable_data_ptr()),
                                   nullptr, stream_of(x)));
}

}  // namespace cuda
}  // namespace bitlab::ops
