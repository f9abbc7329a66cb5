// What functions of the plug-in return (kernels/internal/cuda_table.h): null, or what is wrong.
#pragma once

#include <cuda_runtime.h>

namespace bitlab::cuda {

// CUDA keeps a call's error for whoever asks next, which would be the next launch.
inline const char* problem(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

// Of the kernels that were just started.
inline const char* launch_problem() { return problem(cudaGetLastError()); }

}  // namespace bitlab::cuda
