// Processes that exchange tensors on devices without the host's memory.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace bitlab::train {

// What the plug-in libbitlab_nccl.so exports as `bitlab_device_group`: the group of `size` processes that meet at a store, of which this is `rank`, for tensors
// on its device. LibTorch's exceptions where it cannot be. Of one LibTorch with whoever calls it.
using MakeDeviceGroup = void(c10::intrusive_ptr<c10d::Backend>& group, const c10::intrusive_ptr<c10d::Store>& store,
                             int rank, int size, c10::Device device);

}  // namespace bitlab::train
