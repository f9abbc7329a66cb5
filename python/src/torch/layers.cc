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

// ops::bit_recurrent of a packed sequence: y [sum, H], h_n and c_n [batch, H], the last empty for a GRU. What the operator bit_recurrent takes, otherwise.
std::tuple<at::Tensor, at::Tensor, at::Tensor> packed_bit_recurrent(
    const at::Tensor& x, const at::Tensor& batch_sizes, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& h0, const std::optional<at::Tensor>& c0, std::string_view cell, bool reverse,
    std::string_view spec, std::string_view activation, std::vector<at::Tensor> learned,
    const std::optional<at::Tensor>& act_scale, double blend) {
  const ops::RecurrentInputs inputs{
      kernels::parse_recurrent_cell(cell).value(), x, ops::tensor_of(h0), ops::tensor_of(c0), reverse, batch_sizes};
  const ops::WeightQuant quant{ternary::parse_weight_spec(spec).value(), std::move(learned)};
  const ops::ActQuant act{ternary::parse_act_kind(activation).value(), ops::tensor_of(act_scale)};
  auto [y, h_n, c_n] = ops::bit_recurrent(inputs, weight, bias, quant, act, blend);
  return {std::move(y), std::move(h_n), c_n.defined() ? std::move(c_n) : at::empty({0}, x.options())};
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
  m.def("packed_bit_recurrent", &packed_bit_recurrent, nb::arg("x"), nb::arg("batch_sizes"), nb::arg("weight"),
        nb::arg("bias").none(), nb::arg("h0").none(), nb::arg("c0").none(), nb::arg("cell"), nb::arg("reverse"),
        nb::arg("spec"), nb::arg("activation"), nb::arg("learned"), nb::arg("act_scale").none() = nb::none(),
        nb::arg("blend") = 1.0, "The operator bit_recurrent of a packed sequence: x [sum, gates H], batch_sizes int64 [T].");
  m.def(
      "forget_codes", [](const at::Tensor& weight) { ops::forget_codes(weight); }, nb::arg("weight"),
      "Packed codes of the weight are made anew: after a change that leaves no trace, through `.data`.");
}

}  // namespace bitlab::python
