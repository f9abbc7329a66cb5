// Where a network trains.
#pragma once

#include <optional>
#include <string>

#include <c10/core/Device.h>

#include "bitlab/base/result.h"

namespace bitlab::train {

// The device that TrainingConfig::device names: cpu, cuda (the first NVIDIA GPU, or where torchrun sets LOCAL_RANK that of this process) or
// cuda:<number>; nothing where it is empty. Errors: InvalidArgument (another name), Unsupported (a device that this machine, or LibTorch's build, does
// not have).
Result<std::optional<at::Device>> find_device(const std::string& name);

// Whether it is such a name, of a device that need not be there. Error: InvalidArgument.
Status check_device_name(const std::string& name);

// Waits for what this thread has asked of the device (its current stream); the CPU is done.
void wait_for(at::Device device);

}  // namespace bitlab::train
