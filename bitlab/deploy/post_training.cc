#include "bitlab/deploy/post_training.h"

#include <algorithm>
#include <unordered_map>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/recording.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/runtime/model.h"

namespace bitlab::deploy {
namespace {

struct Layer {
  nn::ProductLayer* layer;
  LayerFit fit;
  at::Tensor gain, offset;  // float64 [N]: y gain + offset follows the layer, of a folded BatchNorm; undefined: nothing
};

std::vector<Layer> product_layers(const torch::nn::Module& module) {
  std::vector<Layer> layers;
  for (const auto& item : module.named_modules(std::string(), false)) {
    auto* layer = dynamic_cast<nn::ProductLayer*>(item.value().get());
    if (layer == nullptr || !layer->view().quant.enabled()) continue;
    layers.push_back({layer, {}, {}, {}});
    layers.back().fit.name = item.key();
  }
  return layers;
}

// Undoes what was set on all layers, whatever happens.
struct Restored {
  std::vector<Layer>& layers;
  explicit Restored(std::vector<Layer>& all) : layers(all) {}
  ~Restored() {
    for (const Layer& l : layers) {
      l.layer->view().quantizer.observe({});
      l.layer->view().quantizer.bypass(false);
    }
  }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
};

void bypass(const std::vector<Layer>& layers, bool on) {
  for (const Layer& l : layers) l.layer->view().quantizer.bypass(on);
}

void run(const Forward& forward, std::span<const at::Tensor> samples) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& sample : samples) forward(sample);
}

// Puts the layers in the order in which they run, and gives static activations their steps.
Status calibrate(std::vector<Layer>& layers, const Forward& forward, std::span<const at::Tensor> samples,
                 const PostTrainingOptions& options) {
  std::vector<ternary::StepCalibrator> seen(layers.size());
  std::vector<size_t> order;
  Status status;
  for (size_t i = 0; i < layers.size(); ++i)
    layers[i].layer->view().quantizer.observe([&, i](const at::Tensor& x) {
      if (std::find(order.begin(), order.end(), i) == order.end()) order.push_back(i);
      const at::Tensor plain = x.contiguous();
      Status added = seen[i].add({plain.const_data_ptr<float>(), static_cast<size_t>(plain.numel())});
      if (!added.ok() && status.ok()) status = std::move(added);
    });
  bypass(layers, true);
  run(forward, samples);
  bypass(layers, false);
  BITLAB_RETURN_IF_ERROR(status);
  std::vector<Layer> ordered;
  for (const size_t i : order) {
    const auto view = layers[i].layer->view();
    view.quantizer.observe({});
    if (is_static(view.quant.activation)) {
      BITLAB_TRY(const float step, seen[i].step(options.calibration, act_limit(view.quant.activation), options.percentile));
      const at::NoGradGuard no_grad;
      view.quantizer.act_scale.fill_(step);
      layers[i].fit.act_scale = static_cast<double>(step);
    }
    ordered.push_back(std::move(layers[i]));
  }
  if (ordered.size() != layers.size())
    return make_error(ErrorCode::kInvalidArgument, "[post_training] samples that reach each of {} layers, got {}",
                      layers.size(), ordered.size());
  layers = std::move(ordered);
  return {};
}

// Whether scales can be refit; weights in int8 are near the float ones as they are.
bool can_be_fit(const nn::ProductLayer::View& view) {
  return view.is_whole && is_ternary(*view.quant.method) && view.quant.granularity != ternary::Granularity::kGroup &&
         info(*view.quant.method).learned_scales < 2;
}

// y gain + offset is what a BatchNorm in eval makes of y; the BatchNorm is left without effect.
void take_over(Layer& layer, const Call& norm) {
  const at::NoGradGuard no_grad;
  const at::Tensor weight = norm.tensor("weight"), bias = norm.tensor("bias"), mean = norm.tensor("running_mean"),
                   variance = norm.tensor("running_var");
  const double eps = norm.argument("eps").toDouble();
  const auto [alpha, beta] = ops::batch_norm_affine(ops::optional(weight), ops::optional(bias), mean, variance, eps);
  layer.gain = alpha, layer.offset = beta;
  layer.fit.folded = true;
  if (weight.defined()) weight.fill_(1);
  if (bias.defined()) bias.fill_(-0.0);  // x + -0 is x, a zero's sign included
  mean.zero_();
  variance.fill_(1 - eps);
}

// A BatchNorm that has running statistics, LibTorch's or as the contract evaluates it.
bool is_batch_norm(const Call& call) {
  if (call.op == "bitlab::batch_norm") return true;
  return call.op == "aten::batch_norm" && !call.argument("training").toBool() && call.tensor("running_mean").defined();
}

// Finds each BatchNorm that alone reads what a layer makes.
Status fold_batch_norms(std::vector<Layer>& layers, const Forward& forward, const at::Tensor& sample) {
  BITLAB_TRY(const Recording recording, record(forward, sample));
  std::unordered_map<const void*, size_t> by_codes, by_output;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto view = layers[i].layer->view();
    by_codes[view.quantizer.codes(view.weight).codes.unsafeGetTensorImpl()] = i;
  }
  std::unordered_map<const void*, int> readers;
  for (const Call& call : recording.calls)
    for (const Argument& argument : call.arguments)
      if (argument.value.isTensor()) ++readers[argument.value.toTensor().unsafeGetTensorImpl()];
  for (const Call& call : recording.calls) {
    if (call.op == "bitlab::ternary_linear" || call.op == "bitlab::ternary_conv") {
      const auto layer = by_codes.find(call.argument("codes").toTensor().unsafeGetTensorImpl());
      if (layer != by_codes.end()) by_output[call.outputs.at(0).toTensor().unsafeGetTensorImpl()] = layer->second;
    } else if (is_batch_norm(call)) {
      const void* input = call.argument("input").toTensor().unsafeGetTensorImpl();
      const auto layer = by_output.find(input);
      const bool fits = layer != by_output.end() && readers[input] == 1 && !layers[layer->second].fit.folded &&
                        can_be_fit(layers[layer->second].layer->view());
      if (fits) take_over(layers[layer->second], call);
    }
  }
  return {};
}

// Sums over samples and positions, by channel, in float64: y is the float product, z that of quantized activations and codes.
struct Sums {
  at::Tensor yy, yz, zz, y, z;
  double count = 0;

  void add(const at::Tensor& float_product, const at::Tensor& code_product, bool is_image) {
    const auto by_channel = [&](const at::Tensor& v) {
      const at::Tensor last = is_image ? v.movedim(1, -1) : v;
      return last.reshape({-1, last.size(-1)}).to(at::kDouble);
    };
    const at::Tensor a = by_channel(float_product), b = by_channel(code_product);
    const at::Tensor sums[] = {(a * a).sum(0), (a * b).sum(0), (b * b).sum(0), a.sum(0), b.sum(0)};
    at::Tensor* totals[] = {&yy, &yz, &zz, &y, &z};
    for (size_t i = 0; i < std::size(sums); ++i) *totals[i] = totals[i]->defined() ? *totals[i] + sums[i] : sums[i];
    count += static_cast<double>(a.size(0));
  }

  // sum (gain y - s z - shift)^2 over everything, relative to sum (gain y)^2.
  double error(const at::Tensor& gain, const at::Tensor& s, const at::Tensor& shift) const {
    const at::Tensor total =
        gain * gain * yy - 2 * gain * s * yz + s * s * zz - 2 * shift * (gain * y - s * z) + shift * shift * count;
    return (total.sum() / (gain * gain * yy).sum().clamp_min(1e-30)).item<double>();
  }
};

// The scale of each channel as the encoder chose it.
at::Tensor encoded_scale(const ops::QuantizedWeight& weight, int64_t rows) {
  return weight.scale.to(at::kDouble).expand({rows});
}

Status fit(Layer& l, const Forward& forward, std::span<const at::Tensor> samples, const PostTrainingOptions& options) {
  const at::NoGradGuard no_grad;
  const auto view = l.layer->view();
  if (!can_be_fit(view)) return {};
  const ops::QuantizedWeight encoded = view.quantizer.quantized(view.weight);
  const at::Tensor codes = encoded.t.to(at::kFloat);
  Sums sums;
  view.quantizer.observe([&](const at::Tensor& x) {
    const at::Tensor y = l.layer->product(x, view.weight, {});
    sums.add(y, l.layer->product(view.quantizer.activated(x), codes, {}), view.weight.dim() > 2);
  });
  run(forward, samples);
  view.quantizer.observe({});
  const int64_t rows = sums.yy.size(0);
  const at::Tensor gain = l.gain.defined() ? l.gain : at::ones({rows}, at::kDouble), none = at::zeros({rows}, at::kDouble);
  const at::Tensor before = gain * encoded_scale(encoded, rows);
  at::Tensor scale = before;
  if (options.refit_scales) scale = at::where(sums.zz > 0, gain * sums.yz / sums.zz.clamp_min(1e-30), before);
  const at::Tensor sign = at::where(scale < 0, -1.0, 1.0).to(at::kFloat);
  scale = scale.abs().clamp_min(static_cast<double>(ternary::kScaleEpsilon)).to(at::kFloat).to(at::kDouble);
  const at::Tensor signed_scale = scale * sign.to(at::kDouble);
  const at::Tensor shift = options.correct_bias ? (gain * sums.y - signed_scale * sums.z) / sums.count : none;
  at::Tensor bias = shift;
  if (view.bias.defined()) bias = bias + gain * view.bias.to(at::kDouble);
  if (l.offset.defined()) bias = bias + l.offset;
  l.fit.error_before = sums.error(gain, before, none);
  l.fit.error_after = sums.error(gain, signed_scale, shift);
  const at::Tensor t = codes * view.quantizer.layout(view.weight).spread(sign, nn::frozen_config(view.quant).weight_spec());
  l.layer->freeze({t, scale.to(at::kFloat), bias.to(at::kFloat)});
  l.fit.frozen = true;
  return {};
}

Status measure(PostTrainingReport& report, torch::nn::Module& module, const Forward& forward, const at::Tensor& sample) {
  BITLAB_TRY(const program::Program program, capture(module, forward, sample));
  BITLAB_TRY(const auto model, runtime::Model::create(program));
  for (const program::Constant& constant : program.constants)
    report.weight_file_bytes += format::bit::stored_bytes(program, constant);
  report.weight_bytes = model->weight_bytes();
  report.float32_weight_bytes = model->float32_weight_bytes();
  report.bits_a_weight = 32.0 * static_cast<double>(report.weight_bytes) / static_cast<double>(report.float32_weight_bytes);
  return {};
}

}  // namespace

Result<PostTrainingReport> quantize_for_deployment(torch::nn::Module& module, const Forward& forward,
                                                   std::span<const at::Tensor> samples, const PostTrainingOptions& options,
                                                   const std::function<double()>& evaluate) {
  if (samples.empty()) return make_error(ErrorCode::kInvalidArgument, "[post_training] samples, got none");
  std::vector<Layer> layers = product_layers(module);
  if (layers.empty())
    return make_error(ErrorCode::kInvalidArgument, "[post_training] a module with ternary layers, got none");
  const Restored restored(layers);
  PostTrainingReport report;
  module.eval();
  try {
    if (evaluate) {
      bypass(layers, true);
      report.evaluated_float = evaluate();
      bypass(layers, false);
    }
    BITLAB_RETURN_IF_ERROR(calibrate(layers, forward, samples, options));
    if (evaluate) report.evaluated_before = evaluate();
    if (options.fold_batch_norm) BITLAB_RETURN_IF_ERROR(fold_batch_norms(layers, forward, samples[0]));
    for (Layer& layer : layers) BITLAB_RETURN_IF_ERROR(fit(layer, forward, samples, options));
    if (evaluate) report.evaluated_after = evaluate();
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[post_training] samples that the module takes, got '{}'",
                      error.what_without_backtrace());
  }
  for (const Layer& layer : layers) report.layers.push_back(layer.fit);
  BITLAB_RETURN_IF_ERROR(measure(report, module, forward, samples[0]));
  return report;
}

}  // namespace bitlab::deploy
