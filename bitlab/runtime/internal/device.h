// What a session has of an NVIDIA GPU: memory and a stream, by the plug-in's table (kernels/internal/cuda_plugin.h).
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string_view>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/runtime/model.h"

namespace bitlab::runtime {

inline constexpr int64_t kDeviceAlignment = 256;  // of memory there, and of what steps have in it

// The number of "cuda" (0) or "cuda:<number>"; nothing for "cpu". "": what the environment variable BITLAB_DEVICE says, else "cpu". Error:
// InvalidArgument.
Result<std::optional<int>> parse_device(std::string_view text);

// An error of what a function of the plug-in returns: OutOfMemory, or Internal.
Status device_status(const char* wrong);

// Makes a device the calling thread's, and at the end the one that was it: a program may use others.
class DeviceScope {
 public:
  DeviceScope(const kernels::CudaPlugin& plugin, int device) : plugin_(plugin) {
    int32_t before = device;
    status_ = device_status(plugin.use_device(device, &before));
    if (status_.ok() && before != device) before_ = before;
  }
  ~DeviceScope() {
    if (before_) static_cast<void>(plugin_.use_device(*before_, nullptr));
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  const Status& status() const { return status_; }

 private:
  const kernels::CudaPlugin& plugin_;
  std::optional<int> before_;
  Status status_;
};

struct ReleaseDeviceMemory {
  const kernels::CudaPlugin* plugin = nullptr;
  void operator()(uint8_t* data) const { plugin->release(data); }
};

class DeviceMemory {
 public:
  // Of the thread's current device, aligned to kDeviceAlignment; whatever stands there. Error: OutOfMemory.
  static Result<DeviceMemory> allocate(const kernels::CudaPlugin& plugin, int64_t bytes);

  uint8_t* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  std::unique_ptr<uint8_t, ReleaseDeviceMemory> data_;
  int64_t size_ = 0;
};

// The weights of a model on a device, as its sessions share them: copied when the first plan wants them, and given back with the last session.
class DeviceWeights {
 public:
  DeviceWeights(const kernels::CudaPlugin& plugin, int device) : plugin_(plugin), device_(device) {}

  const kernels::CudaPlugin& plugin() const { return plugin_; }
  int device() const { return device_; }

  // A copy of the host's memory, which stays as it is as long as the model. Null for null. Errors: those of DeviceMemory and of the copy.
  Result<const uint8_t*> copy_of(const void* host, int64_t bytes);
  Result<const uint8_t*> copy_of(const AlignedBuffer& buffer) {
    return copy_of(buffer.data(), static_cast<int64_t>(buffer.size()));
  }
  // Codes in kMma, of a weight without groups of channels.
  Result<const uint8_t*> mma_of(const ResidentConstant& weight);
  // A byte a weight, int8 [rows, depth].
  Result<const uint8_t*> bytes_of(const ResidentConstant& weight);
  // Memory of a step's own, with these bytes.
  Result<std::shared_ptr<const DeviceMemory>> keep(std::span<const uint8_t> bytes);

  // Bytes of all copies.
  int64_t bytes() const;

 private:
  enum class Form { kCopy, kMma, kBytes };
  using Key = std::pair<const void*, Form>;
  Result<DeviceMemory> upload(std::span<const uint8_t> bytes);
  template <class Make>
  Result<const uint8_t*> find(const void* host, Form form, const Make& make);

  const kernels::CudaPlugin& plugin_;
  int device_;
  mutable std::mutex mutex_;
  std::map<Key, DeviceMemory> copies_;
};

// A device that was opened for a session, with a stream of its own.
class DeviceStream {
 public:
  // Errors: Unsupported, where there is no plug-in, no driver or no such device.
  static Result<std::unique_ptr<DeviceStream>> open(int device);
  ~DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  const kernels::CudaPlugin& plugin() const { return plugin_; }
  int device() const { return device_; }
  void* get() const { return stream_; }
  DeviceScope use() const { return {plugin_, device_}; }
  Status copy(void* to, const void* from, int64_t bytes) const {
    return bytes == 0 ? Status() : device_status(plugin_.copy(to, from, bytes, stream_));
  }
  Status synchronize() const { return device_status(plugin_.synchronize(stream_)); }

 private:
  DeviceStream(const kernels::CudaPlugin& plugin, int device) : plugin_(plugin), device_(device) {}
  const kernels::CudaPlugin& plugin_;
  int device_;
  void* stream_ = nullptr;
};

}  // namespace bitlab::runtime
