// What was built, and from what.
#pragma once

#include <string>
#include <string_view>

namespace bitlab {

std::string_view version();      // "0.1.0", from the git tag
std::string_view build_facts();  // "GNU 12.2.0, RelWithDebInfo, x86_64"
std::string_view source_dir();   // the checkout that this was built from

}  // namespace bitlab
