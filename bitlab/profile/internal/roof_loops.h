// The loops that measure roofs, a row each of roofs.def.
#pragma once

#include <cstdint>
#include <span>

#include "bitlab/base/machine.h"

namespace bitlab::profile {

enum class RoofKind { kRead, kInt8, kFloat32 };

struct RoofLoop {
  const char* name;
  RoofKind kind;
  FeatureSet needs;
  double products;  // of a step
  void (*run)(
      const void* data,
      int64_t count);  // reads `count` bytes, a multiple of 256, or takes as many steps; null: not part of this build
};

std::span<const RoofLoop> roof_loops();

// The fastest loop of a kind that the machine can run.
const RoofLoop& fastest_loop(RoofKind kind, const Machine& machine = this_machine());

}  // namespace bitlab::profile
