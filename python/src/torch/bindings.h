// What the extension module bitlab._torch is made of: all that needs LibTorch. It loads libbitlab_ops, which registers the operators.
#pragma once

#include "casters.h"
#include <functional>
#include <memory>
#include <string>

namespace bitlab::python {

void bind_layers(nanobind::module_& m);
void bind_convert(nanobind::module_& m);
void bind_deploy(nanobind::module_& m);
void bind_train(nanobind::module_& m);

// An object of Python that C++ may copy and drop without Python's lock.
class Shared {
 public:
  explicit Shared(nanobind::object object)
      : object_(new nanobind::object(std::move(object)), [](nanobind::object* held) {
          const nanobind::gil_scoped_acquire gil;
          delete held;
        }) {}
  // With Python's lock alone.
  const nanobind::object& get() const { return *object_; }

 private:
  std::shared_ptr<nanobind::object> object_;
};

// A function of Python from a dict of tensors to one, as a forward pass that C++ calls without Python's lock.
nn::Forward forward_of(const nanobind::object& function);

// A function of Python without arguments that returns a number, likewise.
std::function<double()> measure_of(const nanobind::object& function);
// One that returns a text.
std::function<std::string()> text_of(const nanobind::object& function);

}  // namespace bitlab::python
