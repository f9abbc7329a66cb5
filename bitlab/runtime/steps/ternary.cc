// Steps of ternary layers.
#include <cmath>
#include <limits>

#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/kernels/ternary_gemm/internal/cut.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/runtime/internal/conv_geometry.h"
#include "bitlab/runtime/internal/device_step.h"
#include "bitlab/runtime/internal/narrow.h"
#include "bitlab/runtime/internal/recurrent.h"

namespace bitlab::runtime {
namespace {

using program::input_of;
using program::Op;

kernels::TernaryWeight weight_of(const StepContext& context, size_t bias) {
  const ResidentConstant& weight = context.weight();
  kernels::TernaryWeight view{&weight.packed, reinterpret_cast<const float*>(weight.scale.data()), weight.scale_stride,
                              context.floats(bias)};
  if (weight.scale_neg.size() != 0) view.scale_neg = reinterpret_cast<const float*>(weight.scale_neg.data());
  view.group = weight.group;
  if (weight.group != 0) view.group_scale = reinterpret_cast<const uint16_t*>(weight.group_scale.data());
  return view;
}

Result<kernels::LayerActivation> activation_of(const StepContext& context, size_t act_scale) {
  kernels::LayerActivation activation;
  BITLAB_TRY(activation.kind, ternary::parse_act_kind(context.node.attribute<std::string>("activation")));
  if (const float* step = context.floats(act_scale)) activation.step = *step;
  return activation;
}

// The functions in front of a convolution's chain that its kernels compute on a sum in registers: an affine by channel, a residual, ReLU or a
// clamp. The formulas are those of the functions, so the bits are.
struct Epilogue {
  size_t residual = 0;  // the place among the step's inputs; 0: none
  size_t taken = 0;     // functions

  // Puts what it takes into the weight. `count` results in channels-last order.
  static Epilogue of(const Chain& chain, int64_t count, kernels::TernaryWeight& weight) {
    using kernels::Elementwise;
    const std::vector<ChainFunction>& list = chain.functions();
    const int64_t rows = weight.packed->rows;
    Epilogue e;
    const auto is = [&](size_t i, Elementwise op, int64_t size) {
      return i < list.size() && list[i].op == op && list[i].count == size;
    };
    const auto is_constant = [&](size_t i, Elementwise op, int64_t size) {
      return is(i, op, size) && list[i].constant != nullptr;
    };
    if (is_constant(0, Elementwise::mul, rows) && is_constant(1, Elementwise::add, rows)) {
      weight.alpha = list[0].constant, weight.beta = list[1].constant;
      e.taken = 2;
    }
    if (is(e.taken, Elementwise::add, count) && list[e.taken].constant == nullptr) e.residual = list[e.taken++].input;
    if (is(e.taken, Elementwise::relu, 0)) {
      weight.relu = true;
      ++e.taken;
    }
    const auto is_bound = [&](Elementwise op) {
      return is_constant(e.taken, op, 1) && !std::isnan(*list[e.taken].constant);
    };
    if (is_bound(Elementwise::maximum)) weight.low = *list[e.taken++].constant;
    if (is_bound(Elementwise::minimum)) weight.high = *list[e.taken++].constant;
    weight.clamps = weight.low != -__builtin_inff() || weight.high != __builtin_inff();
    return e;
  }
};

// Whether every float between the exact sum and the result is finite for the largest sum that there is, each at most half the largest float.
bool stays_finite(const kernels::TernaryWeight& w, float step) {
  constexpr double kMost = std::numeric_limits<float>::max() / 2, kLargest = 127 * 127;  // of q, and of weights kept in int8
  const double sum = kLargest * static_cast<double>(w.packed->depth) * step;
  double most = sum;
  for (int64_t n = 0; n < w.packed->rows; ++n) {
    const auto at = [n](const float* values, double other) {
      return values == nullptr ? other : std::abs(double{values[n]});
    };
    const auto scale = [&](const float* values) {
      return values == nullptr ? 0.0 : std::abs(double{values[n * w.scale_stride]});
    };
    const double product = sum * (scale(w.scale) + scale(w.scale_neg)), biased = product + at(w.bias, 0),
                 scaled = biased * at(w.alpha, 1);
    for (const double value : {product, biased, scaled, scaled + at(w.beta, 0)})
      if (!(value <= most)) most = value;  // NaN, too
  }
  return most <= kMost;
}

// --- on a device

// Whether the matrix units multiply by the weight, of two bits; else it is there with a byte a weight.
bool is_for_mma(const ResidentConstant& weight) { return !is_int8(weight.packed.layout) && weight.packing.groups == 1; }

// The weight with all that follows the product, in the device's memory.
Result<kernels::TernaryGemmArgs> device_arguments(DeviceWeights& device, const ResidentConstant& resident,
                                                  const kernels::TernaryWeight& weight) {
  kernels::TernaryGemmArgs args = weight.arguments();
  BITLAB_TRY(args.weights, is_for_mma(resident) ? device.mma_of(resident) : device.bytes_of(resident));
  const int64_t floats = args.rows * int64_t{sizeof(float)};
  const auto copy = [&](const float*& values, int64_t bytes) -> Status {
    BITLAB_TRY(const uint8_t* copied, device.copy_of(values, bytes));
    values = reinterpret_cast<const float*>(copied);
    return {};
  };
  BITLAB_RETURN_IF_ERROR(copy(args.scale, static_cast<int64_t>(resident.scale.size())));
  BITLAB_RETURN_IF_ERROR(copy(args.scale_neg, static_cast<int64_t>(resident.scale_neg.size())));
  for (const float** values : {&args.bias, &args.alpha, &args.beta}) BITLAB_RETURN_IF_ERROR(copy(*values, floats));
  if (resident.group_scale.size() != 0) {
    BITLAB_TRY(const uint8_t* copied, device.copy_of(resident.group_scale));
    args.group_scale = reinterpret_cast<const uint16_t*>(copied);
  }
  return args;
}

// Rows of floats as int8 in scratch: q, the scale of each row, and what the kernel asks for.
class DeviceRows {
 public:
  DeviceRows() = default;
  // `slack`: bytes behind q that may be read.
  DeviceRows(int64_t rows, int64_t columns, int64_t q_stride, int64_t slack, kernels::ActivationScale scale)
      : rows_(rows),
        columns_(columns),
        q_stride_(q_stride),
        scale_(scale),
        a_(round_up(rows * q_stride + slack, kDeviceAlignment)),
        own_(a_ + round_up(rows * int64_t{sizeof(float)}, kDeviceAlignment)) {}
  int64_t scratch_bytes() const { return own_ + round_up(rows_ * int64_t{sizeof(uint32_t)}, kDeviceAlignment); }
  const int8_t* q(const DeviceBuffers& b) const { return reinterpret_cast<const int8_t*>(b.scratch); }
  const float* a(const DeviceBuffers& b) const { return reinterpret_cast<const float*>(b.scratch + a_); }
  const char* run(const DeviceBuffers& b, const float* x) const {
    const kernels::CudaActivationQuant work{x,
                                            kernels::CudaType::kFloat32,
                                            rows_,
                                            columns_,
                                            scale_.limit,
                                            scale_.inv,
                                            reinterpret_cast<int8_t*>(b.scratch),
                                            q_stride_,
                                            reinterpret_cast<float*>(b.scratch + a_),
                                            reinterpret_cast<uint32_t*>(b.scratch + own_),
                                            b.failed};
    return b.plugin->activation_quant(&work, b.stream);
  }

 private:
  int64_t rows_ = 0, columns_ = 0, q_stride_ = 0;
  kernels::ActivationScale scale_{};
  int64_t a_ = 0, own_ = 0;  // bytes from the scratch's begin
};

const char* multiply(const DeviceBuffers& b, const kernels::TernaryGemmArgs& args, int64_t tokens) {
  return b.plugin->ternary_gemm(&args, tokens, static_cast<int32_t>(kernels::CudaProduct::kAny), b.stream);
}

// A product of activations that stay float, of rows or of patches, and what is behind it.
Result<DeviceStep> device_weight_only(DeviceWeights& device, const StepContext& context,
                                      const kernels::TernaryWeight& weight, const kernels::CudaTernaryF32& input,
                                      size_t residual = 0, DeviceChain rest = {}) {
  kernels::CudaTernaryF32 product = input;
  BITLAB_TRY(product.p, device_arguments(device, context.weight(), weight));
  product.p.y_stride = product.p.rows;
  product.bytes = !is_for_mma(context.weight());
  return DeviceStep{[=](const DeviceBuffers& b) {
                      kernels::CudaTernaryF32 args = product;
                      args.x = b.input(0), args.p.y = b.output();
                      if (residual != 0) args.p.residual = b.input(residual);
                      const char* wrong = b.plugin->ternary_gemm_f32(&args, b.stream);
                      return wrong != nullptr ? wrong : rest.run_behind(b);
                    },
                    0, "ternary_gemm_f32:cuda"};
}

Result<DeviceStep> device_linear(DeviceWeights& device, const StepContext& context, const kernels::TernaryWeight& weight,
                                 const kernels::LayerActivation& activation, int64_t tokens) {
  const ResidentConstant& resident = context.weight();
  const int64_t depth = weight.packed->depth;
  if (depth == 0) return DeviceStep{};
  if (activation.kind == ternary::ActKind::kNone) {
    kernels::CudaTernaryF32 input{};
    input.x_stride = depth, input.tokens = tokens, input.groups = 1;
    return device_weight_only(device, context, weight, input);
  }
  BITLAB_TRY(kernels::TernaryGemmArgs layer, device_arguments(device, resident, weight));
  layer.q_stride = round_up(depth, kernels::kMmaDepth), layer.y_stride = layer.rows;
  const DeviceRows rows(tokens, depth, layer.q_stride, 0, activation.scale());
  const bool mma = is_for_mma(resident);
  return DeviceStep{[=](const DeviceBuffers& b) {
                      if (const char* wrong = rows.run(b, b.input(0)); wrong != nullptr) return wrong;
                      kernels::TernaryGemmArgs args = layer;
                      args.q = rows.q(b), args.a = rows.a(b), args.y = b.output();
                      if (mma) return multiply(b, args, tokens);
                      const kernels::CudaInt8Gemm product{args, tokens, false, {}, 1};
                      return b.plugin->int8_gemm(&product, b.stream);
                    },
                    rows.scratch_bytes(),
                    mma ? "activation_quant:cuda ternary_gemm:cuda" : "activation_quant:cuda int8_gemm:cuda"};
}

// A convolution: q of the samples, then one product that gathers their patches, or patches in parts that a bounded memory holds, each a product.
class DeviceConv {
 public:
  static Result<DeviceConv> of(DeviceWeights& device, const StepContext& context, const kernels::TernaryWeight& weight,
                               const kernels::ConvGeometry& geometry, const kernels::LayerActivation& activation) {
    DeviceConv conv;
    const ResidentConstant& resident = context.weight();
    BITLAB_TRY(conv.layer_, device_arguments(device, resident, weight));
    conv.layer_.y_stride = conv.layer_.rows;
    conv.mma_ = is_for_mma(resident);
    conv.image_ = kernels::CudaImage::of(geometry);
    conv.groups_ = geometry.groups, conv.pixels_ = geometry.batch * geometry.positions();
    conv.in_place_ = is_pointwise(geometry);
    conv.q_stride_ = conv.in_place_ ? geometry.channels : round_up(geometry.depth(), kernels::kMmaDepth);
    conv.gathers_ =
        conv.mma_ && !conv.in_place_ && kernels::gathers_in_tiles(geometry.channels, geometry.groups, geometry.depth());
    conv.from_ = context.from, conv.to_ = context.to;
    const int64_t values = geometry.sample_values();
    if (conv.from_) {
      BITLAB_TRY(conv.step_, device.keep({reinterpret_cast<const uint8_t*>(&conv.from_.step), sizeof(float)}));
    } else {
      conv.rows_ = DeviceRows(geometry.batch, values, values, kernels::kMmaDepth, activation.scale());
      conv.patches_ = conv.rows_.scratch_bytes();
    }
    conv.part_ = conv.in_place_ ? conv.pixels_ : kernels::pixels_at_once(conv.pixels_, conv.q_stride_);
    conv.scales_ = conv.patches_ + (conv.in_place_ ? 0 : round_up(conv.part_ * conv.q_stride_, kDeviceAlignment));
    return conv;
  }
  int64_t scratch_bytes() const { return mma_ && !gathers_ ? scales_ + part_ * int64_t{sizeof(float)} : patches_; }
  const char* kernels() const {
    if (from_) return gathers_ ? "ternary_conv:cuda" : mma_ ? "ternary_gemm:cuda" : "int8_gemm:cuda";
    return gathers_ ? "activation_quant:cuda ternary_conv:cuda"
           : mma_   ? "activation_quant:cuda ternary_gemm:cuda"
                    : "activation_quant:cuda int8_gemm:cuda";
  }

  // residual: null, or what is added.
  const char* run(const DeviceBuffers& b, const float* residual) const {
    kernels::TernaryGemmArgs args = layer_;
    args.residual = residual;
    if (to_) {
      args.y_q = b.output<int8_t>(), args.y_inv = 1.0F / to_.step, args.y_limit = to_.limit;
    } else {
      args.y = b.output();
    }
    args.a_stride = from_ ? 0 : 1;
    args.q = from_ ? b.input<int8_t>(0) : rows_.q(b);
    args.a = from_ ? reinterpret_cast<const float*>(step_->data()) : rows_.a(b);
    if (!from_)
      if (const char* wrong = rows_.run(b, b.input(0)); wrong != nullptr) return wrong;
    if (!mma_) {
      const kernels::CudaInt8Gemm product{args, pixels_, true, image_, groups_};
      return b.plugin->int8_gemm(&product, b.stream);
    }
    if (gathers_) {
      const kernels::CudaTernaryConv product{args, image_, pixels_};
      return b.plugin->ternary_conv(&product, b.stream);
    }
    const char* wrong = nullptr;
    for (int64_t first = 0; first < pixels_ && wrong == nullptr; first += part_)
      wrong = part(b, args, first, std::min(part_, pixels_ - first));
    return wrong;
  }

 private:
  // The output pixels [first, first + count).
  const char* part(const DeviceBuffers& b, const kernels::TernaryGemmArgs& layer, int64_t first, int64_t count) const {
    kernels::TernaryGemmArgs args = kernels::results_at(layer, first);
    auto* patches = reinterpret_cast<int8_t*>(b.scratch + patches_);
    auto* scales = reinterpret_cast<float*>(b.scratch + scales_);
    const kernels::CudaPatches gather{image_,      layer.q,    layer.a, layer.a_stride, first, count,
                                      layer.depth, !in_place_, patches, q_stride_,      scales};
    if (const char* wrong = b.plugin->patches(&gather, b.stream); wrong != nullptr) return wrong;
    if (!in_place_) args.q = patches;
    args.q_stride = q_stride_, args.a = scales, args.a_stride = 1;
    return multiply(b, args, count);
  }

  kernels::TernaryGemmArgs layer_;
  kernels::CudaImage image_{};
  DeviceRows rows_;
  std::shared_ptr<const DeviceMemory> step_;  // of a narrow input
  Narrow from_{}, to_{};
  bool mma_ = false, in_place_ = false, gathers_ = false;
  int64_t groups_ = 1, pixels_ = 0, part_ = 0, q_stride_ = 0;
  int64_t patches_ = 0, scales_ = 0;  // bytes from the scratch's begin
};

}  // namespace

Narrow narrow_input(const StepContext& context) {
  if (context.node.op != Op::ternary_conv || context.output_elements() == 0) return {};
  const auto activation = activation_of(context, input_of(Op::ternary_conv, "act_scale"));
  if (!activation.ok() || !is_static(activation->kind)) return {};
  return {activation->step, static_cast<float>(act_limit(activation->kind))};
}

bool can_narrow(const StepContext& context) {
  const Narrow input = narrow_input(context);
  if (!input) return false;
  kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_conv, "bias"));
  if (weight.group != 0) return false;
  const Chain chain = chain_of(context);
  const Epilogue epilogue = Epilogue::of(chain, context.output_elements(), weight);
  return epilogue.residual == 0 && epilogue.taken == chain.functions().size() && stays_finite(weight, input.step);
}

Result<Step> make_ternary_linear_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_linear, "bias"));
  const LoadOptions& options = context.model.options();
  const int64_t tokens = context.output_elements() / weight.packed->rows;
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_linear, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen, select_ternary(activation.kind, weight.problem(tokens),
                                                                  weight.packed->layout, options.machine, options.policy));
  Step step{[=](const StepBuffers& b) {
              return ternary_linear(chosen, weight, {.op = "ternary_linear", .x = b.input(0), .activation = activation},
                                    tokens, b.output(), b.scratch, *b.pool);
            },
            ternary_linear_scratch_bytes(chosen, weight, tokens, context.threads), chosen.names()};
  return with_device(context, std::move(step),
                     [&](DeviceWeights& device) { return device_linear(device, context, weight, activation, tokens); });
}

Result<Step> make_ternary_conv_step(const StepContext& context) {
  kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_conv, "bias"));
  const LoadOptions& options = context.model.options();
  const kernels::ConvGeometry geometry = conv_geometry(context.model.program(), context.node, context.sizes);
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_conv, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             select_ternary_conv(geometry, {weight.packed->rows, weight.group, weight.scale_neg != nullptr, activation.kind},
                                 weight.packed->layout, options.machine, options.policy));
  const Chain chain = chain_of(context);
  const Epilogue epilogue = Epilogue::of(chain, context.output_elements(), weight);
  const Narrow from = context.from, to = context.to;
  Step step{[=, rest = chain.without(epilogue.taken)](const StepBuffers& b) {
              kernels::TernaryGemmArgs results;
              if (to) {
                results.y_q = b.output<int8_t>(), results.y_inv = 1.0F / to.step, results.y_limit = to.limit;
              } else {
                results.y = b.output();
              }
              kernels::LayerInput input{.op = "ternary_conv", .activation = activation};
              if (from) {
                input.q = b.input<int8_t>(0), input.a = &from.step;
              } else {
                input.x = b.input(0);
              }
              if (epilogue.residual != 0) results.residual = b.input(epilogue.residual);
              const auto run = [&](const RangeTask* after) {
                return ternary_conv(chosen, weight, geometry, input, results, b.scratch, *b.pool, after);
              };
              return rest.behind(b, run);
            },
            ternary_conv_scratch_bytes(chosen, weight, geometry, context.threads), chosen.names()};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    if (geometry.depth() == 0) return DeviceStep{};
    BITLAB_TRY(const DeviceChain rest, DeviceChain::of(chain.without(epilogue.taken), context.output_elements(), device));
    if (activation.kind == ternary::ActKind::kNone) {
      kernels::CudaTernaryF32 input{};
      input.tokens = geometry.batch * geometry.positions(), input.gathers = true;
      input.image = kernels::CudaImage::of(geometry), input.groups = geometry.groups;
      return device_weight_only(device, context, weight, input, epilogue.residual, rest);
    }
    BITLAB_TRY(const DeviceConv conv, DeviceConv::of(device, context, weight, geometry, activation));
    return DeviceStep{[=](const DeviceBuffers& b) {
                        const char* wrong = conv.run(b, epilogue.residual != 0 ? b.input(epilogue.residual) : nullptr);
                        return wrong != nullptr ? wrong : rest.run_behind(b);
                      },
                      conv.scratch_bytes(), conv.kernels()};
  });
}

Result<Step> make_ternary_recurrent_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_recurrent, "bias"));
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::RecurrentArgs layer, recurrent_layer(context));
  BITLAB_TRY(const kernels::LayerActivation activation,
             activation_of(context, input_of(Op::ternary_recurrent, "act_scale")));
  kernels::RecurrentKernels chosen;
  BITLAB_TRY(chosen.product, select_ternary(activation.kind, weight.problem(layer.batch), weight.packed->layout,
                                            options.machine, options.policy));
  BITLAB_TRY(chosen.elementwise, elementwise_row(context));
  constexpr size_t kH0 = input_of(Op::ternary_recurrent, "h0");
  Step step{
      [=](const StepBuffers& b) { return recurrent(chosen, weight, activation, bound(layer, b, kH0), b.scratch, *b.pool); },
      recurrent_scratch_bytes(chosen, weight, layer, context.threads),
      fmt::format("{} {}", chosen.product.names(), label(*chosen.elementwise))};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(const DeviceStep product, device_linear(device, context, weight, activation, layer.batch));
    return device_recurrent(layer, product, kH0);
  });
}

Result<Step> make_ternary_embedding_step(const StepContext& context) {
  const ResidentConstant& weight = context.weight();
  const int64_t tokens = context.output_elements() / weight.packed.depth;
  kernels::TernaryTable table{.weights = &weight.packed,
                              .scale = reinterpret_cast<const float*>(weight.scale.data()),
                              .scale_stride = weight.scale_stride,
                              .group = weight.group};
  if (weight.scale_neg.size() != 0) table.scale_neg = reinterpret_cast<const float*>(weight.scale_neg.data());
  if (weight.group != 0) {
    table.group_scale = reinterpret_cast<const uint16_t*>(weight.group_scale.data());
    table.group_row_stride = 1, table.group_stride = weight.packed.rows;
  }
  Step step{[=](const StepBuffers& b) {
              return ternary_embedding("ternary_embedding", table, b.input<int64_t>(0), tokens, b.output(), *b.pool);
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    kernels::TernaryWeight own{&weight.packed, table.scale, table.scale_stride};
    own.scale_neg = table.scale_neg, own.group = table.group, own.group_scale = table.group_scale;
    kernels::CudaEmbedding args{};
    args.table = is_for_mma(weight) ? kernels::CudaTable::kTernary : kernels::CudaTable::kInt8;
    BITLAB_TRY(args.p, device_arguments(device, weight, own));
    args.count = tokens * args.p.depth;
    return embedding_on_device(args);
  });
}

}  // namespace bitlab::runtime
