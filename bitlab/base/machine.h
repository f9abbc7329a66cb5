// What this CPU is and can do. Selection takes a Machine as an argument, so that it can be asked about any CPU.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "bitlab/base/result.h"

namespace bitlab {

enum class Feature {
#define BITLAB_FEATURE(name, meaning) name,
#include "bitlab/base/features.def"
#undef BITLAB_FEATURE
};

std::string_view feature_name(Feature feature);

class FeatureSet {
 public:
  constexpr FeatureSet() = default;
  constexpr FeatureSet(std::initializer_list<Feature> features) {
    for (Feature f : features) insert(f);
  }
  constexpr void insert(Feature feature) { bits_ |= bit(feature); }
  constexpr bool contains(Feature feature) const { return (bits_ & bit(feature)) != 0; }
  // The features of this set that `other` lacks.
  constexpr FeatureSet minus(FeatureSet other) const {
    FeatureSet result;
    result.bits_ = bits_ & ~other.bits_;
    return result;
  }
  constexpr bool empty() const { return bits_ == 0; }
  std::string to_string() const;  // "avx2 avx512f", in the order of features.def

 private:
  static constexpr uint32_t bit(Feature feature) { return 1U << static_cast<unsigned>(feature); }
  uint32_t bits_ = 0;
};

struct Machine {
  std::string cpu;      // vendor's name, "unknown" where the system does not tell
  FeatureSet features;  // usable: supported by the CPU and enabled by the operating system
  int cores = 1;        // logical processors that this process may use
  int64_t l1d_bytes = 32 << 10;
  int64_t l2_bytes = 1 << 20;
  int64_t l3_bytes = 0;
};

// The machine that the process runs on, detected once.
const Machine& this_machine();

// A machine that stands for a class of CPUs, by the name in machines.def: for questions such as "what would run there?". Its cores
// and caches are the defaults. Error: UnknownName, listing the names.
Result<Machine> named_machine(std::string_view name);

}  // namespace bitlab
