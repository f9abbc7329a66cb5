// What the registry of weights and the operators that look into it share.
#pragma once

#include <string_view>

#include "bitlab/convert/interception.h"

namespace bitlab::convert {

inline constexpr c10::DispatchKey kInterceptionKey = c10::DispatchKey::DeferredInit;

// That of the innermost guard of the calling thread; null outside.
const WeightRegistry* current_registry();

// Whether an operator makes a view, or may: what becomes of its result counts.
bool is_view(std::string_view op);

}  // namespace bitlab::convert
