#include "bitlab/runtime/internal/cast.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bitlab/base/internal/half.h"

namespace bitlab::runtime {
namespace {

using program::DType;

// How an element lies in memory, and what it stands for.
struct Float32 {
  using Stored = float;
  static float load(float v) { return v; }
  template <class T>
  static float store(T v) {
    return static_cast<float>(v);
  }
};
template <float (*kLoad)(uint16_t), uint16_t (*kStore)(float)>
struct Half {
  using Stored = uint16_t;
  static float load(uint16_t v) { return kLoad(v); }
  template <class T>
  static uint16_t store(T v) {
    return kStore(static_cast<float>(v));
  }
};
template <class T>
struct Integer {
  using Stored = T;
  static int64_t load(T v) { return v; }
  static T store(int64_t v) { return static_cast<T>(v); }
  static T store(float v) {
    constexpr T kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
    if (std::isnan(v)) return 0;
    if (v >= -static_cast<float>(kLeast)) return kMost;  // 2^31 or 2^63
    return v <= static_cast<float>(kLeast) ? kLeast : static_cast<T>(v);
  }
};
struct Bool {
  using Stored = uint8_t;
  static int64_t load(uint8_t v) { return v != 0 ? 1 : 0; }
  template <class T>
  static uint8_t store(T v) {
    return v != 0 ? 1 : 0;
  }
};

template <class From, class To>
void convert(const void* source, void* target, int64_t count) {
  const auto* in = static_cast<const typename From::Stored*>(source);
  std::transform(in, in + count, static_cast<typename To::Stored*>(target),
                 [](auto element) { return To::store(From::load(element)); });
}

// Calls with the type that stands for a dtype.
template <class Function>
void with_type(DType dtype, Function function) {
  switch (dtype) {
    case DType::kFloat32:
      return function(Float32());
    case DType::kFloat16:
      return function(Half<half_to_float, float_to_half>());
    case DType::kBFloat16:
      return function(Half<bfloat_to_float, float_to_bfloat>());
    case DType::kInt64:
      return function(Integer<int64_t>());
    case DType::kInt32:
      return function(Integer<int32_t>());
    case DType::kBool:
      return function(Bool());
  }
}

}  // namespace

void cast(DType from, const void* source, DType to, void* target, int64_t count) {
  with_type(from,
            [&](auto in) { with_type(to, [&](auto out) { convert<decltype(in), decltype(out)>(source, target, count); }); });
}

}  // namespace bitlab::runtime
