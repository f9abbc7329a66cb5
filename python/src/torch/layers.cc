// What layers of Python have of C++'s: the parameters and buffers that a quantization adds to a weight, and how they begin.
#include "bindings.h"
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bitlab/nn/layer.h"
#include "bitlab/nn/quantizer.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

// By name: "weight_scale", …, "act_scale" are parameters, "blend", "draw" and "input_scale" buffers.
nn::NamedTensors quantizer_state(const at::Tensor& weight, const BitQuantConfig& quant, bool is_product, bool is_hidden,
                                 int64_t dims, bool transposed, int64_t groups, bool around_zero) {
  torch::nn::Module layer;
  nn::Quantizer quantizer;
  const auto size = static_cast<size_t>(dims);
  const ops::ConvWindow window{std::vector<int64_t>(size, 1), std::vector<int64_t>(size, 0),
                               std::vector<int64_t>(size, 1), transposed,
                               std::vector<int64_t>(size, 0), groups};
  quantizer.reset(layer, quant, weight, dims == 0 ? nullptr : &window,
                  is_hidden    ? nn::Quantizer::Use::kHiddenProduct
                  : is_product ? nn::Quantizer::Use::kProduct
                               : nn::Quantizer::Use::kValue);
  if (quantizer.is_active()) quantizer.initialize_scales(weight, around_zero);
  nn::NamedTensors state;
  for (const auto& item : layer.named_parameters()) state.set(item.key(), item.value().detach());
  for (const auto& item : layer.named_buffers()) state.set(item.key(), item.value());
  return state;
}

}  // namespace

void bind_layers(nb::module_& m) {
  m.def("quantizer_state", &quantizer_state, nb::arg("weight"), nb::arg("quant"), nb::kw_only(),
        nb::arg("is_product") = true, nb::arg("is_hidden") = false, nb::arg("dims") = 0, nb::arg("transposed") = false,
        nb::arg("groups") = 1, nb::arg("around_zero") = true,
        "What a quantization adds to a layer with that weight, as it begins. is_hidden: the product of hidden states. dims: "
        "of a convolution.");
  m.def("quantizer_names", &nn::Quantizer::state_names, "The names of all that any quantization may add.");
  m.def("describe", &nn::describe, nb::arg("quant"), "'absmean/tensor/int8', or 'none'.");
  m.def(
      "begin_act_scale",
      [](at::Tensor act_scale, const at::Tensor& x, const BitQuantConfig& quant) {
        nn::begin_act_scale(act_scale, x, quant.activation);
      },
      nb::arg("act_scale"), nb::arg("x"), nb::arg("quant"),
      "Sets a static step that no forward pass in training has set yet.");
  m.def(
      "forget_codes", [](const at::Tensor& weight) { ops::forget_codes(weight); }, nb::arg("weight"),
      "Packed codes of the weight are made anew: after a change that leaves no trace, through `.data`.");
}

}  // namespace bitlab::python
