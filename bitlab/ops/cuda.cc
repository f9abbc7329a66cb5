#include "bitlab/ops/internal/cuda.h"

#include <algorithm>
#include <limits>

#include <ATen/ops/_int_mm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"
#include "bitlab/kernels/cuda_plugin.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/encode.h"
#include "bitlab/ops/internal/tensor_cache.h"
#include "bitlab/ops/internal/traced.h"
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

// int32 [M, N], of int8 q [M, stride], whatever stands behind its depth, and t [N, depth]. cuBLAS takes more than 16 rows, and multiples of 8.
at::Tensor integer_product(const at::Tensor& q, const at::Tensor& t) {
  constexpr int64_t kUnit = 8, kMinRows = 24;
  const int64_t m = q.size(0), n = t.size(0), depth = round_up(q.size(1), kUnit);
  const at::Tensor sums = at::_int_mm(padded(q, std::max(m, kMinRows), depth), padded(t, round_up(n, kUnit), depth).t());
  return sums.narrow(0, 0, m).narrow(1, 0, n);
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

// Rows of floats as int8 [rows, stride], with `slack` bytes behind them that may be read, and their scales.
struct QuantizedRows {
  at::Tensor q, a;
  QuantizedRows(const cuda::TernaryLayer& l, const at::Tensor& x, int64_t rows, int64_t stride, int64_t slack = 0)
      : q(at::empty({rows * stride + slack}, x.options().dtype(at::kChar)).narrow(0, 0, rows * stride).view({rows, stride})),
        a(at::empty({rows}, x.options())) {
    cuda::quantize_rows(x, rows, static_cast<float>(act_limit(l.kind)), l.step == 0 ? 0 : 1.0F / l.step, q, a);
  }
};

// Of a layer on the device: codes for its matrix units, or int8 [N, depth].
struct Weights {
  kernels::TernaryGemmArgs args;  // with what follows the product, and y
  bool is_mma;
  at::Tensor values;
  int64_t stride(int64_t depth) const { return round_up(depth, is_mma ? kernels::kMmaDepth : kSlack); }

 private:
  static constexpr int64_t kSlack = 16;
};

// Rows q int8 [tokens, stride] and their scales: by the product of codes, or by LibTorch's of int8 and what follows it.
void multiply(const Weights& w, const at::Tensor& q, const float* a, int64_t y_first, void* stream) {
  kernels::TernaryGemmArgs args = w.args;
  const int64_t bytes = args.y_type == kernels::CudaType::kFloat32 ? 4 : 2;
  args.y = reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(args.y) + y_first * args.y_stride * bytes);
  args.q = q.const_data_ptr<int8_t>(), args.q_stride = q.size(1), args.a = a;
  if (w.is_mma) {
    check(plugin()->ternary_gemm(&args, q.size(0), static_cast<int32_t>(kernels::CudaProduct::kAny), stream));
    return;
  }
  const at::Tensor sums = integer_product(q, w.values);
  check(plugin()->finish_sums(&args, sums.const_data_ptr<int32_t>(), sums.stride(0), sums.size(0), stream));
}

// A convolution of one group in tiles that gather their patches from q, images [B, pixels, C].
void multiply_images(const Weights& w, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry& g,
                     void* stream) {
  kernels::CudaTernaryConv conv{w.args, kernels::CudaImage::of(g), g.batch * g.positions()};
  conv.p.q = q.const_data_ptr<int8_t>();
  conv.p.a = a.const_data_ptr<float>(), conv.p.a_stride = a.numel() == 1 ? 0 : 1;
  check(plugin()->ternary_conv(&conv, stream));
}

// The same by patches, in parts that a bounded memory holds, each a product.
void multiply_patches(const Weights& w, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry& g,
                      void* stream) {
  constexpr int64_t kPatchBytes = int64_t{64} << 20, kLeast = 1024;  // of a part, about
  const int64_t pixels = g.batch * g.positions(), stride = w.stride(g.depth()),
                part = std::min(pixels, std::max(kLeast, kPatchBytes / stride));
  const bool in_place = is_pointwise(g) && stride == g.channels;
  const at::Tensor rows = in_place ? q.view({pixels, stride}) : at::empty({part, stride}, q.options()),
                   scales = at::empty({part}, a.options());
  for (int64_t first = 0; first < pixels; first += part) {
    const int64_t count = std::min(part, pixels - first);
    const at::Tensor own = rows.narrow(0, in_place ? first : 0, count);
    const kernels::CudaPatches gather{kernels::CudaImage::of(g),
                                      q.const_data_ptr<int8_t>(),
                                      a.const_data_ptr<float>(),
                                      a.numel() == 1 ? 0 : 1,
                                      first,
                                      count,
                                      g.depth(),
                                      !in_place,
                                      in_place ? nullptr : own.mutable_data_ptr<int8_t>(),
                                      stride,
                                      scales.mutable_data_ptr<float>()};
    check(plugin()->patches(&gather, stream));
    multiply(w, own, scales.const_data_ptr<float>(), first, stream);
  }
}

// Channels in groups: a thread makes a result.
void multiply_groups(const Weights& w, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry& g,
                     void* stream) {
  kernels::CudaInt8Gemm product{w.args, g.batch * g.positions(), true, kernels::CudaImage::of(g), g.groups};
  product.p.q = q.const_data_ptr<int8_t>();
  product.p.a = a.const_data_ptr<float>(), product.p.a_stride = a.numel() == 1 ? 0 : 1;
  check(plugin()->int8_gemm(&product, stream));
}

void convolve(const Weights& w, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry& g, void* stream) {
  const bool is_product = is_pointwise(g) && w.stride(g.channels) == g.channels;  // of rows that lie there
  const bool gathers =
      w.is_mma && !is_product && kernels::gathers_in_tiles(g.channels, g.groups, w.args.depth);
  (g.groups > 1 ? multiply_groups : gathers ? multiply_images : multiply_patches)(w, q, a, g, stream);
}

kernels::CudaType type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat  ? kernels::CudaType::kFloat32
         : tensor.scalar_type() == at::kHalf ? kernels::CudaType::kFloat16
                                             : kernels::CudaType::kBFloat16;
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
    const Weights weights{layer.args, layer.weight->is_mma, layer.weight->values};
    const QuantizedRows input(l, plain, tokens, weights.stride(depth));
    multiply(weights, input.q, input.a.const_data_ptr<float>(), 0, stream);
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
  convolve({layer.args, layer.weight->is_mma, layer.weight->values}, input.q, input.a, g, stream);
}

void product(const IntegerLayer& l, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry* g,
             const at::Tensor& y) {
  const c10::DeviceGuard guard(y.device());
  void* stream = stream_of(y);
  const int64_t rows = l.t.size(0), depth = l.t.size(1);
  const auto floats = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; };
  Weights w{{.rows = rows, .depth = depth}, l.is_ternary && (g == nullptr || g->groups == 1), l.t};
  w.args.scale = floats(l.scale), w.args.scale_stride = l.scale.numel() == 1 ? 0 : 1;
  w.args.scale_neg = floats(l.scale_neg), w.args.bias = floats(l.bias);
  w.args.y = static_cast<float*>(y.mutable_data_ptr()), w.args.y_type = type_of(y), w.args.y_stride = rows;
  w.args.weights = static_cast<const uint8_t*>(l.t.const_data_ptr());
  if (w.is_mma) {
    w.values = at::empty({kernels::mma_bytes(rows, depth)}, l.t.options().dtype(at::kByte));
    auto* packed = w.values.mutable_data_ptr<uint8_t>();
    check(plugin()->pack_ternary(l.t.const_data_ptr<int8_t>(), rows, depth, packed, stream));
    w.args.weights = packed;
  }
  if (g != nullptr) return convolve(w, q, a, *g, stream);
  multiply(w, padded(q, q.size(0), w.stride(depth)), floats(a), 0, stream);
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
  const kernels::CudaActivationQuant work{x.const_data_ptr(),
                                          type_of(x),
                                          rows,
                                          columns,
                                          limit,
                                          inv,
                                          q.mutable_data_ptr<int8_t>(),
                                          q_stride,
                                          a.mutable_data_ptr<float>(),
                                          static_cast<uint32_t*>(scratch.mutable_data_ptr()),
                                          nullptr};
  check(plugin()->activation_quant(&work, stream_of(x)));
}

}  // namespace cuda
}  // namespace bitlab::ops
