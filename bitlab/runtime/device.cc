#include "bitlab/runtime/internal/device.h"

#include <charconv>
#include <cstdlib>

#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

Result<std::optional<int>> parse_device(std::string_view text) {
  if (text.empty()) {
    const char* named = std::getenv("BITLAB_DEVICE");
    text = named == nullptr ? "" : named;
  }
  if (text.empty() || text == "cpu") return std::optional<int>();
  if (text == "cuda") return std::optional<int>(0);
  constexpr std::string_view kPrefix = "cuda:";
  int number = -1;
  if (text.starts_with(kPrefix)) {
    const char* end = text.data() + text.size();
    if (const auto read = std::from_chars(text.data() + kPrefix.size(), end, number);
        read.ptr != end || read.ec != std::errc())
      number = -1;
  }
  if (number >= 0) return std::optional<int>(number);
  return make_error(ErrorCode::kInvalidArgument, "[session] a device 'cpu', 'cuda' or 'cuda:<number>', got '{}'", text);
}

Status device_status(const char* wrong) {
  if (wrong == nullptr) return {};
  const bool memory = std::string_view(wrong).find("out of memory") != std::string_view::npos;
  return make_error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal, "[cuda] work on the device, got: {}", wrong);
}

Result<DeviceMemory> DeviceMemory::allocate(const kernels::CudaPlugin& plugin, int64_t bytes) {
  DeviceMemory memory;
  void* data = nullptr;
  if (const char* wrong = plugin.allocate(bytes, &data); wrong != nullptr)
    return make_error(ErrorCode::kOutOfMemory, "[cuda] {} bytes of a device's memory, got: {}", bytes, wrong);
  memory.data_ = {static_cast<uint8_t*>(data), ReleaseDeviceMemory{&plugin}};
  memory.size_ = bytes;
  return memory;
}

Result<DeviceMemory> DeviceWeights::upload(std::span<const uint8_t> bytes) {
  const DeviceScope scope(plugin_, device_);
  BITLAB_RETURN_IF_ERROR(scope.status());
  BITLAB_TRY(DeviceMemory memory, DeviceMemory::allocate(plugin_, static_cast<int64_t>(bytes.size())));
  BITLAB_RETURN_IF_ERROR(
      device_status(plugin_.copy(memory.data(), bytes.data(), static_cast<int64_t>(bytes.size()), nullptr)));
  BITLAB_RETURN_IF_ERROR(device_status(plugin_.synchronize(nullptr)));  // any session's stream may read it
  return memory;
}

template <class Make>
Result<const uint8_t*> DeviceWeights::find(const void* host, Form form, const Make& make) {
  const std::lock_guard lock(mutex_);
  const Key key{host, form};
  const auto known = copies_.find(key);
  if (known != copies_.end()) return static_cast<const uint8_t*>(known->second.data());
  BITLAB_TRY(DeviceMemory made, make());
  return static_cast<const uint8_t*>(copies_.emplace(key, std::move(made)).first->second.data());
}

Result<const uint8_t*> DeviceWeights::copy_of(const void* host, int64_t bytes) {
  if (host == nullptr || bytes == 0) return static_cast<const uint8_t*>(nullptr);
  return find(host, Form::kCopy, [&] { return upload({static_cast<const uint8_t*>(host), static_cast<size_t>(bytes)}); });
}

Result<const uint8_t*> DeviceWeights::mma_of(const ResidentConstant& weight) {
  return find(&weight, Form::kMma, [&]() -> Result<DeviceMemory> {
    BITLAB_TRY(const kernels::PackedTernary packed, kernels::repack_mma(weight.packed));
    return upload(packed.data.bytes());
  });
}

Result<const uint8_t*> DeviceWeights::bytes_of(const ResidentConstant& weight) {
  return find(&weight, Form::kBytes, [&]() -> Result<DeviceMemory> {
    const kernels::PackedTernary& w = weight.packed;
    BITLAB_TRY(AlignedBuffer bytes, AlignedBuffer::allocate(static_cast<size_t>(w.rows * w.depth)));
    for (int64_t row = 0; row < w.rows; ++row)
      kernels::unpack_row(w, row, 0, {reinterpret_cast<int8_t*>(bytes.data()) + row * w.depth, static_cast<size_t>(w.depth)},
                          weight.packing.groups);
    return upload(bytes.bytes());
  });
}

Result<std::shared_ptr<const DeviceMemory>> DeviceWeights::keep(std::span<const uint8_t> bytes) {
  BITLAB_TRY(DeviceMemory memory, upload(bytes));
  return std::shared_ptr<const DeviceMemory>(std::make_shared<DeviceMemory>(std::move(memory)));
}

int64_t DeviceWeights::bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t all = 0;
  for (const auto& [key, memory] : copies_) all += memory.size();
  return all;
}

std::shared_ptr<DeviceWeights> Model::on_device(const kernels::CudaPlugin& plugin, int device) const {
  const std::lock_guard lock(device_mutex_);
  std::shared_ptr<DeviceWeights> weights = on_devices_[device].lock();
  if (weights == nullptr) on_devices_[device] = weights = std::make_shared<DeviceWeights>(plugin, device);
  return weights;
}

Result<std::unique_ptr<DeviceStream>> DeviceStream::open(int device) {
  BITLAB_TRY(const kernels::CudaPlugin* plugin, kernels::cuda_plugin());
  int32_t count = 0;
  const char* wrong = plugin->count_devices(&count);
  if (wrong != nullptr || count == 0)
    return make_error(ErrorCode::kUnsupported, "[session] an NVIDIA GPU and its driver for the device 'cuda:{}', got: {}",
                      device, wrong == nullptr ? "no device" : wrong);
  if (device >= count)
    return make_error(ErrorCode::kUnsupported, "[session] a device from 'cuda:0' to 'cuda:{}', got 'cuda:{}'", count - 1,
                      device);
  std::unique_ptr<DeviceStream> opened(new DeviceStream(*plugin, device));
  const DeviceScope scope = opened->use();
  BITLAB_RETURN_IF_ERROR(scope.status());
  BITLAB_RETURN_IF_ERROR(device_status(plugin->make_stream(&opened->stream_)));
  return opened;
}

DeviceStream::~DeviceStream() {
  if (stream_ == nullptr) return;
  const DeviceScope scope = use();
  plugin_.release_stream(stream_);
}

}  // namespace bitlab::runtime
