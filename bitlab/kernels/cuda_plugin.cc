#include "bitlab/kernels/cuda_plugin.h"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>

namespace bitlab::kernels {
namespace {

constexpr const char* kName = "libbitlab_cuda.so";

// The folder of the library or program that this function is in; empty where it is not known.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return "";
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

Result<const CudaPlugin*> load() {
  const char* named = std::getenv("BITLAB_CUDA_PLUGIN");
  void* library = dlopen(named != nullptr ? named : (own_folder() + "/" + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr && named == nullptr) library = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return make_error(ErrorCode::kUnsupported, "[cuda] {}, which a build with BITLAB_CUDA makes, got: {}", kName,
                      reason == nullptr ? "no reason" : reason);
  }
  const auto table = reinterpret_cast<const CudaPlugin* (*)()>(dlsym(library, "bitlab_cuda_plugin"));
  const CudaPlugin* plugin = table == nullptr ? nullptr : table();
  if (plugin == nullptr || plugin->version != CudaPlugin::kVersion)
    return make_error(ErrorCode::kUnsupported, "[cuda] {} of version {}, got {}", kName, CudaPlugin::kVersion,
                      plugin == nullptr ? 0 : plugin->version);
  return plugin;
}

}  // namespace

const Result<const CudaPlugin*>& cuda_plugin() {
  static const Result<const CudaPlugin*> loaded = load();
  return loaded;
}

}  // namespace bitlab::kernels
