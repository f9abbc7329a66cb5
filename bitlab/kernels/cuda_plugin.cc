#include "bitlab/kernels/internal/cuda_plugin.h"

#include <dlfcn.h>

#include "bitlab/base/plugin.h"

namespace bitlab::kernels {
namespace {

constexpr const char* kName = "libbitlab_cuda.so";

Result<const CudaPlugin*> load() {
  const Result<void*> library = open_plugin(kName, "BITLAB_CUDA_PLUGIN");
  if (!library.ok())
    return make_error(ErrorCode::kUnsupported, "[cuda] {}, which a build with BITLAB_CUDA makes: {}", kName,
                      library.error().message);
  const auto table = reinterpret_cast<const CudaPlugin* (*)()>(dlsym(*library, "bitlab_cuda_plugin"));
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
