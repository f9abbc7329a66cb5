// Methods in TorchScript.
#pragma once

#include <string_view>

namespace bitlab::deploy::torchscript {

struct Method {
  std::string_view name, source;
};
// Null where there is none.
const Method* find_method(std::string_view name);

}  // namespace bitlab::deploy::torchscript
