// quantize_weight, quantize_activation, ternary_pack.
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/round.h>

#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"
#include "bitlab/ops/torch_pool.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/encode.h"

namespace bitlab::ops {
namespace {

// A weight as the matrix [rows, depth] that encoders and kernels read: convolutions with (kh, kw, c), c fastest.
at::Tensor canonical(const char* op, const at::Tensor& weight) {
  require_float32(op, "weight", weight);
  require(weight.dim() == 2 || weight.dim() == 4, ErrorCode::kShapeMismatch,
          "[{}] a weight [N, K] or [N, C, kh, kw], got {}", op, show(weight));
  require(weight.numel() > 0, ErrorCode::kShapeMismatch, "[{}] a weight with values, got {}", op, show(weight));
  if (weight.dim() == 2) return weight.contiguous();
  return weight.permute({0, 2, 3, 1}).contiguous();
}

struct Encoded {
  at::Tensor t;      // int8, the shape of the canonical weight
  at::Tensor scale;  // float32
  int64_t rows, depth;
};

Encoded encode(const char* op, const at::Tensor& weight, const ternary::WeightSpec& spec) {
  const at::Tensor w = canonical(op, weight);
  const int64_t rows = w.size(0), depth = w.numel() / rows;
  require(depth <= ternary::kMaxDepth, ErrorCode::kUnsupported, "[{}] K of at most {}, got {}", op, ternary::kMaxDepth,
          depth);
  Encoded result{at::empty(w.sizes(), w.options().dtype(at::kChar)),
                 at::empty({ternary::scale_count(spec.granularity, rows)}, w.options()), rows, depth};
  ternary::encode(spec, {w.const_data_ptr<float>(), static_cast<size_t>(w.numel())}, rows, depth,
                  {result.t.mutable_data_ptr<int8_t>(), static_cast<size_t>(w.numel())},
                  {result.scale.mutable_data_ptr<float>(), static_cast<size_t>(result.scale.numel())})
      .value();
  return result;
}

// x whose rows are contiguous blocks of memory, in its own memory format where that is so already.
at::Tensor row_blocks(const at::Tensor& x, int64_t start_dim) {
  if (start_dim == 1 && x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) return x;
  return x.contiguous();
}

int64_t wrap_dim(const char* op, const at::Tensor& x, int64_t start_dim) {
  const int64_t dim = start_dim < 0 ? start_dim + x.dim() : start_dim;
  require(dim >= 0 && dim < x.dim(), ErrorCode::kInvalidArgument, "[{}] start_dim in [-{}, {}), got {}", op, x.dim(),
          x.dim(), start_dim);
  return dim;
}

// The shape of x with 1 from `dim` on.
c10::SymDimVector scale_shape(const at::Tensor& x, int64_t dim) {
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  for (auto i = static_cast<size_t>(dim); i < shape.size(); ++i) shape[i] = 1;
  return shape;
}

}  // namespace

namespace cpu {

TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity) {
  Encoded encoded = encode("quantize_weight", weight, parse_spec(method, granularity));
  if (weight.dim() == 4) encoded.t = encoded.t.permute({0, 3, 1, 2}).contiguous(weight.suggest_memory_format());
  return {encoded.t, encoded.scale};
}

TwoTensors ternary_pack(const at::Tensor& weight, std::string_view method, std::string_view granularity) {
  const Encoded encoded = encode("ternary_pack", weight, parse_spec(method, granularity));
  const at::Tensor codes =
      at::empty({encoded.rows, ternary::code_row_bytes(encoded.depth)}, encoded.t.options().dtype(at::kByte));
  ternary::pack_codes({encoded.t.const_data_ptr<int8_t>(), static_cast<size_t>(encoded.t.numel())}, encoded.rows,
                      encoded.depth, {codes.mutable_data_ptr<uint8_t>(), static_cast<size_t>(codes.numel())});
  return {codes, encoded.scale};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation) {
  constexpr const char* kOp = "quantize_activation";
  ternary::parse_act_kind(activation).value();
  require_float32(kOp, "x", x);
  const int64_t dim = wrap_dim(kOp, x, start_dim);
  const at::Tensor blocks = row_blocks(x, dim);
  const at::Tensor q = at::empty_like(blocks, blocks.options().dtype(at::kChar));
  const at::Tensor a = at::empty_symint(scale_shape(x, dim), x.options());
  if (x.numel() == 0) return {q, a.fill_(1.0)};
  const int64_t rows = a.numel(), columns = x.numel() / rows;
  TorchPool pool;
  kernels::activation_quant(activation_quant_kernel(), kOp, blocks.const_data_ptr<float>(), rows, columns, columns,
                            q.mutable_data_ptr<int8_t>(), columns, a.mutable_data_ptr<float>(), pool)
      .value();
  return {q, a};
}

}  // namespace cpu

namespace any_device {

// Encoders sum in float64 in a fixed order; the CPU's result is the definition, so other devices take it from there.
TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity) {
  auto [t, scale] = cpu::quantize_weight(weight.cpu(), method, granularity);
  return {t.to(weight.device()), scale.to(weight.device())};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation) {
  constexpr const char* kOp = "quantize_activation";
  ternary::parse_act_kind(activation).value();
  require_float32(kOp, "x", x);
  const int64_t dim = wrap_dim(kOp, x, start_dim);
  std::vector<int64_t> dims;
  for (int64_t i = dim; i < x.dim(); ++i) dims.push_back(i);
  const at::Tensor inv = at::amax(x.abs(), dims, true).clamp_min_(ternary::kActEpsilon).reciprocal_().mul_(ternary::kActMax);
  at::Tensor q = at::round(x * inv).clamp_(-ternary::kActMax, ternary::kActMax).to(at::kChar);
  return {std::move(q), inv.reciprocal()};
}

}  // namespace any_device

namespace meta {

TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity) {
  const auto spec = parse_spec(method, granularity);
  require(weight.dim() == 2 || weight.dim() == 4, ErrorCode::kShapeMismatch,
          "[quantize_weight] a weight [N, K] or [N, C, kh, kw], got {}", show(weight));
  const c10::SymInt scales = spec.granularity == ternary::Granularity::kTensor ? c10::SymInt(1) : weight.sym_size(0);
  return {at::empty_like(weight, weight.options().dtype(at::kChar)), at::empty_symint({scales}, weight.options())};
}

TwoTensors ternary_pack(const at::Tensor& weight, std::string_view method, std::string_view granularity) {
  auto [t, scale] = meta::quantize_weight(weight, method, granularity);
  const c10::SymInt rows = weight.sym_size(0), bytes = (weight.sym_numel() / rows + 3) / 4;
  return {at::empty_symint({rows, bytes}, weight.options().dtype(at::kByte)), scale};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation) {
  ternary::parse_act_kind(activation).value();
  const int64_t dim = wrap_dim("quantize_activation", x, start_dim);
  return {at::empty_like(x, x.options().dtype(at::kChar)), at::empty_symint(scale_shape(x, dim), x.options())};
}

}  // namespace meta
}  // namespace bitlab::ops
