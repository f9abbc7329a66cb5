// Layers with weights, products, norms, windows.
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

// A list argument of `count` numbers; LibTorch lets one number stand for all, and none for `fallback`.
Sizes sizes_of(const Call& call, const std::string& argument, size_t count, const Sizes& fallback) {
  if (call.argument(argument).isString()) return fallback;  // "valid", or "same", whose numbers stand elsewhere
  Sizes numbers = call.argument(argument).toIntVector();
  if (numbers.empty()) return fallback;
  if (numbers.size() == 1) numbers.resize(count, numbers[0]);
  return numbers;
}

using program::Attributes;

Attributes window(const Call& call, size_t axes) {
  return {{"stride", sizes_of(call, "stride", axes, Sizes(axes, 1))},
          {"padding", sizes_of(call, "padding", axes, Sizes(axes, 0))},
          {"dilation", sizes_of(call, "dilation", axes, Sizes(axes, 1))}};
}

// An image or a volume, as a batch of one where it has none, and its spatial dimensions.
struct Image {
  ValueId x;
  size_t axes;
};
Result<Image> image_of(Lowering& lowering, const Call& call, const std::string& argument, char last) {
  const auto axes = static_cast<size_t>(last - '0');  // of "conv2d"
  BITLAB_TRY(ValueId x, lowering.activation(call, argument));
  program::Shape shape = lowering.shape(x);
  if (shape.size() == axes + 1) {
    shape.insert(shape.begin(), 1);
    BITLAB_TRY(x, lowering.reshape(x, shape));
  }
  if (shape.size() != axes + 2)
    return unsupported(call, fmt::format("rank {} or {}", axes + 1, axes + 2), fmt::format("{}", shape.size()));
  return Image{x, axes};
}

// An argument that may be left out, as a constant or computed.
Result<ValueId> optional_of(Lowering& lowering, const Call& call, const std::string& argument) {
  const at::Tensor tensor = call.tensor(argument);
  return lowering.is_activation(tensor) ? lowering.value_of(call, tensor) : lowering.floats(call, argument);
}
// The same for each channel of [C, spatial...].
Result<ValueId> by_channel(Lowering& lowering, const Call& call, const std::string& argument, size_t spatial) {
  const at::Tensor tensor = call.tensor(argument);
  if (!tensor.defined()) return program::kNone;
  Sizes sizes(spatial + 1, 1);
  sizes[0] = tensor.numel();
  if (!lowering.is_activation(tensor)) return lowering.constant(tensor, tensor.view(sizes));
  BITLAB_TRY(const ValueId value, lowering.value_of(call, tensor));
  return lowering.reshape(value, {sizes.begin(), sizes.end()});
}

// x scaled by a weight and moved by a bias, either of which may be left out.
Result<ValueId> with_affine(Lowering& lowering, ValueId x, ValueId weight, ValueId bias) {
  if (weight != program::kNone) {
    BITLAB_TRY(x, lowering.node(Op::mul, {x, weight}));
  }
  return bias == program::kNone ? Result<ValueId>(x) : lowering.node(Op::add, {x, bias});
}

// The digit in an operator's name: 2 of "aten::conv2d", "aten::conv_transpose2d.input".
char digit_of(const Call& call) { return call.op[call.op.find_first_of("123")]; }

Status float_conv(Lowering& lowering, const Call& call, bool transposed) {
  const at::Tensor& weight = call.argument("weight").toTensor();
  if (lowering.is_activation(weight)) return unsupported(call, "a constant as 'weight'", "an activation");
  const auto digit = static_cast<char>('0' + weight.dim() - 2);
  BITLAB_TRY(Image image, image_of(lowering, call, "input", digit));
  auto& [x, axes] = image;
  const int64_t groups = call.argument("groups").toInt();
  const ops::WeightLayout layout("capture", weight, transposed, groups);
  Sizes shape{layout.rows().expect_int()};
  for (int64_t i = 2; i < weight.dim(); ++i) shape.push_back(weight.size(i));
  shape.push_back(transposed ? weight.size(0) / groups : weight.size(1));
  auto attributes = window(call, axes);
  if (const c10::IValue& padding = call.argument("padding"); padding.isString() && padding.toStringRef() == "same") {
    const auto [both, odd] = ops::same_padding(weight.sizes().slice(2), call.argument("stride").toIntVector(),
                                               call.argument("dilation").toIntVector());
    BITLAB_TRY(x, zeros_around(lowering, call, x, ops::sides(Sizes(axes, 0), odd)));
    attributes["padding"] = both;
  }
  const ValueId w = lowering.constant(weight, layout.to_matrix(weight).view(shape));
  attributes["groups"] = groups;
  attributes["transposed"] = int64_t{transposed};
  attributes["output_padding"] = transposed ? sizes_of(call, "output_padding", axes, Sizes(axes, 0)) : Sizes(axes, 0);
  if (!lowering.is_activation(call.tensor("bias"))) {
    BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
    return lowering.lower_to(call, Op::conv, {x, w, bias}, std::move(attributes));
  }
  BITLAB_TRY(const ValueId bias, by_channel(lowering, call, "bias", axes));
  BITLAB_TRY(const ValueId y, lowering.node(Op::conv, {x, w}, std::move(attributes)));
  return lowering.lower_to(call, Op::add, {y, bias});
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

Status lower_ternary_linear(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "x"));
  const int64_t depth = call.argument("x").toTensor().size(-1), rows = call.argument("codes").toTensor().size(0);
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, {rows, depth}));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  return lowering.lower_to(call, Op::ternary_linear, {x, weight, bias, act_scale},
                           {{"activation", call.argument("activation").toStringRef()}});
}

Status lower_ternary_conv(Lowering& lowering, const Call& call) {
  const Sizes kernel = call.argument("kernel_size").toIntVector();
  const size_t axes = kernel.size();
  const at::Tensor& input = call.argument("x").toTensor();
  const int64_t groups = call.argument("groups").toInt();
  Sizes shape{call.argument("codes").toTensor().size(0)};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  shape.push_back(input.size(-1 - static_cast<int64_t>(axes)) / groups);
  BITLAB_TRY(const Image image, image_of(lowering, call, "x", static_cast<char>('0' + axes)));
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, shape));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  auto attributes = window(call, axes);
  attributes["groups"] = groups;
  attributes["transposed"] = int64_t{call.argument("transposed").toBool()};
  attributes["output_padding"] = sizes_of(call, "output_padding", axes, Sizes(axes, 0));
  attributes["activation"] = call.argument("activation").toStringRef();
  return lowering.lower_to(call, Op::ternary_conv, {image.x, weight, bias, act_scale}, std::move(attributes));
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
  Sizes order(lowering.shape(x).size());
  std::iota(order.begin(), order.end(), int64_t{0});
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
  const program::Shape batch = common_batch(lowering.shape(a), lowering.shape(b));
  if (!lowering.is_activation(left)) {  // what is expanded is computed
    program::Shape shape = batch;
    shape.insert(shape.end(), lowering.shape(a).end() - 2, lowering.shape(a).end());
    BITLAB_TRY(a, lowering.node(Op::expand, {a}, {{"shape", shape}}));
  }
  BITLAB_TRY(a, with_batch(lowering, a, batch));
  if (lowering.shape(b).size() > 2) {
    BITLAB_TRY(b, with_batch(lowering, b, batch));
  }
  return lowering.node(Op::matmul, {a, b});
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
  const auto as_matrix = [&](ValueId value) {
    program::Shape shape = lowering.shape(value);
    if (shape.size() == 1) shape.insert(shape.begin(), 1);
    return lowering.reshape(value, shape);
  };
  BITLAB_TRY(ValueId x, lowering.operand(call, "input"));
  BITLAB_TRY(x, as_matrix(x));
  BITLAB_TRY(const ValueId bias, optional_of(lowering, call, "bias"));
  const at::Tensor& weight = call.argument("weight").toTensor();
  const bool adds = lowering.is_activation(call.tensor("bias"));
  ValueId y = program::kNone;
  if (!lowering.is_activation(weight) && weight.dim() == 2) {
    if (!adds) return lowering.lower_to(call, Op::linear, {x, lowering.constant(weight), bias});
    BITLAB_TRY(y, lowering.node(Op::linear, {x, lowering.constant(weight)}));
  } else {
    BITLAB_TRY(ValueId w, lowering.operand(call, "weight"));
    BITLAB_TRY(w, as_matrix(w));
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
  program::Shape row = lowering.shape(y);
  row.insert(row.begin(), 1);
  BITLAB_TRY(y, lowering.reshape(y, row));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  return lowering.finish(call, y);
}

// torch::nn::Linear of rank 2 is addmm(bias, x, weight.t()).
Status lower_addmm(Lowering& lowering, const Call& call) { return add_product(lowering, call, "mat1", "mat2"); }
Status lower_addmv(Lowering& lowering, const Call& call) { return add_product(lowering, call, "mat", "vec"); }
Status lower_baddbmm(Lowering& lowering, const Call& call) { return add_product(lowering, call, "batch1", "batch2"); }

// torch::nn::Linear of other ranks is matmul(x, weight.t()), and add_.
Status lower_matmul(Lowering& lowering, const Call& call) {
  const char* second = call.op == "aten::matmul" ? "other" : call.op == "aten::mv" ? "vec" : "mat2";
  BITLAB_TRY(ValueId y, product(lowering, call, "self", second));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  if (lowering.shape(y) == shape) lowering.belongs_to_call();
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

Status lower_conv(Lowering& lowering, const Call& call) { return float_conv(lowering, call, false); }
// Called as such by traces of TorchScript, and by what has no window of its own.
Status lower_convolution(Lowering& lowering, const Call& call) {
  return float_conv(lowering, call, call.argument("transposed").toBool());
}
Status lower_conv_transpose(Lowering& lowering, const Call& call) { return float_conv(lowering, call, true); }

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

Status lower_max_pool(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  auto attributes = window(call, axes);
  const Sizes kernel = sizes_of(call, "kernel_size", axes, {});
  attributes["kernel_size"] = kernel;
  attributes["stride"] = sizes_of(call, "stride", axes, kernel);
  attributes["ceil_mode"] = int64_t{call.argument("ceil_mode").toBool()};
  for (size_t i = 1; i < call.outputs.size(); ++i)
    lowering.lose(call.outputs[i].toTensor());  // where the largest values are
  return lowering.lower_to(call, Op::max_pool, {x}, std::move(attributes));
}

Status lower_avg_pool(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  const Sizes kernel = sizes_of(call, "kernel_size", axes, {});
  const bool own_divisor = axes > 1 && given(call, "divisor_override");
  return lowering.lower_to(call, Op::avg_pool, {x},
                           {{"kernel_size", kernel},
                            {"stride", sizes_of(call, "stride", axes, kernel)},
                            {"padding", sizes_of(call, "padding", axes, Sizes(axes, 0))},
                            {"ceil_mode", int64_t{call.argument("ceil_mode").toBool()}},
                            {"count_include_pad", int64_t{call.argument("count_include_pad").toBool()}},
                            {"divisor", own_divisor ? call.argument("divisor_override").toInt() : int64_t{0}}});
}

namespace {

// A grid that divides the image is one of equal windows, whatever the image's size.
Status adaptive_pool(Lowering& lowering, const Call& call, Op op, Op equal_op) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  const Sizes grid = sizes_of(call, "output_size", axes, {});
  const at::Tensor& self = call.argument("self").toTensor();
  Sizes kernel, sizes;
  for (size_t i = 0; i < axes; ++i) {
    const int64_t size = self.size(static_cast<int64_t>(i) - static_cast<int64_t>(axes));
    sizes.push_back(grid[i] < 0 ? size : grid[i]);  // None: as many as there are
    if (sizes[i] < 1) return unsupported(call, "a grid of at least 1 in each dimension", show(grid));
    if (size % sizes[i] == 0) kernel.push_back(size / sizes[i]);
  }
  for (size_t i = 1; i < call.outputs.size(); ++i)
    lowering.lose(call.outputs[i].toTensor());  // where the largest values are
  if (kernel.size() < axes) return lowering.lower_to(call, op, {x}, {{"output_size", sizes}});
  program::Attributes attributes{{"kernel_size", kernel}, {"stride", kernel}, {"padding", Sizes(axes, 0)}};
  if (equal_op == Op::max_pool) attributes["dilation"] = Sizes(axes, 1);
  return lowering.lower_to(call, equal_op, {x}, std::move(attributes));
}

}  // namespace

Status lower_adaptive_avg_pool(Lowering& lowering, const Call& call) {
  return adaptive_pool(lowering, call, Op::adaptive_avg_pool, Op::avg_pool);
}
Status lower_adaptive_max_pool(Lowering& lowering, const Call& call) {
  return adaptive_pool(lowering, call, Op::adaptive_max_pool, Op::max_pool);
}

namespace {

// The scale that a call has for an axis, where it is another than the sizes' own: of 7 pixels 1.5 times as many are 10, a little less than 1.5 apart.
std::optional<double> own_scale(const Call& call, size_t axis, int64_t in, int64_t out) {
  size_t number = 0;
  for (const Argument& argument : call.arguments) {
    if (!argument.name.starts_with("scale") || number++ != axis || argument.value.isNone()) continue;
    const double scale = argument.value.toDouble(), ratio = static_cast<double>(out) / static_cast<double>(in);
    if (std::fabs(scale / ratio - 1) > 1e-6) return scale;
  }
  return std::nullopt;
}

// What an axis is made of where a scale is not that of the sizes, [out, in]: found by the operator itself, from images that have a 1 in one place each.
at::Tensor weights_of_axis(const std::string& mode, int64_t in, int64_t out, double scale) {
  const at::Tensor ones = at::eye(in).view({in, 1, in, 1});
  const Sizes size{out, 1};
  const at::Tensor y = mode == "nearest"         ? at::upsample_nearest2d(ones, size, scale, std::nullopt)
                       : mode == "nearest_exact" ? at::_upsample_nearest_exact2d(ones, size, scale, std::nullopt)
                       : mode == "cubic"         ? at::upsample_bicubic2d(ones, size, false, scale, std::nullopt)
                                                 : at::upsample_bilinear2d(ones, size, false, scale, std::nullopt);
  return y.view({in, out}).t().contiguous();
}

// The axes one after the other as products, which LibTorch adds up in another order; its nearest pixels as places.
Status resample_by_weights(Lowering& lowering, const Call& call, ValueId x, const std::string& mode, at::IntArrayRef in,
                           at::IntArrayRef out) {
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto dim = static_cast<int64_t>(axis + 2), last = static_cast<int64_t>(in.size()) + 1;
    const double scale =
        own_scale(call, axis, in[axis], out[axis]).value_or(static_cast<double>(out[axis]) / static_cast<double>(in[axis]));
    const at::Tensor weights = weights_of_axis(mode, in[axis], out[axis], scale);
    if (mode.starts_with("nearest")) {
      BITLAB_TRY(x, lowering.node(Op::take, {x, lowering.constant(weights.argmax(1))}, {{"dim", dim}}));
      continue;
    }
    Sizes order(in.size() + 2);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::swap(order[static_cast<size_t>(dim)], order[static_cast<size_t>(last)]);
    BITLAB_TRY(x, permuted(lowering, x, order));
    BITLAB_TRY(x, lowering.node(Op::linear, {x, lowering.constant(weights)}));
    BITLAB_TRY(x, permuted(lowering, x, order));
  }
  return lowering.finish(call, x);
}

}  // namespace

// "aten::upsample_bilinear2d"
Status lower_upsample(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto in = call.argument("self").toTensor().sizes().slice(2), out = output_of(call).sizes().slice(2);
  const bool is_nearest = call.op.find("nearest") != std::string::npos,
             is_cubic = call.op.find("cubic") != std::string::npos;
  std::string mode = is_nearest ? "nearest" : is_cubic ? "cubic" : "linear";
  if (call.op.find("exact") != std::string::npos) mode += "_exact";
  const bool align = !is_nearest && call.argument("align_corners").toBool(), antialias = call.op.ends_with("_aa");
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto scale = align ? std::nullopt : own_scale(call, axis, in[axis], out[axis]);
    if (!scale) continue;
    if (antialias || !program::is_fixed({lowering.shape(image.x).begin() + 2, lowering.shape(image.x).end()}))
      return unsupported(
          call, fmt::format("the scale of {} to {}, or sizes that are fixed and no antialiasing", in[axis], out[axis]),
          fmt::format("{}", *scale));
    return resample_by_weights(lowering, call, image.x, mode, in, out);
  }
  if (antialias) mode += "_antialias";
  const Status status = lowering.lower_to(
      call, Op::resample, {image.x},
      {{"output_size", program::Shape(shape.begin() + 2, shape.end())}, {"mode", mode}, {"align_corners", int64_t{align}}});
  if (status.ok() && is_nearest) lowering.set_exactness(program::Exactness::kIeeeExact);
  return status;
}

Status lower_grid_sample(Lowering& lowering, const Call& call) {
  constexpr std::array<const char*, 3> kPadding{"zeros", "border", "reflection"};
  const int64_t mode = call.argument("interpolation_mode").toInt();
  if (mode != 0 && mode != 1) return unsupported(call, "a bilinear or nearest grid", "a bicubic one");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  BITLAB_TRY(const ValueId grid, lowering.operand(call, "grid"));
  return lowering.lower_to(
      call, Op::grid_sample, {x, grid},
      {{"mode", std::string(mode == 1 ? "nearest" : "linear")},
       {"padding", std::string(kPadding.at(static_cast<size_t>(call.argument("padding_mode").toInt())))},
       {"align_corners", int64_t{call.argument("align_corners").toBool()}}});
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
  for (size_t i = 1; i < call.outputs.size(); ++i) lowering.lose(call.outputs[i].toTensor());
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
  program::Shape shape = lowering.shape(x);
  if (shape.size() == 1) shape.insert(shape.begin(), 1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  const bool has_bias = op == Op::layer_norm;
  BITLAB_TRY(const ValueId weight, optional_of(lowering, call, "weight"));
  BITLAB_TRY(const ValueId bias, has_bias ? optional_of(lowering, call, "bias") : Result<ValueId>(program::kNone));
  const auto dims = static_cast<int64_t>(call.argument("normalized_shape").toIntVector().size());
  const program::Attributes attributes{{"dims", dims}, {"eps", eps}};
  for (size_t i = 1; i < call.outputs.size(); ++i)
    lowering.lose(call.outputs[i].toTensor());  // of a native form: statistics
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

// A layer norm of each group, then the affine by channel.
Status group_norm(Lowering& lowering, const Call& call, int64_t groups) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  const program::Shape shape = lowering.shape(x);
  const program::Dim values = program::volume({shape.begin() + 1, shape.end()});
  if (!values.is_number()) return unsupported(call, "groups of fixed size", lowering.show(shape));
  BITLAB_TRY(ValueId y, lowering.reshape(x, {shape[0], groups, values.factor / groups}));
  BITLAB_TRY(y, lowering.node(Op::layer_norm, {y}, {{"dims", int64_t{1}}, {"eps", call.argument("eps").toDouble()}}));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  BITLAB_TRY(const ValueId weight, by_channel(lowering, call, "weight", shape.size() - 2));
  BITLAB_TRY(const ValueId bias, by_channel(lowering, call, "bias", shape.size() - 2));
  BITLAB_TRY(y, with_affine(lowering, y, weight, bias));
  for (size_t i = 1; i < call.outputs.size(); ++i) lowering.lose(call.outputs[i].toTensor());
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
  const at::Tensor& positions = call.argument("positions").toTensor();
  BITLAB_TRY(const ValueId at, lowering.positions(call, positions, lowering.twin().argument("positions").toTensor()));
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
  const double scale =
      given(call, "scale") ? call.argument("scale").toDouble() : 1 / std::sqrt(static_cast<double>(query.size(-1)));
  BITLAB_TRY(ValueId y, lowering.node(Op::attention, {inputs[0], inputs[1], inputs[2], mask.value},
                                      {{"causal", int64_t{mask.causal}}, {"scale", scale}}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
