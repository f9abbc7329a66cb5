// How steps get their forms on devices, beside those of the host.
#pragma once

#include <utility>

#include "bitlab/kernels/elementwise/cuda/elementwise.h"
#include "bitlab/kernels/movement/cuda/movement.h"
#include "bitlab/kernels/ternary_embedding/cuda/embedding.h"
#include "bitlab/runtime/internal/chain.h"
#include "bitlab/runtime/internal/device.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

// The step, and in plans for devices what make(DeviceWeights&) returns: a Result<DeviceStep>.
template <class Make>
Result<Step> with_device(const StepContext& context, Step step, const Make& make) {
  if constexpr (kHasDevices) {
    if (context.device != nullptr) {
      BITLAB_TRY(step.device, make(*context.device));
    }
  }
  return step;
}

template <class T>
std::span<const uint8_t> bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// A floating-point constant's copy on the device; null where it is left out.
inline Result<const float*> device_floats(DeviceWeights& device, const StepContext& context, size_t place) {
  if (context.floats(place) == nullptr) return static_cast<const float*>(nullptr);
  BITLAB_TRY(const uint8_t* copy, device.copy_of(context.model.constant(context.node.inputs[place])[0].plain));
  return reinterpret_cast<const float*>(copy);
}

// How a type's elements are called on a device.
inline kernels::CudaType device_type(program::DType dtype) {
  switch (dtype) {
    case program::DType::kFloat32:
      return kernels::CudaType::kFloat32;
    case program::DType::kInt64:
      return kernels::CudaType::kInt64;
    case program::DType::kInt32:
      return kernels::CudaType::kInt32;
    case program::DType::kFloat16:
      return kernels::CudaType::kFloat16;
    case program::DType::kBFloat16:
      return kernels::CudaType::kBFloat16;
    default:
      return kernels::CudaType::kBool;
  }
}

inline const char* run_copy(const DeviceBuffers& b, kernels::CudaCopy copy, const void* source, void* target) {
  copy.source = source, copy.target = target;
  return b.plugin->copy_elements(&copy, b.stream);
}

// A step that looks rows up in a table, for indices in its first input.
inline DeviceStep embedding_on_device(const kernels::CudaEmbedding& table) {
  return DeviceStep{[table](const DeviceBuffers& b) {
                      kernels::CudaEmbedding args = table;
                      args.indices = b.input<int64_t>(0), args.y = b.output(), args.failed = b.failed;
                      return b.plugin->embedding(&args, b.stream);
                    },
                    0, "embedding:cuda"};
}

// A chain of functions on a device.
class DeviceChain {
 public:
  DeviceChain() = default;
  static Result<DeviceChain> of(const Chain& chain, int64_t count, DeviceWeights& device) {
    static_assert(Chain::kMost <= kernels::kCudaChain);
    DeviceChain made;
    made.args_.count = count;
    for (const ChainFunction& f : chain.functions()) {
      BITLAB_TRY(const uint8_t* constant, device.copy_of(f.constant, f.count * int64_t{sizeof(float)}));
      made.inputs_[static_cast<size_t>(made.args_.length)] = f.input;
      made.args_.functions[made.args_.length++] = {f.op, reinterpret_cast<const float*>(constant), f.count};
    }
    return made;
  }
  bool empty() const { return args_.length == 0; }
  const char* run(const DeviceBuffers& b, const float* x, float* y) const {
    kernels::CudaChain args = args_;
    args.x = x, args.y = y;
    for (int i = 0; i < args.length; ++i) {
      auto& f = args.functions[i];
      if (f.b_count != 0 && f.b == nullptr) f.b = b.input(inputs_[static_cast<size_t>(i)]);
    }
    return b.plugin->elementwise(&args, b.stream);
  }
  // Of what a step has written; nothing where the chain is empty.
  const char* run_behind(const DeviceBuffers& b) const { return empty() ? nullptr : run(b, b.output(), b.output()); }

 private:
  kernels::CudaChain args_{};
  std::array<size_t, Chain::kMost> inputs_{};
};

}  // namespace bitlab::runtime
