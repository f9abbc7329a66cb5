// libbitlab_cuda.so, the kernels for NVIDIA GPUs: a library of its own that is loaded when a device is first asked for, so that programs run where it
// or a driver is missing.
#pragma once

#include "bitlab/base/result.h"
#include "bitlab/kernels/internal/cuda_table.h"

namespace bitlab::kernels {

// Looked for once: the file that the environment variable BITLAB_CUDA_PLUGIN names, if it is set; else beside the library that this code is part of, then
// where the system's loader looks. Error: Unsupported, with what was expected and found.
const Result<const CudaPlugin*>& cuda_plugin();

}  // namespace bitlab::kernels
