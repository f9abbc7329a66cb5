#include "bitlab/base/plugin.h"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <string>

namespace bitlab {
namespace {

// The folder of the library or program that this function is in; empty where it is not known.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return "";
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

}  // namespace

Result<void*> open_plugin(const char* name, const char* variable) {
  const char* named = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): nothing sets it here
  void* library = dlopen(named != nullptr ? named : (own_folder() + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr && named == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* reason = dlerror();
  return make_error(ErrorCode::kUnsupported, "[plugin] {}, got: {}", named != nullptr ? named : name,
                    reason == nullptr ? "no reason" : reason);
}

}  // namespace bitlab
