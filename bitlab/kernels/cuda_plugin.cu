#include "bitlab/kernels/activation_quant/cuda/activation_quant.h"
#include "bitlab/kernels/cuda_plugin.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/ternary/cuda/encode.h"

namespace {

const char* ternary_gemm(const bitlab::kernels::TernaryGemmArgs* args, int64_t tokens, int32_t product, void* stream) {
  return bitlab::kernels::cuda_ternary_gemm(*args, tokens, static_cast<bitlab::kernels::CudaProduct>(product), stream);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const bitlab::kernels::CudaPlugin* bitlab_cuda_plugin() {
  static const bitlab::kernels::CudaPlugin plugin{bitlab::kernels::CudaPlugin::kVersion, bitlab::kernels::cuda_activation_quant,
                                                  bitlab::ternary::cuda_encode_absmean, bitlab::kernels::cuda_finish_sums, ternary_gemm};
  return &plugin;
}
