// Shared libraries that are used where they are there.
#pragma once

#include "bitlab/base/result.h"

namespace bitlab {

// The file that the environment variable `variable` names, if it is set; else `name` beside the library that this code is part of, then where the loader looks.
// It stays open. What dlsym() takes. Error: Unsupported (with the loader's reason).
Result<void*> open_plugin(const char* name, const char* variable);

}  // namespace bitlab
