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
#include "bitlab/kernels/internal/cuda_plugin.h"
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

c10::impl::VirtualGuardImpl guard_of(const at::Tensor& tensor) {
  return c10::impl::VirtualGuardImpl(tensor.device().type());
}
// LibTorch's current stream of the tensor's device.
c10::Stream current_stream(const at::Tensor& tensor) { return guard_of(tensor).getStream(tensor.device()); }
void* stream_of(const at::Tensor& tensor) { return current_stream(tensor).native_handle(); }

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

struct WeightForm {
  int64_t depth, groups;
  bool operator==(const WeightForm&) const = default;
};

struct DeviceCodes {
  TensorCache<WeightForm, cuda::LayerCodes> packed;  // of packed codes, without scales of rows
  TensorCache<Encoding, cuda::LayerCodes> latent;    // of latent weights
};
// Never destroyed: tensors may outlive static objects.
DeviceCodes& device_codes() {
  static auto* instance = new DeviceCodes;
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

// Codes that are kept are there for every stream, once this one has made them.
void settle(cuda::LayerCodes& codes) {
  codes.made_on = current_stream(codes.values);
  guard_of(codes.values).synchronizeStream(*codes.made_on);
  codes.are_new = false;
}

// The current stream reads them, too: their memory is no one else's before it has, although they may be dropped at any time.
void lend(const cuda::LayerCodes& codes) {
  const c10::Stream stream = current_stream(codes.values);
  if (stream == codes.made_on) return;
  for (const at::Tensor* kept : {&codes.values, &codes.scale, &codes.scale_neg})
    if (kept->defined()) guard_of(*kept).recordDataPtrOnStream(kept->storage().data_ptr(), stream);
}

// Whether a CUDA graph writes down what is started, to run it again whatever became of the tensors of now.
bool is_capturing(const at::Tensor& tensor) {
  int32_t answer = 0;
  check(plugin()->is_capturing(stream_of(tensor), &answer));
  return answer != 0;
}

at::Tensor plain(const OptionalTensor& tensor) { return given(tensor) ? tensor->contiguous() : at::Tensor(); }

cuda::LayerCodes codes_of(const cuda::TernaryLayer& l, const WeightForm& form) {
  std::vector<at::Tensor> sources{l.codes};
  if (l.group != 0) sources.push_back(l.scale);
  cuda::LayerCodes codes = *device_codes().packed.get(sources, form, [&] {
    auto made = std::make_shared<cuda::LayerCodes>();
    made->rows = l.codes.size(0), made->depth = form.depth, made->group = l.group;
    made->is_mma = l.codes.scalar_type() == at::kByte && form.groups == 1;
    made->values = packed_values(l.op, l.codes, form, made->is_mma);
    if (l.group != 0) made->scale = l.scale.t().contiguous();
    settle(*made);
    return made;
  });
  lend(codes);
  if (l.group == 0) codes.scale = l.scale.contiguous();
  codes.scale_neg = plain(l.scale_neg);
  return codes;
}

// Rows of floats as int8 [rows, stride] and their scales; x itself where activations stay float.
struct LayerInput {
  at::Tensor x, a;
  LayerInput(const cuda::TernaryLayer& l, const at::Tensor& floats, int64_t rows, int64_t stride) : x(floats) {
    if (l.kind == ternary::ActKind::kNone) return;
    x = at::empty({rows, stride}, x.options().dtype(at::kChar)), a = at::empty({rows}, floats.options());
    cuda::quantize_rows(floats, rows, static_cast<float>(act_limit(l.kind)), l.step == 0 ? 0 : 1.0F / l.step, x, a);
  }
};

kernels::CudaType type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat  ? kernels::CudaType::kFloat32
         : tensor.scalar_type() == at::kHalf ? kernels::CudaType::kFloat16
                                             : kernels::CudaType::kBFloat16;
}
const float* floats_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; }

int64_t stride_of(bool is_mma, int64_t depth) {
  constexpr int64_t kAligned = 16;
  return round_up(depth, is_mma ? kernels::kMmaDepth : kAligned);
}

// A product as kernels take it, but for its input.
struct Weights {
  kernels::TernaryGemmArgs args;
  bool is_mma;
  at::Tensor values, bias;

  Weights(const cuda::LayerCodes& l, const OptionalTensor& added, const at::Tensor& y)
      : args{.rows = l.rows, .depth = l.depth}, is_mma(l.is_mma), values(l.values), bias(plain(added)) {
    args.weights = static_cast<const uint8_t*>(values.const_data_ptr());
    args.has_new_weights = l.are_new;
    args.group = l.group;
    if (l.group != 0) {
      args.group_scale = static_cast<const uint16_t*>(l.scale.const_data_ptr());
    } else {
      args.scale = floats_of(l.scale), args.scale_stride = l.scale.numel() > 1 ? 1 : 0;
    }
    args.scale_neg = floats_of(l.scale_neg), args.bias = floats_of(bias);
    args.y = static_cast<float*>(y.mutable_data_ptr()), args.y_type = type_of(y), args.y_stride = l.rows;
  }
  int64_t stride(int64_t depth) const { return stride_of(is_mma, depth); }
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
  const int64_t pixels = g.batch * g.positions(), stride = w.stride(g.depth()),
                part = kernels::pixels_at_once(pixels, stride);
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

// Float activations: rows [tokens, depth], or images.
void multiply_floats(const Weights& w, const at::Tensor& x, const kernels::ConvGeometry* g, void* stream) {
  const int64_t depth = w.args.depth;
  const bool gathers = g != nullptr;
  const kernels::CudaTernaryF32 product{w.args,
                                        !w.is_mma,
                                        x.const_data_ptr<float>(),
                                        depth,
                                        gathers ? g->batch * g->positions() : x.numel() / depth,
                                        gathers,
                                        gathers ? kernels::CudaImage::of(*g) : kernels::CudaImage{},
                                        gathers ? g->groups : 1};
  check(plugin()->ternary_gemm_f32(&product, stream));
}

void convolve(const Weights& w, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry& g, void* stream) {
  const bool is_product = is_pointwise(g) && w.stride(g.channels) == g.channels;  // of rows that lie there
  const bool gathers = w.is_mma && !is_product && kernels::gathers_in_tiles(g.channels, g.groups, w.args.depth);
  (g.groups > 1 ? multiply_groups : gathers ? multiply_images : multiply_patches)(w, q, a, g, stream);
}

// The commonest encoder; others, and sparse or drawn codes, are any_device's.
bool encodes(const Latent& from) {
  const ternary::WeightSpec& spec = from.spec;
  return cuda::serves(from.w) && from.learned.empty() && spec.method == ternary::Method::kAbsmean &&
         spec.granularity != ternary::Granularity::kGroup && spec.sparsity == ternary::Sparsity::kDense && spec.draw == 0;
}

}  // namespace

namespace cuda {

at::Tensor linear(const TernaryLayer& l, const at::Tensor& x) {
  const c10::DeviceGuard guard(x.device());
  const int64_t depth = x.size(-1), tokens = x.numel() / depth;
  const LayerCodes codes = codes_of(l, {depth, 1});
  const LayerInput input(l, x.reshape({tokens, depth}).contiguous(), tokens, stride_of(codes.is_mma, depth));
  c10::DimVector shape(x.sizes());
  shape.back() = codes.rows;
  const at::Tensor y = at::empty(shape, x.options());
  product(codes, l.bias, input.x, input.a, nullptr, y);
  return y;
}

void conv(const TernaryLayer& l, const kernels::ConvGeometry& g, const at::Tensor& x, const at::Tensor& y) {
  const c10::DeviceGuard guard(x.device());
  const LayerCodes codes = codes_of(l, {g.depth(), g.groups});
  const LayerInput input(l, x, g.batch, g.sample_values());
  product(codes, l.bias, input.x, input.a, &g, y);
}

bool evaluates(const Settings& s) {
  const bool is_matrix = is_ternary(s.spec.method) && (!s.product.window || s.product.window->groups == 1);
  if (s.spec.granularity == ternary::Granularity::kGroup) return s.quantizes_x() && is_matrix;
  return s.quantizes_x() || (is_ternary(s.spec.method) && !info(s.spec.method).asymmetric);
}

LayerCodes layer_codes(const Settings& s, const QuantizedWeight& weight) {
  const c10::DeviceGuard guard(weight.t.device());
  const auto& window = s.product.window;
  const at::Tensor t = s.product.layout(weight.t).to_matrix(weight.t);
  LayerCodes codes{t.size(0), t.size(1), false, t, weight.scale.contiguous(), {}, 0};
  if (weight.scale_neg.defined()) codes.scale_neg = weight.scale_neg.contiguous();
  if (s.spec.granularity == ternary::Granularity::kGroup) {
    codes.scale = weight.scale.to(at::kHalf).t().contiguous();
    codes.group = s.spec.group;
  }
  if (!is_ternary(s.spec.method) || (window && window->groups > 1)) return codes;
  codes.is_mma = codes.are_new = true;
  codes.values = at::empty({kernels::mma_bytes(codes.rows, codes.depth)}, t.options().dtype(at::kByte));
  check(plugin()->pack_ternary(t.const_data_ptr<int8_t>(), codes.rows, codes.depth, codes.values.mutable_data_ptr<uint8_t>(),
                               stream_of(t)));
  return codes;
}

std::shared_ptr<const LayerCodes> kept_codes(const Settings& s, const at::Tensor& weight, at::TensorList learned,
                                             const std::function<QuantizedWeight()>& encode) {
  std::vector<at::Tensor> sources{weight};
  sources.insert(sources.end(), learned.begin(), learned.end());
  const auto& window = s.product.window;
  const auto make = [&] { return std::make_shared<LayerCodes>(layer_codes(s, encode())); };
  if (is_capturing(weight) || !device_codes().latent.keeps(sources)) return make();
  auto codes = device_codes().latent.get(sources, {s.spec, window ? &*window : nullptr}, [&] {
    auto made = make();
    settle(*made);
    return made;
  });
  lend(*codes);
  return codes;
}

void forget_codes(const at::Tensor& weight) { device_codes().latent.forget(weight); }

void product(const LayerCodes& l, const OptionalTensor& bias, const at::Tensor& x, const at::Tensor& a,
             const kernels::ConvGeometry* g, const at::Tensor& y) {
  const c10::DeviceGuard guard(y.device());
  const Weights w(l, bias, y);
  void* stream = stream_of(y);
  if (!a.defined()) return multiply_floats(w, x, g, stream);
  if (g != nullptr) return convolve(w, x, a, *g, stream);
  multiply(w, padded(x, x.size(0), w.stride(l.depth)), floats_of(a), 0, stream);
}

void embedding(const TernaryLayer& l, const at::Tensor& indices, int64_t depth, const at::Tensor& y) {
  const c10::DeviceGuard guard(y.device());
  const Weights table(codes_of(l, {depth, 1}), {}, y);
  const at::Tensor places = indices.contiguous(), failed = at::empty({1}, y.options().dtype(at::kInt));
  y.fill_(std::numeric_limits<float>::quiet_NaN());
  const kernels::CudaEmbedding args{table.is_mma ? kernels::CudaTable::kTernary : kernels::CudaTable::kInt8,
                                    table.args,
                                    places.const_data_ptr<int64_t>(),
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
