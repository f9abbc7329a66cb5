// What every network takes and returns here: tensors by name. A network of one tensor is a convenience on top (forward_of).
#pragma once

#include <concepts>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitlab::nn {

// The names of a network of one tensor.
inline constexpr std::string_view kInput = "input", kOutput = "output";

// A few tensors with unique names, in the order in which they were set.
class NamedTensors {
 public:
  using Item = std::pair<std::string, at::Tensor>;

  NamedTensors() = default;
  NamedTensors(std::initializer_list<Item> items);
  // One tensor, called kInput: what a network of one tensor takes.
  NamedTensors(const at::Tensor& input);  // NOLINT(google-explicit-constructor)

  // Copies of the tensors, for a forward pass that may work in place.
  NamedTensors clone() const;
  // Replaces the tensor of that name, or appends it.
  void set(std::string_view name, at::Tensor tensor);
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  // Null where there is none.
  const at::Tensor* find(std::string_view name) const;
  // Throws InvalidArgument, listing the names that are there.
  const at::Tensor& at(std::string_view name) const;

  bool empty() const { return items_.empty(); }
  size_t size() const { return items_.size(); }
  const Item& operator[](size_t index) const { return items_[index]; }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }
  std::string names() const;  // "input, mask"

 private:
  std::vector<Item> items_;
};

// A forward pass.
using Forward = std::function<NamedTensors(const NamedTensors&)>;

// A function of one tensor as a Forward. It reads the first of the inputs, whatever its name; its result is called kOutput.
Forward forward_of(std::function<at::Tensor(const at::Tensor&)> forward);

// A module's forward(NamedTensors), or forward(Tensor), as a Forward. The module must outlive it.
template <class Module>
requires(!std::is_invocable_r_v<at::Tensor, Module&, const at::Tensor&>) Forward forward_of(Module& module) {
  if constexpr (requires(const NamedTensors& x) {
                  { module.forward(x) } -> std::same_as<NamedTensors>;
                }) {
    return [&module](const NamedTensors& inputs) { return module.forward(inputs); };
  } else {
    return forward_of(
        std::function<at::Tensor(const at::Tensor&)>([&module](const at::Tensor& x) { return module.forward(x); }));
  }
}

// The result of a network of one tensor: the first that module.forward(NamedTensors) returns for an input called kInput. Throws
// InvalidArgument where it returns none.
template <class Module>
at::Tensor forward_one(Module& module, const at::Tensor& x) {
  const NamedTensors outputs = module.forward(NamedTensors(x));
  return outputs.empty() ? outputs.at(kOutput) : outputs[0].second;
}

}  // namespace bitlab::nn
