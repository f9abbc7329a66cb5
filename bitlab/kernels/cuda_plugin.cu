#include "bitlab/base/internal/cuda_error.h"
#include "bitlab/kernels/internal/cuda_operations.h"
#include "bitlab/kernels/ternary_gemm/cuda/ternary_gemm.h"
#include "bitlab/kernels/encode/cuda/encode.h"

namespace bitlab::kernels {
namespace {

using cuda::problem;

cudaStream_t of(void* stream) { return static_cast<cudaStream_t>(stream); }

void add_memory(CudaPlugin& table) {
  table.count_devices = [](int32_t* count) { return problem(cudaGetDeviceCount(count)); };
  table.use_device = [](int32_t device, int32_t* before) {
    if (before != nullptr)
      if (const char* wrong = problem(cudaGetDevice(before))) return wrong;
    return problem(cudaSetDevice(device));
  };
  table.allocate = [](int64_t bytes, void** memory) { return problem(cudaMalloc(memory, static_cast<size_t>(bytes))); };
  table.release = [](void* memory) { static_cast<void>(problem(cudaFree(memory))); };
  table.copy = [](void* to, const void* from, int64_t bytes, void* stream) {
    return problem(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, of(stream)));
  };
  table.zero = [](void* to, int64_t bytes, void* stream) {
    return problem(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), of(stream)));
  };
}

void add_streams(CudaPlugin& table) {
  table.make_stream = [](void** stream) {
    cudaStream_t made = nullptr;
    const char* wrong = problem(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    *stream = made;
    return wrong;
  };
  table.release_stream = [](void* stream) { static_cast<void>(problem(cudaStreamDestroy(of(stream)))); };
  table.synchronize = [](void* stream) { return problem(cudaStreamSynchronize(of(stream))); };
  table.begin_graph = [](void* stream) { return problem(cudaStreamBeginCapture(of(stream), cudaStreamCaptureModeThreadLocal)); };
  table.end_graph = [](void* stream, void** graph) {
    cudaGraph_t captured = nullptr;
    cudaGraphExec_t made = nullptr;
    cudaError_t error = cudaStreamEndCapture(of(stream), &captured);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&made, captured, 0);
    if (captured != nullptr) cudaGraphDestroy(captured);
    *graph = made;
    return problem(error);
  };
  table.run_graph = [](void* graph, void* stream) {
    return problem(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), of(stream)));
  };
  table.release_graph = [](void* graph) { static_cast<void>(problem(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)))); };
  table.is_capturing = [](void* stream, int32_t* answer) {
    cudaStreamCaptureStatus status{};
    const char* wrong = problem(cudaStreamIsCapturing(of(stream), &status));
    *answer = status != cudaStreamCaptureStatusNone ? 1 : 0;
    return wrong;
  };
}

CudaPlugin make_table() {
  CudaPlugin table{};
  add_operations(table);
  add_memory(table);
  add_streams(table);
  table.encode_absmean = cuda_encode_absmean;
  table.pack_ternary = cuda_pack_ternary;
  table.finish_sums = [](const TernaryGemmArgs* args, const int32_t* sums, int64_t sum_stride, int64_t tokens, void* stream) {
    return cuda_finish_sums(*args, sums, sum_stride, tokens, stream);
  };
  table.ternary_gemm = [](const TernaryGemmArgs* args, int64_t tokens, int32_t product, void* stream) {
    return cuda_ternary_gemm(*args, tokens, static_cast<CudaProduct>(product), stream);
  };
  return table;
}

}  // namespace
}  // namespace bitlab::kernels

extern "C" __attribute__((visibility("default"))) const bitlab::kernels::CudaPlugin* bitlab_cuda_plugin() {
  static const bitlab::kernels::CudaPlugin plugin = bitlab::kernels::make_table();
  return &plugin;
}
