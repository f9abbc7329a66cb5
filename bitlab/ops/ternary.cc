// ternary_linear, ternary_conv and ternary_embedding: the operators of evaluation, on the kernels that the runtime uses.
#include <map>

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/kernels/recurrent/recurrent.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/cpu.h"
#include "bitlab/ops/internal/cuda.h"
#include "bitlab/ops/internal/encode.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/recurrent.h"
#include "bitlab/ops/internal/spec_cache.h"
#include "bitlab/ops/internal/torch_pool.h"
#include "bitlab/ops/internal/traced.h"
#include "bitlab/ops/optional.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::ops {
namespace {

// Codes that are packed for one call alone take about as long as the float product of so many tokens.
constexpr int64_t kFewTokens = 48;

// Weights kept in int8 come as they are.
bool has_int8(const at::Tensor& codes) { return codes.scalar_type() == at::kChar; }

struct TernaryOperands {
  const char* op;
  const at::Tensor &x, &codes, &scale;
  const OptionalTensor &scale_neg, &bias, &act_scale;
  ternary::ActKind kind;
  int64_t group;

  void check() const {
    require(codes.dim() == 2 && codes.sym_size(0) >= 1, ErrorCode::kShapeMismatch,
            "[{}] codes [N, ceil(K / 4)] of one row or more, got {}", op, show(codes));
    const c10::SymInt rows = codes.sym_size(0);
    require_float32(op, "x", x);
    require_device(op, "codes", codes, x.device());
    require_device(op, "scale", scale, x.device());
    if (given(scale_neg)) require_device(op, "scale_neg", *scale_neg, x.device());
    if (given(bias)) require_device(op, "bias", *bias, x.device());
    if (group != 0) {
      require(scale.scalar_type() == at::kHalf && scale.dim() == 2 && scale.sym_size(0) == rows && !given(scale_neg),
              ErrorCode::kShapeMismatch, "[{}] a float16 scale [N, groups] alone, got {} {}", op,
              c10::toString(scale.scalar_type()), show(scale));
    } else {
      check_scale("scale", scale, rows);
      if (given(scale_neg)) {
        check_scale("scale_neg", *scale_neg, rows);
        require(scale_neg->sym_size(0) == scale.sym_size(0), ErrorCode::kShapeMismatch,
                "[{}] scales of one shape, got {} and {}", op, show(scale), show(*scale_neg));
      }
    }
    if (given(bias)) {
      require_float32(op, "bias", *bias);
      require(bias->dim() == 1 && bias->sym_size(0) == rows, ErrorCode::kShapeMismatch, "[{}] a bias [N], got {}", op,
              show(*bias));
    }
    check_act_scale(op, kind, act_scale);
  }

  void check_groups(int64_t depth) const {
    require(group == 0 || scale.size(1) == ceil_div(depth, group), ErrorCode::kShapeMismatch,
            "[{}] a scale for each {} of K = {}, got {}", op, group, depth, show(scale));
  }

 private:
  void check_scale(const char* argument, const at::Tensor& tensor, const c10::SymInt& rows) const {
    require_float32(op, argument, tensor);
    require(tensor.dim() == 1 && (tensor.sym_size(0) == 1 || tensor.sym_size(0) == rows), ErrorCode::kShapeMismatch,
            "[{}] a {} [1] or [N], got {}", op, argument, show(tensor));
  }
};

void check_indices(const char* op, const at::Tensor& indices, const at::Tensor& codes) {
  require_device(op, "indices", indices, codes.device());
  require(indices.scalar_type() == at::kLong, ErrorCode::kTypeMismatch, "[{}] int64, got {} (name=indices)", op,
          c10::toString(indices.scalar_type()));
}

// The operands as kernels read them; keeps contiguous copies alive.
struct Prepared {
  std::shared_ptr<const CachedWeight> cached;
  at::Tensor scale, scale_neg, bias;
  kernels::TernaryWeight weight;
  kernels::LayerActivation activation;

  Prepared(const TernaryOperands& o, WeightUse use) {
    if (o.group != 0) use.group_scale = &o.scale;
    o.check_groups(use.depth);
    take(o, packed_weight(o.op, o.codes, use));
  }
  // Of codes that nobody sees again.
  static Prepared once(const TernaryOperands& o, const WeightUse& use) {
    Prepared p;
    p.take(o, pack_weight(o.op, o.codes, use));
    return p;
  }

 private:
  Prepared() = default;

  void take(const TernaryOperands& o, std::shared_ptr<const CachedWeight> layout) {
    cached = std::move(layout);
    weight.packed = &cached->packed;
    if (o.group != 0) {
      weight.group = o.group;
      weight.group_scale = reinterpret_cast<const uint16_t*>(cached->group_scale.data());
    } else {
      scale = o.scale.contiguous();
      weight.scale = scale.const_data_ptr<float>();
      weight.scale_stride = scale.numel() > 1 ? 1 : 0;
    }
    if (given(o.scale_neg)) weight.scale_neg = (scale_neg = o.scale_neg->contiguous()).const_data_ptr<float>();
    if (given(o.bias)) weight.bias = (bias = o.bias->contiguous()).const_data_ptr<float>();
    activation.kind = o.kind;
    if (given(o.act_scale)) activation.step = checked_step(o.op, *o.act_scale);
  }
};

// The sizes of a convolution, without its input.
struct Window {
  kernels::ConvGeometry g;
  size_t dimensions;

  Window(const char* op, at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
         bool transposed, at::IntArrayRef output_padding, int64_t groups)
      : dimensions(kernel.size()) {
    require(dimensions >= 1 && dimensions <= 3, ErrorCode::kInvalidArgument, "[{}] 1 to 3 sizes of a kernel, got {}", op,
            dimensions);
    constexpr int64_t kMost = 1 << 20;  // sums and products of sizes stay far below 2^63
    const auto take = [&](const char* name, at::IntArrayRef values, int64_t least, kernels::ConvGeometry::Sizes& sizes) {
      const bool valid = values.size() == dimensions &&
                         std::all_of(values.begin(), values.end(), [&](int64_t v) { return v >= least && v <= kMost; });
      require(valid, ErrorCode::kInvalidArgument, "[{}] {} numbers from {} to 2^20, got {} (name={})", op, dimensions, least,
              show(c10::fromIntArrayRefSlow(values)), name);
      std::copy(values.begin(), values.end(), sizes.end() - static_cast<int64_t>(dimensions));
    };
    take("kernel_size", kernel, 1, g.kernel);
    take("stride", stride, 1, g.stride);
    take("padding", padding, 0, g.padding);
    take("dilation", dilation, 1, g.dilation);
    if (!output_padding.empty()) take("output_padding", output_padding, 0, g.output_padding);
    require(groups >= 1, ErrorCode::kInvalidArgument, "[{}] at least one group, got {}", op, groups);
    g.groups = groups;
    g.transposed = transposed;
  }

  // Of x [B, C, sizes...] or [C, sizes...] with N filters.
  c10::SymDimVector output(const char* op, const at::Tensor& x, const c10::SymInt& filters) const {
    const auto spatial = static_cast<int64_t>(dimensions);
    require(x.dim() == spatial + 1 || x.dim() == spatial + 2, ErrorCode::kShapeMismatch,
            "[{}] x [B, C, ...] or [C, ...] with {} sizes, got {}", op, spatial, show(x));
    require(x.sym_size(-spatial - 1) % g.groups == 0 && filters % g.groups == 0, ErrorCode::kShapeMismatch,
            "[{}] channels in {} groups, got {} and {} filters", op, g.groups, show(x), show(filters));
    c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
    shape[shape.size() - dimensions - 1] = filters;
    for (size_t i = 0; i < dimensions; ++i) {
      const size_t d = 3 - dimensions + i;
      c10::SymInt& size = shape[shape.size() - dimensions + i];
      size = g.out(d, size);
      require(size >= 1, ErrorCode::kShapeMismatch, "[{}] an input of at least the kernel's size, got {}", op, show(x));
    }
    return shape;
  }

  kernels::ConvGeometry geometry(const at::Tensor& batch) const {
    kernels::ConvGeometry sized = g;
    sized.batch = batch.size(0);
    sized.channels = batch.size(1);
    for (size_t i = 0; i < dimensions; ++i) sized.input[3 - dimensions + i] = batch.size(2 + static_cast<int64_t>(i));
    return sized;
  }
};

// The layout for the codes of a linear layer, chosen once for each of its sizes in a thread.
kernels::TernaryLayout linear_layout(ternary::ActKind kind, int64_t rows, int64_t depth) {
  thread_local std::map<std::tuple<ternary::ActKind, int64_t, int64_t>, kernels::TernaryLayout> known;
  const std::tuple key{kind, rows, depth};
  if (const auto found = known.find(key); found != known.end()) return found->second;
  return known[key] = kernels::select_ternary_layout(kind, rows, depth, this_machine(), policy()).value();
}

WeightUse linear_use(const at::Tensor& codes, ternary::ActKind kind, int64_t depth) {
  return {.depth = depth,
          .layout = has_int8(codes) ? kernels::TernaryLayout::kInt8 : linear_layout(kind, codes.size(0), depth)};
}

WeightUse conv_use(const at::Tensor& codes, const kernels::TernaryConvWeight& facts, const kernels::ConvGeometry& g) {
  return {.depth = g.depth(),
          .groups = g.groups,
          .layout = has_int8(codes) ? kernels::TernaryLayout::kInt8
                                    : select_ternary_conv_layout(g, facts, this_machine(), policy()).value()};
}

AlignedBuffer scratch_of(int64_t bytes) { return AlignedBuffer::allocate(static_cast<size_t>(bytes)).value(); }

void run_linear(const Prepared& p, const kernels::LayerInput& input, const at::Tensor& y) {
  const int64_t tokens = y.numel() / p.weight.packed->rows;
  if (tokens == 0) return;
  TorchPool pool;
  const ternary::ActKind kind = p.activation.kind;
  const kernels::TernaryGemmProblem problem = p.weight.problem(tokens);
  const auto chosen = p.cached->kernels_for(kind, problem, [&] {
    return select_ternary(kind, problem, p.weight.packed->layout, this_machine(), policy()).value();
  });
  auto scratch = scratch_of(ternary_linear_scratch_bytes(chosen, p.weight, tokens, pool.threads()));
  kernels::ternary_linear(chosen, p.weight, input, tokens, y.mutable_data_ptr<float>(), scratch.data(), pool).value();
}

// Kernels write the channels of y [..., N, sizes...] last: in its own memory where they lie so there, or beside it.
struct LastChannels {
  at::Tensor last, written;

  LastChannels(const at::Tensor& y, int64_t dimensions) : last(y.movedim(-1 - dimensions, -1)) {
    written = last.is_contiguous() ? last : at::empty_like(last, at::MemoryFormat::Contiguous);
  }
  void finish() const {
    if (!written.is_same(last)) last.copy_(written);
  }
};

// y [B, N, sizes...] or [N, sizes...], in any order of memory.
void run_conv(const Prepared& p, const kernels::TernaryConvWeight& facts, const kernels::ConvGeometry& g,
              const kernels::LayerInput& input, int64_t dimensions, const at::Tensor& y) {
  TorchPool pool;
  const auto chosen = p.cached->kernels_for(facts.activation, ternary_conv_problem(g, facts), [&] {
    return select_ternary_conv(g, facts, p.weight.packed->layout, this_machine(), policy()).value();
  });
  auto scratch = scratch_of(ternary_conv_scratch_bytes(chosen, p.weight, g, pool.threads()));
  const LastChannels results(y, dimensions);
  kernels::TernaryGemmArgs written;
  written.y = results.written.mutable_data_ptr<float>();
  kernels::ternary_conv(chosen, p.weight, g, input, written, scratch.data(), pool).value();
  results.finish();
}

// Of a matrix of integers: codes, but of weights kept in int8 these.
at::Tensor codes_of_matrix(const at::Tensor& t, ternary::Method method) { return is_ternary(method) ? cpu::codes_of(t) : t; }

// What contract() hands to kernels: codes that are packed for this call alone, and the scales of activations that are quantized already.
struct Contract {
  at::Tensor a, codes;
  OptionalTensor scale_neg;
  kernels::LayerInput input;

  Contract(const Settings& s, const Operands& o)
      : a(o.a.contiguous()),
        codes(codes_of_matrix(s.product.layout(o.weight.t).to_matrix(o.weight.t), s.spec.method)),
        scale_neg(optional(o.weight.scale_neg)),
        input{.op = s.product.op(), .a = a.const_data_ptr<float>(), .a_stride = a.numel() == 1 ? 0 : 1} {}

  Prepared prepared(const Settings& s, const Operands& o, const OptionalTensor& bias, const WeightUse& use) const {
    const OptionalTensor no_step;
    return Prepared::once({s.product.op(), a, codes, o.weight.scale, scale_neg, bias, no_step, s.activation, 0}, use);
  }
};

std::optional<at::Tensor> contract_linear(const Settings& s, const Operands& o, const OptionalTensor& bias) {
  const int64_t depth = o.q.size(-1), stride = kernels::ternary_linear_q_stride(depth);
  if (o.q.numel() / depth < kFewTokens) return {};
  Contract c(s, o);
  const at::Tensor q = (stride == depth ? o.q : at::constant_pad_nd(o.q, {0, stride - depth})).contiguous();
  c10::DimVector shape(o.q.sizes());
  shape.back() = o.weight.t.size(0);
  const at::Tensor y = at::empty(shape, c.a.options());
  c.input.q = q.const_data_ptr<int8_t>();
  run_linear(c.prepared(s, o, bias, linear_use(c.codes, s.activation, depth)), c.input, y);
  return y;
}

std::optional<at::Tensor> contract_conv(const Settings& s, const Operands& o, const OptionalTensor& bias) {
  const char* op = s.product.op();
  const ConvWindow& w = *s.product.window;
  const Window window(op, o.weight.t.sizes().slice(2), w.stride, w.padding, w.dilation, w.transposed, w.output_padding,
                      w.groups);
  const int64_t filters = known(s.product.layout(o.weight.t).rows());
  const at::Tensor y = at::empty_symint(window.output(op, o.q, filters), o.a.options(), conv_format(o.x, w.stride.size()));
  if (y.numel() / filters < kFewTokens) return {};
  Contract c(s, o);
  const kernels::ConvGeometry g = window.geometry(o.q);
  const kernels::TernaryConvWeight facts{filters, 0, o.weight.scale_neg.defined(), s.activation};
  const at::Tensor q = o.q.movedim(1, -1).contiguous();
  c.input.q = q.const_data_ptr<int8_t>();
  run_conv(c.prepared(s, o, bias, conv_use(c.codes, facts, g)), facts, g, c.input, s.product.trailing(), y);
  return y;
}

}  // namespace

namespace cpu {

at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                          const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                          std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_linear";
  const at::Tensor y = meta::ternary_linear(x, codes, scale, scale_neg, bias, act_scale, activation, group);
  const ternary::ActKind kind = ternary::parse_act_kind(activation).value();
  const Prepared p({kOp, x, codes, scale, scale_neg, bias, act_scale, kind, group}, linear_use(codes, kind, x.size(-1)));
  const at::Tensor plain = x.contiguous();
  run_linear(p, {.op = kOp, .x = plain.const_data_ptr<float>(), .activation = p.activation}, y);
  return y;
}

at::Tensor ternary_conv(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                        const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                        at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                        at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
                        std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_conv";
  const at::Tensor y = meta::ternary_conv(x, codes, scale, scale_neg, bias, act_scale, kernel_size, stride, padding,
                                          dilation, transposed, output_padding, groups, activation, group);
  const Window window(kOp, kernel_size, stride, padding, dilation, transposed, output_padding, groups);
  const bool batched = x.dim() == static_cast<int64_t>(window.dimensions) + 2;
  const kernels::ConvGeometry g = window.geometry(batched ? x : x.unsqueeze(0));
  const kernels::TernaryConvWeight facts{codes.size(0), group, given(scale_neg),
                                         ternary::parse_act_kind(activation).value()};
  const Prepared p({kOp, x, codes, scale, scale_neg, bias, act_scale, facts.activation, group}, conv_use(codes, facts, g));
  if (y.numel() == 0) return y;
  const at::Tensor plain = (batched ? x : x.unsqueeze(0)).movedim(1, -1).contiguous();
  run_conv(p, facts, g, {.op = kOp, .x = plain.const_data_ptr<float>(), .activation = p.activation},
           static_cast<int64_t>(window.dimensions), y);
  return y;
}

at::Tensor ternary_embedding(const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& scale_neg,
                             const at::Tensor& indices, int64_t depth, int64_t group) {
  constexpr const char* kOp = "ternary_embedding";
  const at::Tensor y = meta::ternary_embedding(codes, scale, scale_neg, indices, depth, group);
  check_indices(kOp, indices, codes);
  const OptionalTensor none;
  const Prepared p(
      {kOp, y, codes, scale, scale_neg, none, none, ternary::ActKind::kNone, group},
      {.depth = depth, .layout = has_int8(codes) ? kernels::TernaryLayout::kInt8Rows : kernels::TernaryLayout::kRows});
  const at::Tensor halves = group == 0 ? at::Tensor() : scale.contiguous();
  kernels::TernaryTable table{.weights = &p.cached->packed,
                              .scale = p.weight.scale,
                              .scale_stride = p.weight.scale_stride,
                              .scale_neg = p.weight.scale_neg,
                              .group = group};
  if (group != 0) {
    table.group_scale = reinterpret_cast<const uint16_t*>(halves.const_data_ptr<at::Half>());
    table.group_row_stride = halves.size(1), table.group_stride = 1;
  }
  const at::Tensor plain = indices.contiguous();
  TorchPool pool;
  kernels::ternary_embedding(kOp, table, plain.const_data_ptr<int64_t>(), plain.numel(), y.mutable_data_ptr<float>(), pool)
      .value();
  return y;
}

ThreeTensors ternary_recurrent(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                               const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& h0,
                               const OptionalTensor& c0, const OptionalTensor& act_scale, std::string_view cell,
                               bool reverse, std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_recurrent";
  const auto outputs =
      meta::ternary_recurrent(x, codes, scale, scale_neg, bias, h0, c0, act_scale, cell, reverse, activation, group);
  const auto& [y, h_n, c_n] = outputs;
  const ternary::ActKind kind = ternary::parse_act_kind(activation).value();
  kernels::RecurrentArgs args{kernels::parse_recurrent_cell(cell).value(), x.size(0), x.size(1), y.size(2), reverse};
  const auto layout = has_int8(codes) ? kernels::TernaryLayout::kInt8 : linear_layout(kind, codes.size(0), args.hidden);
  const Prepared p({kOp, x, codes, scale, scale_neg, bias, act_scale, kind, group},
                   {.depth = args.hidden, .layout = layout});
  if (y.numel() == 0) return outputs;
  const auto plain = [](const OptionalTensor& tensor) { return given(tensor) ? tensor->contiguous() : at::Tensor(); };
  const at::Tensor gates = x.contiguous(), h = plain(h0), c = plain(c0);
  args.x = gates.const_data_ptr<float>();
  if (h.defined()) args.h0 = h.const_data_ptr<float>();
  if (c.defined()) args.c0 = c.const_data_ptr<float>();
  args.y = y.mutable_data_ptr<float>(), args.h_n = h_n.mutable_data_ptr<float>();
  if (args.cell == kernels::RecurrentCell::kLstm) args.c_n = c_n.mutable_data_ptr<float>();
  const kernels::TernaryGemmProblem problem = p.weight.problem(args.batch);
  const kernels::RecurrentKernels chosen{
      p.cached->kernels_for(kind, problem,
                            [&] { return select_ternary(kind, problem, layout, this_machine(), policy()).value(); }),
      &elementwise_kernel()};
  TorchPool pool;
  auto scratch =
      AlignedBuffer::allocate(static_cast<size_t>(recurrent_scratch_bytes(chosen, p.weight, args, pool.threads()))).value();
  kernels::recurrent(chosen, p.weight, p.activation, args, scratch.data(), pool).value();
  return outputs;
}

std::optional<at::Tensor> contract(const Settings& s, const Operands& o, const OptionalTensor& bias) {
  if (!reaches(c10::DispatchKey::CPU, {o.q, o.weight.t}) || o.q.numel() == 0 || o.weight.t.numel() == 0) return {};
  return s.product.window ? contract_conv(s, o, bias) : contract_linear(s, o, bias);
}

}  // namespace cpu

namespace cuda {
namespace {

// What the plug-in computes with, checked but for what depends on the depth.
TernaryLayer layer_of(const TernaryOperands& o) {
  kernels::cuda_plugin().value();
  require(o.kind != ternary::ActKind::kNone || (o.group == 0 && !given(o.scale_neg)), ErrorCode::kUnsupported,
          "[{}] one scale a tensor or channel where activations stay float, got {}", o.op,
          o.group != 0 ? "groups" : "two scales");
  return {
      o.op,   o.codes, o.scale, o.scale_neg, o.bias, o.kind, given(o.act_scale) ? checked_step(o.op, *o.act_scale) : 0.0F,
      o.group};
}

void check_depth(const TernaryOperands& o, int64_t depth) {
  check_codes(o.op, o.codes,
              {.depth = depth, .layout = has_int8(o.codes) ? kernels::TernaryLayout::kInt8 : kernels::TernaryLayout::kRows});
  o.check_groups(depth);
}

// The sums of nothing, and the bias.
at::Tensor without_depth(const at::Tensor& y, const OptionalTensor& bias, int64_t channel) {
  y.zero_();
  if (given(bias)) y.movedim(channel, -1).add_(*bias);
  return y;
}

}  // namespace

at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                          const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                          std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_linear";
  const at::Tensor y = meta::ternary_linear(x, codes, scale, scale_neg, bias, act_scale, activation, group);
  const TernaryOperands o{kOp,  x, codes, scale, scale_neg, bias, act_scale, ternary::parse_act_kind(activation).value(),
                          group};
  check_depth(o, x.size(-1));
  const TernaryLayer layer = layer_of(o);
  if (y.numel() == 0) return y;
  return x.size(-1) == 0 ? without_depth(y, bias, -1) : linear(layer, x);
}

at::Tensor ternary_conv(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                        const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                        at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                        at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
                        std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_conv";
  const at::Tensor y = meta::ternary_conv(x, codes, scale, scale_neg, bias, act_scale, kernel_size, stride, padding,
                                          dilation, transposed, output_padding, groups, activation, group);
  const Window window(kOp, kernel_size, stride, padding, dilation, transposed, output_padding, groups);
  const TernaryOperands o{kOp,  x, codes, scale, scale_neg, bias, act_scale, ternary::parse_act_kind(activation).value(),
                          group};
  const auto dimensions = static_cast<int64_t>(window.dimensions);
  const at::Tensor batch = x.dim() == dimensions + 2 ? x : x.unsqueeze(0);
  const kernels::ConvGeometry g = window.geometry(batch);
  check_depth(o, g.depth());
  const TernaryLayer layer = layer_of(o);
  if (y.numel() == 0) return y;
  if (g.depth() == 0) return without_depth(y, bias, -1 - dimensions);
  const LastChannels results(y, dimensions);
  conv(layer, g, batch.movedim(1, -1).contiguous(), results.written);
  results.finish();
  return y;
}

at::Tensor ternary_embedding(const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& scale_neg,
                             const at::Tensor& indices, int64_t depth, int64_t group) {
  constexpr const char* kOp = "ternary_embedding";
  const at::Tensor y = meta::ternary_embedding(codes, scale, scale_neg, indices, depth, group);
  check_indices(kOp, indices, codes);
  const OptionalTensor none;
  const TernaryOperands o{kOp, y, codes, scale, scale_neg, none, none, ternary::ActKind::kNone, group};
  check_depth(o, depth);
  kernels::cuda_plugin().value();
  if (y.numel() > 0) embedding({kOp, codes, scale, scale_neg, none, o.kind, 0.0F, group}, indices, depth, y);
  return y;
}

at::Tensor contract(const Settings& s, const LayerCodes& codes, const Operands& o, at::IntArrayRef weight,
                    const OptionalTensor& bias) {
  const at::Tensor x = s.quantizes_x() ? o.q : o.x, a = s.quantizes_x() ? o.a.contiguous() : o.a;
  const auto options = x.options().dtype(s.type);
  if (!s.product.window) {
    c10::DimVector shape(x.sizes());
    shape.back() = codes.rows;
    const at::Tensor y = at::empty(shape, options);
    product(codes, bias, x.reshape({-1, codes.depth}).contiguous(), a, nullptr, y);
    return y;
  }
  const char* op = s.product.op();
  const ConvWindow& w = *s.product.window;
  const Window window(op, weight.slice(2), w.stride, w.padding, w.dilation, w.transposed, w.output_padding, w.groups);
  const at::Tensor y = at::empty_symint(window.output(op, x, codes.rows), options, conv_format(o.x, w.stride.size()));
  const kernels::ConvGeometry g = window.geometry(x);
  const LastChannels results(y, s.product.trailing());
  product(codes, bias, x.movedim(1, -1).contiguous(), a, &g, results.written);
  results.finish();
  return y;
}

}  // namespace cuda

namespace meta {

at::Tensor ternary_embedding(const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& scale_neg,
                             const at::Tensor& indices, int64_t depth, int64_t group) {
  constexpr const char* kOp = "ternary_embedding";
  c10::SymDimVector shape(indices.sym_sizes().begin(), indices.sym_sizes().end());
  shape.push_back(depth);
  const at::Tensor y = at::empty_symint(shape, codes.options().dtype(at::kFloat));
  const OptionalTensor none;
  TernaryOperands{kOp, y, codes, scale, scale_neg, none, none, ternary::ActKind::kNone, group}.check();
  return y;
}

at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                          const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                          std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_linear";
  const ternary::ActKind kind = ternary::parse_act_kind(activation).value();
  require(x.dim() >= 1 && codes.dim() == 2, ErrorCode::kShapeMismatch,
          "[{}] x [..., K] and codes [N, ceil(K / 4)], got {} and {}", kOp, show(x), show(codes));
  TernaryOperands{kOp, x, codes, scale, scale_neg, bias, act_scale, kind, group}.check();
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  shape.back() = codes.sym_size(0);
  return at::empty_symint(shape, x.options());
}

at::Tensor ternary_conv(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                        const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& act_scale,
                        at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                        at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
                        std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_conv";
  const ternary::ActKind kind = ternary::parse_act_kind(activation).value();
  TernaryOperands{kOp, x, codes, scale, scale_neg, bias, act_scale, kind, group}.check();
  const Window window(kOp, kernel_size, stride, padding, dilation, transposed, output_padding, groups);
  return at::empty_symint(window.output(kOp, x, codes.sym_size(0)), x.options(), conv_format(x, kernel_size.size()));
}

// A weight of another shape than its hidden states have is found by the kernels' operands.
ThreeTensors ternary_recurrent(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                               const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& h0,
                               const OptionalTensor& c0, const OptionalTensor& act_scale, std::string_view cell,
                               bool /*reverse*/, std::string_view activation, int64_t group) {
  constexpr const char* kOp = "ternary_recurrent";
  require(codes.dim() == 2, ErrorCode::kShapeMismatch, "[{}] codes [N, ceil(K / 4)], got {}", kOp, show(codes));
  TernaryOperands{kOp, x, codes, scale, scale_neg, bias, act_scale, ternary::parse_act_kind(activation).value(), group}
      .check();
  return recurrent_outputs(kOp, {x, codes.sym_size(0), h0, c0, cell});
}

}  // namespace meta
}  // namespace bitlab::ops
