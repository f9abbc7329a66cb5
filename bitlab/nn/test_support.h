// What the tests of layers share: comparisons, configurations, and cases of layers with their twins of LibTorch.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "bitlab/base/test_support.h"
#include "bitlab/config/config.h"

namespace bitlab::nn {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

using bitlab::test::message_of;

// Every method, granularity and quantized kind of activation that fit together.
inline std::vector<BitQuantConfig> configs() {
  std::vector<BitQuantConfig> list;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel, ternary::Granularity::kGroup})
      for (auto activation : {ternary::ActKind::kInt8, ternary::ActKind::kInt4, ternary::ActKind::kInt8Static}) {
        BitQuantConfig config;
        config.method = static_cast<ternary::Method>(m);
        config.granularity = granularity;
        config.group_size = 64;
        if (config.method == ternary::Method::kFixed) config.threshold = 0.01;  // below the weights of these tests
        config.activation = activation;
        if (!validate(config.weight_spec()).ok()) continue;
        list.push_back(config);
        if (activation != ternary::ActKind::kInt8) continue;
        config.smoothing = 0.5;
        config.sparsity = ternary::Sparsity::k3of4;
        if (validate(config.weight_spec()).ok()) list.push_back(config);
      }
  return list;
}

using CaseForward = std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>;
// Pieces of parameters' names, the twin's and ours.
using Renames = std::vector<std::pair<std::string, std::string>>;

// A layer, its twin, and an input of both.
struct LayerCase {
  std::shared_ptr<torch::nn::Module> ours, twin;
  CaseForward forward, twin_forward;
  at::Tensor input;  // integers stay as they are, floats are cast to the type that is tested
  Renames renames{};
  bool ternary = true;    // has a quantizer
  bool same_bits = true;  // in training and evaluation, for scales by tensor and channel
};

template <class Layer>
CaseForward case_forward() {
  return [](torch::nn::Module& module, const at::Tensor& x) {
    return dynamic_cast<typename Layer::ContainedType&>(module).forward(x);
  };
}

template <class Ours, class Twin>
LayerCase layer_case(const Ours& ours, const Twin& twin, at::Tensor input) {
  return {ours.ptr(), twin.ptr(), case_forward<Ours>(), case_forward<Twin>(), std::move(input)};
}

// The cases of a layer: layer_cases_test.cc.
template <class Layer>
std::vector<LayerCase> layer_cases(const BitQuantConfig& quant);

}  // namespace bitlab::nn
