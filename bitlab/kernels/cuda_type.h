// Types of what kernels of a device read and write.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

enum class CudaType : uint8_t { kFloat32, kInt64, kInt32, kBool, kFloat16, kBFloat16 };

}  // namespace bitlab::kernels
