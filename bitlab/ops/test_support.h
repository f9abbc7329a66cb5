// For tests of the operators: what they are tried with, and the oracle's answers.
#pragma once

#include <cstring>

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "bitlab/ops/ops.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::ops::test {

using ternary::ActKind;
using ternary::Granularity;
using ternary::Method;
using ternary::WeightSpec;

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

// Autocast of a device for its lifetime.
class Autocast {
 public:
  Autocast(at::DeviceType device, at::ScalarType type) : device_(device), before_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_dtype(device, type);
    at::autocast::set_autocast_enabled(device, true);
  }
  ~Autocast() {
    at::autocast::set_autocast_enabled(device_, false);
    at::autocast::set_autocast_dtype(device_, before_);
    at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  at::DeviceType device_;
  at::ScalarType before_;
};

inline constexpr ActKind kQuantizing[] = {ActKind::kInt8, ActKind::kInt4, ActKind::kInt8Static, ActKind::kInt4Static};

// Every method with every granularity that it has, 2:4 sparse and drawn at random where it can be; `group` is that of grouped ones.
inline std::vector<WeightSpec> specs(bool grouped) {
  std::vector<WeightSpec> list;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup}) {
      const WeightSpec spec{.method = static_cast<Method>(m), .granularity = granularity, .group = 64};
      if (!validate(spec).ok() || (granularity == Granularity::kGroup && !grouped)) continue;
      list.push_back(spec);
      WeightSpec sparse = spec, random = spec;
      sparse.sparsity = ternary::Sparsity::k2of4;
      if (validate(sparse).ok()) list.push_back(sparse);
      random.rounding = ternary::Rounding::kStochastic, random.draw = 77;
      if (validate(random).ok()) list.push_back(random);
    }
  return list;
}

template <class T>
std::vector<T> values(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<T>(), plain.const_data_ptr<T>() + plain.numel()};
}

inline at::Tensor tensor_of(std::vector<float> data, at::IntArrayRef sizes) { return at::tensor(data).reshape(sizes); }

inline std::vector<float> bias_values(const std::optional<at::Tensor>& bias) {
  return bias ? values<float>(*bias) : std::vector<float>();
}

template <class Call>
ErrorCode code_of(Call call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.code();
  }
  ADD_FAILURE() << "expected an error";
  return ErrorCode::kInternal;
}

// A spec with learned scales for a weight of that many rows, where it has some.
inline WeightQuant quant_of(const WeightSpec& spec, int64_t rows) {
  const int64_t scales = spec.granularity == Granularity::kTensor ? 1 : rows;
  WeightQuant quant{spec, {}};
  for (size_t i = 0; i < info(spec.method).learned.size(); ++i) quant.learned.push_back(at::rand({scales}) + 0.5);
  return quant;
}

inline ActQuant act_of(ActKind kind, double step = 0.043) {
  return {kind, is_static(kind) ? at::full({1}, step, at::kFloat) : at::Tensor()};
}

inline ternary::oracle::Activation oracle_activation(const ActQuant& act) {
  return {static_cast<float>(act_limit(act.kind)), act.act_scale.defined() ? act.act_scale.item<float>() : 0.0F};
}

// Keeps what an oracle's weight points to.
struct OracleWeight {
  std::vector<int8_t> t;
  std::vector<float> scale, scale_neg, bias;
  ternary::oracle::Weight view;

  // `matrix`: t as [rows, K], canonical.
  OracleWeight(const QuantizedWeight& w, const at::Tensor& matrix, const std::optional<at::Tensor>& bias_,
               const WeightSpec& spec)
      : t(values<int8_t>(matrix)), scale(values<float>(w.scale)), bias(bias_values(bias_)) {
    if (w.scale_neg.defined()) scale_neg = values<float>(w.scale_neg);
    view = {t, scale, scale_neg, spec.granularity == Granularity::kGroup ? spec.group : 0, bias};
  }
};

inline at::Tensor oracle_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                const WeightQuant& quant, const ActQuant& act) {
  const QuantizedWeight w = quantize_weight(weight, quant);
  const OracleWeight layer(w, w.t, bias, quant.spec);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return tensor_of(ternary::oracle::linear(values<float>(x), x.numel() / x.size(-1), layer.view, weight.size(0),
                                           weight.size(1), oracle_activation(act)),
                   shape);
}

struct ConvCase {
  int64_t batch, channels, filters;
  std::vector<int64_t> input, kernel;
  ConvWindow window;
};
inline const std::vector<ConvCase>& conv_cases() {
  static const std::vector<ConvCase> cases = {
      {1, 1, 20, {28, 28}, {5, 5}, {{1, 1}, {0, 0}, {1, 1}}},
      {3, 3, 17, {9, 7}, {3, 2}, {{2, 1}, {1, 3}, {1, 2}}},
      {2, 65, 3, {1, 1}, {1, 1}, {{1, 1}, {0, 0}, {1, 1}}},
      {2, 64, 5, {6, 5}, {3, 3}, {{1, 1}, {1, 1}, {1, 1}}},  // which groups of 64 divide
      {2, 12, 18, {9, 9}, {3, 3}, {{1, 1}, {1, 1}, {1, 1}, false, {}, 3}},
      {2, 7, 7, {9, 8}, {3, 3}, {{2, 1}, {1, 1}, {1, 1}, false, {}, 7}},  // depthwise
      {2, 5, 6, {40}, {7}, {{2}, {3}, {2}}},
      {1, 4, 6, {5, 6, 7}, {3, 2, 3}, {{2, 1, 1}, {1, 0, 1}, {1, 2, 1}}},
      {2, 6, 9, {6, 5}, {4, 3}, {{2, 3}, {1, 1}, {1, 1}, true, {1, 2}, 3}},
      {1, 8, 4, {20}, {3}, {{2}, {1}, {1}, true, {1}, 1}},
  };
  return cases;
}

inline std::vector<int64_t> concat(std::vector<int64_t> a, const std::vector<int64_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline at::Tensor random_weight(const ConvCase& c) {
  const int64_t g = c.window.groups;
  return at::randn(concat(c.window.transposed ? std::vector<int64_t>{c.channels, c.filters / g}
                                              : std::vector<int64_t>{c.filters, c.channels / g},
                          c.kernel));
}

// t as [N, K], K over (kernel..., c): by a loop over the groups.
inline at::Tensor matrix_of(const at::Tensor& t, const ConvCase& c) {
  if (!c.window.transposed) return t.movedim(1, -1).reshape({c.filters, -1});
  std::vector<at::Tensor> rows;
  for (const at::Tensor& group : t.chunk(c.window.groups, 0))
    for (int64_t n = 0; n < group.size(1); ++n) rows.push_back(group.select(1, n).movedim(0, -1).flatten());
  return at::stack(rows);
}

}  // namespace bitlab::ops::test
