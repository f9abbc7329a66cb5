#include "bitlab/kernels/elementwise/cuda/elementwise.h"

#include "bitlab/kernels/internal/cuda_half.h"
#include "bitlab/kernels/internal/cuda_integers.h"
#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/internal/float_math.h"

namespace bitlab::kernels {
namespace {

BITLAB_HOST_DEVICE float unary(Elementwise op, float value) {
  const F32x16 x = value;
  switch (op) {
#define BITLAB_UNARY(name, formula) \
  case Elementwise::name:           \
    return lane(formula);
#define BITLAB_BINARY(name, formula)
#include "bitlab/kernels/elementwise/elementwise.def"
    default:
      return value;
  }
}

BITLAB_HOST_DEVICE float binary(Elementwise op, float left, float right) {
  const F32x16 a = left, b = right;
  switch (op) {
#define BITLAB_UNARY(name, formula)
#define BITLAB_BINARY(name, formula) \
  case Elementwise::name:            \
    return lane(formula);
#include "bitlab/kernels/elementwise/elementwise.def"
    default:
      return left;
  }
}

BITLAB_HOST_DEVICE int64_t place(int64_t i, int64_t period, int64_t count) {
  if (period == count) return i;
  return period == 1 ? 0 : i - cuda::divided(i, period) * period;
}

struct EachOfChain : CudaChain {
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    float value = x[i];
    for (int j = 0; j < length; ++j) {
      const Function& f = functions[j];
      value = f.b_count == 0 ? unary(f.op, value) : binary(f.op, value, f.b[place(i, f.b_count, count)]);
    }
    y[i] = value;
  }
};

template <class T>
struct EachOfZip : CudaZip {
  explicit EachOfZip(const CudaZip& zip) : CudaZip(zip) {}

  BITLAB_HOST_DEVICE bool compared(T left, T right) const {
    switch (op) {
      case CudaBinary::kEqual:
        return left == right;
      case CudaBinary::kNotEqual:
        return left != right;
      case CudaBinary::kLess:
        return left < right;
      default:
        return left <= right;
    }
  }
  BITLAB_HOST_DEVICE T bits(T left, T right) const {
    if constexpr (std::is_integral_v<T>) {
      if (op == CudaBinary::kAnd) return static_cast<T>(left & right);
      if (op == CudaBinary::kOr) return static_cast<T>(left | right);
      return static_cast<T>(left ^ right);
    }
    return left;
  }
  // Of int64 and int32.
  BITLAB_HOST_DEVICE T divided(T left, T right) const {
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      if (right == 0) {
        *failed = 1;
        return 0;
      }
      if (right == -1) return wrapped_difference(T{0}, left);  // the least one wraps
      return static_cast<T>(left / right - (left % right != 0 && (left < 0) != (right < 0) ? 1 : 0));
    }
    return left;
  }
  BITLAB_HOST_DEVICE T shifted(T left, T right) const {
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      constexpr T kBits = 8 * sizeof(T);
      const bool is_within = right >= 0 && right < kBits;
      if (op == CudaBinary::kShiftLeft) return is_within ? static_cast<T>(wrapping(left) << right) : 0;
      return is_within ? static_cast<T>(left >> right) : left < 0 ? -1 : 0;
    }
    return left;
  }
  BITLAB_HOST_DEVICE T combined(T left, T right) const {
    switch (op) {
      case CudaBinary::kAdd:
        return wrapped_sum(left, right);
      case CudaBinary::kSub:
        return wrapped_difference(left, right);
      case CudaBinary::kMul:
        return wrapped_product(left, right);
      case CudaBinary::kMinimum:
        return right < left ? right : left;
      case CudaBinary::kMaximum:
        return left < right ? right : left;
      case CudaBinary::kFloorDivide:
        return divided(left, right);
      case CudaBinary::kShiftLeft:
      case CudaBinary::kShiftRight:
        return shifted(left, right);
      default:
        return bits(left, right);
    }
  }
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const T left = static_cast<const T*>(a)[i], right = static_cast<const T*>(b)[place(i, b_count, count)];
    if (is_comparison(op)) {
      static_cast<uint8_t*>(y)[i] = compared(left, right) ? 1 : 0;
    } else {
      static_cast<T*>(y)[i] = combined(left, right);
    }
  }
};

template <class T>
struct EachOfWhere : CudaWhere {
  explicit EachOfWhere(const CudaWhere& where) : CudaWhere(where) {}
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    static_cast<T*>(y)[i] = static_cast<const T*>(condition[i] != 0 ? a : b)[i];
  }
};

// As an integer: cut off, the nearest value where there is none, 0 of NaN.
template <class To, class From>
BITLAB_HOST_DEVICE To whole(From value) {
  if constexpr (!std::is_integral_v<From>) {
    constexpr To kLeast = static_cast<To>(To{1} << (8 * sizeof(To) - 2)) * -2, kMost = -(kLeast + 1);
    if (value != value) return 0;
    if (value >= -static_cast<From>(kLeast)) return kMost;
    if (value <= static_cast<From>(kLeast)) return kLeast;
  }
  return static_cast<To>(value);
}

template <class From>
struct EachOfCast : CudaCast {
  explicit EachOfCast(const CudaCast& cast) : CudaCast(cast) {}
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const auto value = value_of(static_cast<const From*>(x)[i]);
    switch (to) {
      case CudaType::kFloat16:
        static_cast<uint16_t*>(y)[i] = half_bits(static_cast<float>(value));
        return;
      case CudaType::kBFloat16:
        static_cast<uint16_t*>(y)[i] = bfloat_bits(static_cast<float>(value));
        return;
      case CudaType::kFloat32:
        static_cast<float*>(y)[i] = static_cast<float>(value);
        return;
      case CudaType::kInt64:
        static_cast<int64_t*>(y)[i] = whole<int64_t>(value);
        return;
      case CudaType::kInt32:
        static_cast<int32_t*>(y)[i] = whole<int32_t>(value);
        return;
      case CudaType::kBool:
        static_cast<uint8_t*>(y)[i] = value != 0 ? 1 : 0;
    }
  }
};

// Calls with a value of the type, which is of no float in 16 bits.
template <class F>
const char* with_type(CudaType type, const F& f) {
  switch (type) {
    case CudaType::kFloat32:
      return f(float{});
    case CudaType::kInt64:
      return f(int64_t{});
    case CudaType::kInt32:
      return f(int32_t{});
    default:
      return f(uint8_t{});
  }
}

}  // namespace

const char* cuda_elementwise(const CudaChain& chain, void* stream) { return cuda::for_each(EachOfChain{chain}, stream); }

const char* cuda_zip(const CudaZip& zip, void* stream) {
  return with_type(zip.type, [&](auto zero) { return cuda::for_each(EachOfZip<decltype(zero)>(zip), stream); });
}

const char* cuda_where(const CudaWhere& where, void* stream) {
  return with_bytes(where.element_bytes, [&](auto zero) { return cuda::for_each(EachOfWhere<decltype(zero)>(where), stream); });
}

const char* cuda_cast(const CudaCast& cast, void* stream) {
  if (cast.from == CudaType::kFloat16) return cuda::for_each(EachOfCast<Float16>(cast), stream);
  if (cast.from == CudaType::kBFloat16) return cuda::for_each(EachOfCast<BFloat16>(cast), stream);
  return with_type(cast.from, [&](auto zero) { return cuda::for_each(EachOfCast<decltype(zero)>(cast), stream); });
}

}  // namespace bitlab::kernels
