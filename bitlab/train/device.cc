#include "bitlab/train/device.h"

#include <charconv>
#include <cstdlib>

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

namespace bitlab::train {
namespace {

std::optional<at::Device> parse(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  try {
    const at::Device device(name);
    if (device.is_cuda()) return device;
  } catch (const c10::Error&) {
  }
  return std::nullopt;
}

// The place of this process among those of its machine; 0 where it is alone.
Result<at::DeviceIndex> local_rank() {
  const char* text = std::getenv("LOCAL_RANK");  // NOLINT(concurrency-mt-unsafe): nothing sets it here
  if (text == nullptr) return at::DeviceIndex{0};
  const std::string_view view = text;
  int rank = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), rank);
  if (error == std::errc() && end == view.data() + view.size() && rank >= 0 && rank < 128)
    return static_cast<at::DeviceIndex>(rank);
  return make_error(ErrorCode::kInvalidArgument, "[train] a number in LOCAL_RANK, as torchrun sets it, got '{}'", view);
}

}  // namespace

Status check_device_name(const std::string& name) {
  if (name.empty() || parse(name)) return {};
  return make_error(ErrorCode::kInvalidArgument, "[train] a device 'cpu', 'cuda' or 'cuda:<number>', got '{}'", name);
}

Result<std::optional<at::Device>> find_device(const std::string& name) {
  if (name.empty()) return std::optional<at::Device>();
  BITLAB_RETURN_IF_ERROR(check_device_name(name));
  at::Device device = *parse(name);
  if (device.is_cpu()) return std::optional(device);
  const auto& cuda = at::detail::getCUDAHooks();
  if (!cuda.hasCUDART())
    return make_error(ErrorCode::kUnsupported, "[train] a LibTorch with CUDA for the device '{}', got one for the CPU alone",
                      name);
  const int count = cuda.getNumGPUs();
  if (count == 0)
    return make_error(ErrorCode::kUnsupported, "[train] an NVIDIA GPU and its driver for the device '{}', got none", name);
  if (!device.has_index()) {
    BITLAB_TRY(const at::DeviceIndex index, local_rank());
    device.set_index(index);
  }
  if (device.index() >= count)
    return make_error(ErrorCode::kUnsupported, "[train] a device from 'cuda:0' to 'cuda:{}', got 'cuda:{}'", count - 1,
                      static_cast<int>(device.index()));
  return std::optional(device);
}

void wait_for(at::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeStream(guard.getStream(device));
}

}  // namespace bitlab::train
