// What tests of any library share.
#pragma once

#include <string>

#include "bitlab/base/result.h"

namespace bitlab::test {

// What bitlab::Exception says, or "no error".
template <class Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace bitlab::test
