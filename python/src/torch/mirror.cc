#include "mirror.h"

#include <functional>
#include <map>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>

#include "bitlab/convert/bit_model.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

using torch::nn::Module;
using ModulePtr = std::shared_ptr<Module>;

template <class T>
T get(const nb::handle& object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

// "torch::nn::LSTM" for what comes with PyTorch, since such weights are no products of the user's; else "package.file.Class".
std::string name_of(const nb::handle& type) {
  const auto package = get<std::string>(type, "__module__"), name = get<std::string>(type, "__qualname__");
  return package.starts_with("torch.nn.modules.") ? "torch::nn::" + name : package + "." + name;
}

// What LibTorch shows to derived classes alone.
struct Opened : Module {
  static auto& parameters_of(Module& module) { return module.*(&Opened::parameters_); }
};

// The members of LibTorch's classes that hold what they registered.
template <class Impl>
void hold(Impl& module) {
  auto& parameters = Opened::parameters_of(module);
  const auto at = [&](const char* key) { return parameters.contains(key) ? parameters[key] : at::Tensor(); };
  module.weight = at("weight");
  if constexpr (requires { module.bias; }) module.bias = at("bias");
}

// A module of LibTorch's, and what gives its members their tensors.
struct Made {
  ModulePtr module;
  std::function<void()> hold;
};

template <class Impl, class Options>
Made made(const Options& options) {
  auto module = std::make_shared<Impl>(options);
  return {module, [module] { hold(*module); }};
}

// Hugging Face's, x W with a weight [in, out]: a linear layer of its transpose.
Made transposed_linear(const nb::handle&) {
  auto module = std::make_shared<torch::nn::LinearImpl>(torch::nn::LinearOptions(1, 1));
  return {module, [module] {
            auto& weight = Opened::parameters_of(*module)["weight"];
            const at::AutoGradMode grad(true);
            weight = weight.t();
            hold(*module);
          }};
}

// Of a layer whose sizes nobody asks for.
template <class Impl, class Options>
Made sized(const nb::handle&) {
  return made<Impl>(Options(1, 1));
}

template <size_t D>
torch::ExpandingArray<D> sizes(const nb::handle& object, const char* name) {
  const nb::object value = object.attr(name);
  if (nb::isinstance<nb::int_>(value)) return torch::ExpandingArray<D>(nb::cast<int64_t>(value));
  std::array<int64_t, D> numbers{};
  for (size_t i = 0; i < D; ++i) numbers[i] = nb::cast<int64_t>(value[i]);
  return torch::ExpandingArray<D>(numbers);
}

// As far as conversion asks for options: how the weight lies, not how the input is padded.
template <size_t D, class Impl>
Made conv(const nb::handle& source) {
  const auto groups = get<int64_t>(source, "groups");
  torch::nn::detail::ConvNdOptions<D> options(groups, groups, 1);
  options.stride(sizes<D>(source, "stride")).dilation(sizes<D>(source, "dilation")).groups(groups);
  options.output_padding(sizes<D>(source, "output_padding")).transposed(get<bool>(source, "transposed"));
  auto module = std::make_shared<Impl>(
      typename std::conditional_t<std::is_constructible_v<Impl, torch::nn::ConvTransposeOptions<D>>,
                                  torch::nn::ConvTransposeOptions<D>, torch::nn::ConvOptions<D>>(groups, groups, 1));
  module->options = options;
  return {module, [module] { hold(*module); }};
}

// Of a layer of several weights, which nobody reads here.
template <class Impl, class Options>
Made recurrent(const nb::handle&) {
  return {std::make_shared<Impl>(Options(1, 1)), [] {}};
}

// Its parts come from Python: out_proj, and in_proj_weight among its parameters.
Made attention(const nb::handle&) {
  auto module = std::make_shared<torch::nn::MultiheadAttentionImpl>(torch::nn::MultiheadAttentionOptions(1, 1));
  module->unregister_module("out_proj");
  return {module, [] {}};
}

using Make = Made (*)(const nb::handle&);
const std::map<std::string, Make>& makers() {
  using namespace torch::nn;
  static const std::map<std::string, Make> makers{
      {"torch.nn.modules.linear.Linear", sized<LinearImpl, LinearOptions>},
      {"torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
       sized<LinearImpl, LinearOptions>},  // out_proj of MultiheadAttention
      {"transformers.pytorch_utils.Conv1D", transposed_linear},
      {"torch.nn.modules.conv.Conv1d", conv<1, Conv1dImpl>},
      {"torch.nn.modules.conv.Conv2d", conv<2, Conv2dImpl>},
      {"torch.nn.modules.conv.Conv3d", conv<3, Conv3dImpl>},
      {"torch.nn.modules.conv.ConvTranspose1d", conv<1, ConvTranspose1dImpl>},
      {"torch.nn.modules.conv.ConvTranspose2d", conv<2, ConvTranspose2dImpl>},
      {"torch.nn.modules.conv.ConvTranspose3d", conv<3, ConvTranspose3dImpl>},
      {"torch.nn.modules.sparse.Embedding", sized<EmbeddingImpl, EmbeddingOptions>},
      {"torch.nn.modules.sparse.EmbeddingBag", sized<EmbeddingBagImpl, EmbeddingBagOptions>},
      {"torch.nn.modules.rnn.LSTM", recurrent<LSTMImpl, LSTMOptions>},
      {"torch.nn.modules.rnn.GRU", recurrent<GRUImpl, GRUOptions>},
      {"torch.nn.modules.activation.MultiheadAttention", attention},
  };
  return makers;
}

// The module whose train() is Python's.
struct Root : Module {
  Root(std::string name, nb::object module) : Module(std::move(name)), source(std::move(module)) {}
  void train(bool on) override {
    {
      const nb::gil_scoped_acquire gil;
      source.get().attr("train")(on);
    }
    Module::train(on);
  }
  Shared source;
};

class Mirror {
 public:
  ModulePtr of(const nb::handle& source, bool is_root) {
    const auto known = seen_.find(source.ptr());
    if (known != seen_.end()) return known->second;
    const nb::handle type = source.type();
    const auto maker = makers().find(get<std::string>(type, "__module__") + "." + get<std::string>(type, "__qualname__"));
    Made made{nullptr, [] {}};
    if (is_root) {  // a layer by itself is somebody's class with parameters
      made.module = std::make_shared<Root>(maker == makers().end() ? name_of(type) : get<std::string>(type, "__qualname__"),
                                           nb::borrow(source));
    } else if (maker != makers().end()) {
      made = maker->second(source);
    } else {
      made.module = std::make_shared<Module>(name_of(type));
    }
    seen_[source.ptr()] = made.module;
    fill(*made.module, source);
    made.hold();
    return made.module;
  }

 private:
  void fill(Module& module, const nb::handle& source) {
    auto& parameters = Opened::parameters_of(module);
    parameters.clear();
    for_each(source, "_parameters", [&](const std::string& name, const nb::handle& tensor) {
      parameters.insert(name, nb::cast<at::Tensor>(tensor));
    });
    for_each(source, "_buffers", [&](const std::string& name, const nb::handle& tensor) {
      module.register_buffer(name, nb::cast<at::Tensor>(tensor));
    });
    for_each(source, "_modules",
             [&](const std::string& name, const nb::handle& child) { module.register_module(name, of(child, false)); });
  }

  // Those of modules of TorchScript are no dicts, but have their items.
  template <class Visit>
  static void for_each(const nb::handle& source, const char* members, const Visit& visit) {
    for (const nb::handle item : source.attr(members).attr("items")()) {
      const auto [name, member] = nb::cast<std::pair<std::string, nb::object>>(item);
      if (!member.is_none()) visit(name, member);
    }
  }

  std::map<PyObject*, ModulePtr> seen_;
};

}  // namespace

ModulePtr mirror_of(const nb::object& module) {
  ModulePtr root = Mirror().of(module, true);
  root->Module::train(get<bool>(module, "training"));
  return root;
}

ModulePtr module_of(const nb::object& module) {
  if (nb::isinstance<convert::BitModel>(module)) return nb::cast<std::shared_ptr<convert::BitModel>>(module);
  return mirror_of(module);
}

}  // namespace bitlab::python
