// Layers with weights, products, norms, attention.
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include <ATen/ops/_upsample_nearest_exact2d.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/where.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"
#include "bitlab/ops/padding.h"

namespace bitlab::deploy {
namespace {

// An argument that may be left out, as a constant or computed.
Result<ValueId> optional_of(Lowering& lowering, const Call& call, const std::string& argument) {
  const at::Tensor tensor = call.tensor(argument);
  return lowering.is_activation(tensor) ? lowering.value_of(call, tensor) : lowering.floats(call, argument);
}
// x scaled by a weight and moved by a bias, either of which may be left out.
Result<ValueId> with_affine(Lowering& lowering, ValueId x, ValueId weight, ValueId bias) {
  if (weight != program::kNone) {
    BITLAB_TRY(x, lowering.node(Op::mul, {x, weight}));
  }
  return bias == program::kNone ? Result<ValueId>(x) : lowering.node(Op::add, {x, bias});
}

// [n, t, d] as [n, 1, t, d], and [n, windows, heads, t, d] as [n windows, heads, t, d]
Result<ValueId> with_heads(Lowering& lowering, ValueId x) {
  program::Shape shape = lowering.shape(x);
  if (shape.size() == 3) shape.insert(shape.begin() + 1, 1);
  while (shape.size() > 4) {
    shape[1] = shape[0] * shape[1];
    shape.erase(shape.begin());
  }
  return lowering.reshape(x, shape);
}

// Rows of a table, as int64; LibTorch takes int32, too.
Result<ValueId> indices_of(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId indices, lowering.activation(call, "indices"));
  return lowering.cast(indices, at::kLong);
}

at::Tensor as_added(const at::Tensor& mask) {
  if (mask.scalar_type() != at::kBool) return mask;
  const auto options = at::TensorOptions().dtype(at::kFloat);
  return at::where(mask, at::full({1}, 0, options), at::full({1}, -std::numeric_limits<float>::infinity(), options));
}

// A constant mask as what is added, since masks of bool have no form in C; but of bool where it hides all keys from a query: constants are finite, and large
// numbers alone would hide none of them.
at::Tensor as_constant(const at::Tensor& mask) {
  const at::Tensor added = as_added(mask), hidden = at::isneginf(added);
  const bool only_hides = at::logical_or(hidden, added.eq(0)).all().item<bool>();
  return only_hides && hidden.all(-1).any().item<bool>() ? hidden.logical_not() : added;
}

// Whether a constant mask lets every query see the keys up to it, as `is_causal` does.
bool is_causal_mask(const at::Tensor& mask) {
  if (mask.dim() < 2 || mask.size(-2) != mask.size(-1) || mask.size(-1) < 2 || mask.numel() != mask.size(-1) * mask.size(-1))
    return false;
  const at::Tensor square = mask.reshape({mask.size(-2), mask.size(-1)});
  return at::equal(as_added(square), as_added(at::ones_like(square, at::kBool).tril()));
}

struct Mask {
  ValueId value = program::kNone;  // bool, or added to scores
  bool causal = false;
};

Result<Mask> mask_of(Lowering& lowering, const Call& call) {
  Mask mask{program::kNone, call.argument("is_causal").toBool()};
  if (!given(call, "attn_mask")) return mask;
  const at::Tensor &tensor = call.argument("attn_mask").toTensor(), &twin = lowering.twin().argument("attn_mask").toTensor();
  if (lowering.is_activation(tensor)) {
    BITLAB_TRY(mask.value, lowering.activation(call, "attn_mask"));
    return mask;
  }
  if (is_causal_mask(tensor) && is_causal_mask(twin)) return Mask{program::kNone, true};
  BITLAB_TRY(mask.value,
             lowering.constant_of(call, [](const Call& c) { return as_constant(c.argument("attn_mask").toTensor()); }));
  return mask;
}

}  // namespace

Result<ValueId> by_channel(Lowering& lowering, const Call& call, const std::string& argument, size_t spatial) {
  const at::Tensor tensor = call.tensor(argument);
  if (!tensor.defined()) return program::kNone;
  Sizes sizes(spatial + 1, 1);
  sizes[0] = tensor.numel();
  if (!lowering.is_activation(tensor)) return lowering.constant(tensor, tensor.view(sizes));
  BITLAB_TRY(const ValueId value, lowering.value_of(call, tensor));
  return lowering.reshape(value, {sizes.begin(), sizes.end()});
}

Status lower_ternary_linear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  const int64_t depth = call.argument("x").toTensor().size(-1), rows = call.argument("codes").toTensor().size(0);
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, {rows, depth}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  return lowering.lower_to(call, Op::ternary_linear, {x, weight, bias, act_scale},
                           {{"activation", call.argument("activation").toStringRef()}});
}

Status lower_ternary_recurrent(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  const int64_t rows = call.argument("codes").toTensor().size(0), hidden = output_of(call).size(-1);
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, {rows, hidden}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  std::array<ValueId, 2> begin{program::kNone, program::kNone};
  for (size_t i = 0; i < 2; ++i) {
    const char* argument = i == 0 ? "h0" : "c0";
    if (!given(call, argument)) continue;
    BITLAB_TRY(begin[i], lowering.operand(call, argument));
  }
  BITLAB_TRY(const std::vector<ValueId> states,
             lowering.nodes(Op::ternary_recurrent, {x, weight, bias, act_scale, begin[0], begin[1]},
                            {{"cell", call.argument("cell").toStringRef()},
                             {"activation", call.argument("activation").toStringRef()},
                             {"reverse", int64_t{call.argument("reverse").toBool()}}}));
  for (size_t i = 0; i < call.outputs.size(); ++i) {  // a GRU has no c
    const at::Tensor& output = call.outputs[i].toTensor();
    if (i >= states.size()) {
      lowering.lose(output);
      continue;
    }
    BITLAB_RETURN_IF_ERROR(lowering.finish(call, states[i], output));
  }
  return {};
}

Status lower_ternary_embedding(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId indices, indices_of(lowering, call));
  BITLAB_TRY(const ValueId weight,
             lowering.ternary(call, {call.argument("codes").toTensor().size(0), call.argument("depth").toInt()}));
  return lowering.lower_to(call, Op::ternary_embedding, {indices, weight});
}

Status lower_t(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  if (lowering.shape(x).size() < 2) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", Sizes{1, 0}}});
}

namespace {

// Whether a factor is a constant matrix, whatever the sizes of symbols.
bool is_matrix(Lowering& lowering, const Call& call, const std::string& argument) {
  const at::Tensor &matrix = call.argument(argument).toTensor(), &twin = lowering.twin().argument(argument).toTensor();
  return !lowering.is_activation(matrix) && matrix.dim() == 2 && matrix.sizes() == twin.sizes() &&
         (matrix.is_same(twin) || at::equal(matrix, twin));
}

// The constant that a layer would store as its weight [N, K]: the parameter whose transpose is multiplied by, or the transpose.
ValueId weight_of(Lowering& lowering, const at::Tensor& factor) {
  if (const at::Tensor weight = lowering.transposed(factor); weight.defined()) return lowering.constant(weight);
  const at::Tensor weight = factor.t().contiguous();
  lowering.derive(weight, factor);
  return lowering.constant(weight);
}

Result<ValueId> transposed(Lowering& lowering, ValueId x) {
  Sizes order = counted(lowering.shape(x).size());
  std::swap(order[order.size() - 2], order[order.size() - 1]);
  return lowering.node(Op::permute, {x}, {{"dims", order}});
}

// Of two factors, [..., m, k] and [..., k, n]: with the sizes in front that both broadcast to, which the runtime's product wants to be the same.
Result<ValueId> with_batch(Lowering& lowering, ValueId x, const program::Shape& batch) {
  const program::Shape shape = lowering.shape(x);
  program::Shape target = batch;
  target.insert(target.end(), shape.end() - 2, shape.end());
  return expanded(lowering, x, target);
}

// The sizes in front of two factors, broadcast; those of the longer one where they do not fit, which the product then refuses.
program::Shape common_batch(const program::Shape& a, const program::Shape& b) {
  program::Shape batch(std::max(a.size(), b.size()) - 2, 1);
  for (const program::Shape* shape : {&b, &a})
    for (size_t i = 2; i < shape->size(); ++i)
      if (const program::Dim& dim = (*shape)[shape->size() - 1 - i]; dim != program::Dim(1))
        batch[batch.size() + 1 - i] = dim;
  return batch;
}

}  // namespace

Result<ValueId> multiplied(Lowering& lowering, ValueId a, ValueId b) {
  const program::Shape batch = common_batch(lowering.shape(a), lowering.shape(b));
  BITLAB_TRY(a, with_batch(lowering, a, batch));
  if (lowering.shape(b).size() > 2) {
    BITLAB_TRY(b, with_batch(lowering, b, batch));
  }
  return lowering.node(Op::matmul, {a, b});
}

namespace {

// The product of two arguments, of which one may be a constant in any orientation, with a layer's bias or without.
Result<ValueId> product(Lowering& lowering, const Call& call, const std::string& first, const std::string& second,
                        ValueId bias = program::kNone) {
  const at::Tensor &left = call.argument(first).toTensor(), &right = call.argument(second).toTensor();
  if (is_matrix(lowering, call, second) && left.dim() > 1) {
    BITLAB_TRY(const ValueId x, lowering.activation(call, first));
    return lowering.node(Op::linear, {x, weight_of(lowering, right), bias});
  }
  if (is_matrix(lowering, call, first) && right.dim() > 1) {  // (A B)^T = B^T A^T
    BITLAB_TRY(ValueId x, lowering.activation(call, second));
    BITLAB_TRY(x, transposed(lowering, x));
    BITLAB_TRY(x, lowering.node(Op::linear, {x, lowering.constant(left)}));
    return transposed(lowering, x);
  }
  BITLAB_TRY(ValueId a, lowering.operand(call, first));
  BITLAB_TRY(ValueId b, lowering.operand(call, second));
  if (left.dim() == 1) {
    BITLAB_TRY(a, lowering.reshape(a, {1, lowering.shape(a)[0]}));
  }
  if (right.dim() == 1) {
    BITLAB_TRY(b, lowering.reshape(b, {lowering.shape(b)[0], 1}));
  }
  return multiplied(lowering, a, b);
}

// beta self + alpha product
Status add_product(Lowering& lowering, const Call& call, const char* first, const char* second) {
  const double alpha = call.argument("alpha").toScalar().toDouble(), beta = call.argument("beta").toScalar().toDouble();
  const at::Tensor& self = call.argument("self").toTensor();
  const bool is_layer = alpha == 1 && beta == 1 && self.dim() == 1 && !lowering.is_activation(self) &&
                        is_matrix(lowering, call, second) && self.size(0) == call.argument(second).toTensor().size(1);
  if (is_layer) {
    BITLAB_TRY(const ValueId bias, lowering.floats(call, "self"));
    BITLAB_TRY(const ValueId y, product(lowering, call, first, second, bias));
    lowering.belongs_to_call();
    return lowering.finish(call, y);
  }
  BITLAB_TRY(ValueId y, product(lowering, call, first, second));
  BITLAB_TRY(y, scaled(lowering, y, alpha));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  if (beta == 0) return lowering.finish(call, y);
  ValueId added = program::kNone;
  if (lowering.is_activation(self)) {
    BITLAB_TRY(added, lowering.activation(call, "self"));
    BITLAB_TRY(added, scaled(lowering, added, beta));
  } else {
    BITLAB_TRY(added, lowering.constant_of(call, [&](const Call& c) {
      const at::Tensor of_call = c.argument("self").toTensor();
      return beta == 1 ? of_call : of_call * beta;
    }));
  }
  return lowering.lower_to(call, Op::add, {added, y});
}

}  // namespace

// x W^T and a bias, each constant or computed.
Status lower_linear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand(call, "input"));
  BITLAB_TRY(x, with_rank(lowering, x, 2));
  BITLAB_TRY(const ValueId bias, optional_of(lowering, call, "bias"));
  const at::Tensor& weight = call.argument("weight").toTensor();
  const bool adds = lowering.is_activation(call.tensor("bias"));
  ValueId y = program::kNone;
  if (!lowering.is_activation(weight) && weight.dim() == 2) {
    if (!adds) return lowering.lower_to(call, Op::linear, {x, lowering.constant(weight), bias});
    BITLAB_TRY(y, lowering.node(Op::linear, {x, lowering.constant(weight)}));
  } else {
    BITLAB_TRY(ValueId w, lowering.operand(call, "weight"));
    BITLAB_TRY(w, with_rank(lowering, w, 2));
    BITLAB_TRY(w, transposed(lowering, w));
    BITLAB_TRY(y, lowering.node(Op::matmul, {x, w}));
  }
  BITLAB_TRY(y, with_affine(lowering, y, program::kNone, bias));
  return lowering.finish(call, y);
}

// The sum of the products of two vectors.
Status lower_dot(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId a, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.operand(call, call.op == "aten::dot" ? "tensor" : "other"));
  BITLAB_TRY(ValueId y, lowering.node(Op::mul, {a, b}));
  BITLAB_TRY(y, with_rank(lowering, y, 2));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  return lowering.finish(call, y);
}

// torch::nn::Linear of rank 2 is addmm(bias, x, weight.t()).
Status lower_addmm(Lowering& lowering, const Call& call) { return add_product(lowering, call, "mat1", "mat2"); }
Status lower_addmv(Lowering& lowering, const Call& call) { return add_product(lowering, call, "mat", "vec"); }
Status lower_baddbmm(Lowering& lowering, const Call& call) { return add_product(lowering, call, "batch1", "batch2"); }

// torch::nn::Linear of other ranks is matmul(x, weight.t()), and add_.
Status lower_matmul(Lowering& lowering, const Call& call) {
  if (output_of(call).is_complex()) return lower_complex_matmul(lowering, call);
  const char* second = call.op == "aten::matmul" ? "other" : call.op == "aten::mv" ? "vec" : "mat2";
  BITLAB_TRY(ValueId y, product(lowering, call, "self", second));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  if (lowering.shape(y) == shape) lowering.belongs_to_call();
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

// Rows of a table, constant or computed.
Status lower_embedding(Lowering& lowering, const Call& call) {
  if (lowering.is_activation(call.tensor("weight"))) {
    BITLAB_TRY(const ValueId table, lowering.activation(call, "weight"));
    BITLAB_TRY(const ValueId rows, lowering.operand_as(call, "indices", at::kLong));
    return lowering.lower_to(call, Op::take, {table, rows}, {{"dim", int64_t{0}}});
  }
  BITLAB_TRY(const ValueId indices, indices_of(lowering, call));
  BITLAB_TRY(const ValueId weight, lowering.floats(call, "weight"));
  return lowering.lower_to(call, Op::embedding, {indices, weight});
}

// sum over i, j of input1[i] weight[o, i, j] input2[j], and the bias: torch.nn.Bilinear.
Status lower_bilinear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "input1"));
  BITLAB_TRY(ValueId y, lowering.operand(call, "input2"));
  const at::Tensor& source = call.argument("weight").toTensor();
  if (lowering.is_activation(source)) return unsupported(call, "a constant weight", "a computed one");
  const at::Tensor weight = source.permute({0, 2, 1}).reshape({-1, source.size(1)}).contiguous();  // [o j, i]
  lowering.derive(weight, source);
  BITLAB_TRY(x, lowering.node(Op::linear, {x, lowering.constant(weight)}));
  program::Shape shape = lowering.shape(x), with_1 = lowering.shape(y);
  shape.back() = source.size(0);
  shape.emplace_back(source.size(2));
  with_1.insert(with_1.end() - 1, 1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  BITLAB_TRY(y, lowering.reshape(y, with_1));
  BITLAB_TRY(x, lowering.node(Op::mul, {x, y}));
  BITLAB_TRY(x, lowering.node(Op::sum, {x}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  return bias == program::kNone ? lowering.finish(call, x) : lowering.lower_to(call, Op::add, {x, bias});
}

namespace {

// What a BatchNorm in eval does to each channel, as constants; nothing where it changes no value: x * 1 + -0 is x, a zero's sign included.
struct FloatAffine {
  at::Tensor scale, shift;
};
std::optional<FloatAffine> affine_of(Lowering& lowering, const Call& call) {
  const at::Tensor weight = call.tensor("weight"), bias = call.tensor("bias"), mean = call.tensor("running_mean");
  const auto [alpha, beta] = ops::batch_norm_affine(ops::optional(weight), ops::optional(bias), mean,
                                                    call.tensor("running_var"), call.argument("eps").toDouble());
  FloatAffine affine{alpha.to(at::kFloat), beta.to(at::kFloat)};
  if (affine.scale.eq(1).all().item<bool>() && affine.shift.eq(0).logical_and(affine.shift.signbit()).all().item<bool>())
    return std::nullopt;
  lowering.derive(affine.scale, weight.defined() ? weight : mean);
  lowering.derive(affine.shift, bias.defined() ? bias : mean);
  return affine;
}

}  // namespace

// bitlab::batch_norm computes the node's product and sum itself; LibTorch's own orders them in another way.
Status lower_affine(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  lose_from(lowering, call, 1);
  const auto affine = affine_of(lowering, call);
  if (!affine) return lowering.finish(call, x);
  BITLAB_RETURN_IF_ERROR(
      lowering.lower_to(call, Op::batch_norm, {x, lowering.constant(affine->scale), lowering.constant(affine->shift)}));
  if (call.op == "bitlab::batch_norm") lowering.set_exactness(program::Exactness::kIeeeExact);
  return {};
}

Status lower_batch_norm(Lowering& lowering, const Call& call) {
  if (call.argument("training").toBool() || !call.tensor("running_mean").defined())
    return unsupported(call, "a BatchNorm in eval with running statistics",
                       call.argument("training").toBool() ? "one in training" : "one without running statistics");
  return lower_affine(lowering, call);
}

namespace {

// A norm of the last dimensions, whose weight and bias may be computed: then they are nodes of their own.
Status norm(Lowering& lowering, const Call& call, Op op, double eps) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "input"));
  BITLAB_TRY(x, with_rank(lowering, x, 2));
  const bool has_bias = op == Op::layer_norm;
  BITLAB_TRY(const ValueId weight, optional_of(lowering, call, "weight"));
  BITLAB_TRY(const ValueId bias, has_bias ? optional_of(lowering, call, "bias") : Result<ValueId>(program::kNone));
  const auto dims = static_cast<int64_t>(call.argument("normalized_shape").toIntVector().size());
  const program::Attributes attributes{{"dims", dims}, {"eps", eps}};
  lose_from(lowering, call, 1);  // of a native form: statistics
  if (!lowering.is_activation(call.tensor("weight")) && !(has_bias && lowering.is_activation(call.tensor("bias"))))
    return lowering.lower_to(call, op, has_bias ? std::vector{x, weight, bias} : std::vector{x, weight}, attributes);
  BITLAB_TRY(ValueId y, lowering.node(op, {x}, attributes));
  BITLAB_TRY(y, with_affine(lowering, y, weight, bias));
  return lowering.finish(call, y);
}

}  // namespace

Status lower_layer_norm(Lowering& lowering, const Call& call) {
  return norm(lowering, call, Op::layer_norm, call.argument("eps").toDouble());
}

Status lower_rms_norm(Lowering& lowering, const Call& call) {
  return norm(lowering, call, Op::rms_norm,
              given(call, "eps") ? call.argument("eps").toDouble() : double{std::numeric_limits<float>::epsilon()});
}

namespace {

// The last dimension with mean 0 and variance 1.
Result<ValueId> normalized(Lowering& lowering, ValueId x, double eps) {
  if (lowering.shape(x).back().is_number()) return lowering.node(Op::layer_norm, {x}, {{"dims", int64_t{1}}, {"eps", eps}});
  program::Shape ones = lowering.shape(x);
  ones.back() = 1;
  BITLAB_TRY(ValueId mean, lowering.node(Op::mean, {x}));
  BITLAB_TRY(mean, lowering.reshape(mean, ones));
  BITLAB_TRY(x, lowering.node(Op::sub, {x, mean}));
  BITLAB_TRY(ValueId y, lowering.node(Op::mul, {x, x}));
  BITLAB_TRY(y, lowering.node(Op::mean, {y}));
  BITLAB_TRY(y, with_number(lowering, Op::add, y, eps));
  BITLAB_TRY(y, lowering.node(Op::rsqrt, {y}));
  BITLAB_TRY(y, lowering.reshape(y, ones));
  return lowering.node(Op::mul, {x, y});
}

// A layer norm of each group, then the affine by channel.
Status group_norm(Lowering& lowering, const Call& call, int64_t groups) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  const program::Shape shape = lowering.shape(x);
  const program::Dim values = program::volume({shape.begin() + 1, shape.end()});
  const std::optional<program::Dim> each = divided(values, groups);
  if (!each || uses(values, 0)) return unsupported(call, "groups of equal sizes", lowering.show(shape));
  BITLAB_TRY(ValueId y, lowering.reshape(x, {shape[0], groups, *each}));
  BITLAB_TRY(y, normalized(lowering, y, call.argument("eps").toDouble()));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  BITLAB_TRY(const ValueId weight, by_channel(lowering, call, "weight", shape.size() - 2));
  BITLAB_TRY(const ValueId bias, by_channel(lowering, call, "bias", shape.size() - 2));
  BITLAB_TRY(y, with_affine(lowering, y, weight, bias));
  lose_from(lowering, call, 1);
  return lowering.finish(call, y);
}

}  // namespace

Status lower_group_norm(Lowering& lowering, const Call& call) {
  return group_norm(lowering, call, call.argument(call.op == "aten::group_norm" ? "num_groups" : "group").toInt());
}

// With running statistics it is a BatchNorm in eval; else each channel of a sample is a group.
Status lower_instance_norm(Lowering& lowering, const Call& call) {
  if (!call.argument("use_input_stats").toBool()) return lower_affine(lowering, call);
  return group_norm(lowering, call, call.argument("input").toTensor().size(1));
}

Status lower_rotary(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  BITLAB_TRY(const ValueId at, lowering.positions(call, [](const Call& c) { return c.argument("positions").toTensor(); }));
  return lowering.lower_to(call, Op::rotary, {x, at}, {{"theta", call.argument("theta").toDouble()}});
}

Status lower_attention(Lowering& lowering, const Call& call) {
  if (call.argument("dropout_p").toDouble() != 0)
    return unsupported(call, "dropout_p 0 in eval", fmt::format("{}", call.argument("dropout_p").toDouble()));
  ValueId inputs[3];
  size_t i = 0;
  for (const char* name : {"query", "key", "value"}) {
    BITLAB_TRY(const ValueId x, lowering.activation(call, name));
    BITLAB_TRY(inputs[i++], with_heads(lowering, x));
  }
  BITLAB_TRY(const Mask mask, mask_of(lowering, call));
  const at::Tensor& query = call.argument("query").toTensor();
  if (query.dim() > 4 && mask.value != program::kNone)
    return unsupported(call, "a mask of queries of rank 3 or 4", describe(call.argument("query")));
  ValueId hidden = mask.value;
  if (query.dim() == 3 && hidden != program::kNone && lowering.shape(hidden).size() == 3) {
    program::Shape with_head = lowering.shape(hidden);
    with_head.insert(with_head.begin() + 1, 1);
    BITLAB_TRY(hidden, lowering.reshape(hidden, with_head));
  }
  const double scale =
      given(call, "scale") ? call.argument("scale").toDouble() : 1 / std::sqrt(static_cast<double>(query.size(-1)));
  BITLAB_TRY(ValueId y, lowering.node(Op::attention, {inputs[0], inputs[1], inputs[2], hidden},
                                      {{"causal", int64_t{mask.causal}}, {"scale", scale}}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
