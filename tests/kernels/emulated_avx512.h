// AVX-512 for CPUs without it: included before an AVX-512 kernel's source (-include), it makes of the kernel's intrinsics functions of SIMDe, which
// compute the same on AVX2 or lane by lane. What Debian 12's SIMDe lacks is here, written from Intel's descriptions.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <cmath>
#include <cstdint>
#include <cstring>
#include <simde/x86/avx512.h>

namespace emulated {

template <class T, class Vector>
struct Array {
  static constexpr int kCount = sizeof(Vector) / sizeof(T);
  T lane[kCount];

  Array() : lane{} {}
  explicit Array(const Vector& vector) { std::memcpy(lane, &vector, sizeof(lane)); }
  Vector vector() const {
    Vector result;
    std::memcpy(&result, lane, sizeof(lane));
    return result;
  }
};

inline bool chosen(uint64_t mask, int lane) { return (mask >> lane & 1) != 0; }

template <class T, class Vector>
Vector load(uint64_t mask, const void* from) {
  Array<T, Vector> result;
  for (int i = 0; i < result.kCount; ++i)
    if (chosen(mask, i)) std::memcpy(&result.lane[i], static_cast<const T*>(from) + i, sizeof(T));
  return result.vector();
}
template <class T, class Vector>
void store(void* to, uint64_t mask, const Vector& vector) {
  const Array<T, Vector> values(vector);
  for (int i = 0; i < values.kCount; ++i)
    if (chosen(mask, i)) std::memcpy(static_cast<T*>(to) + i, &values.lane[i], sizeof(T));
}
// f of each lane of x, as lanes of another type.
template <class From, class To, class Result, class Vector, class F>
Result map(const Vector& x, const F& f) {
  const Array<From, Vector> in(x);
  Array<To, Result> out;
  static_assert(in.kCount == out.kCount);
  for (int i = 0; i < out.kCount; ++i) out.lane[i] = f(in.lane[i]);
  return out.vector();
}

inline __m512 shuffle_f32x4(const __m512& a, const __m512& b, int order) {
  const Array<float, __m512> x(a), y(b);
  Array<float, __m512> out;
  for (int part = 0; part < 4; ++part)
    std::memcpy(out.lane + 4 * part, (part < 2 ? x : y).lane + 4 * (order >> 2 * part & 3), 16);
  return out.vector();
}
inline __m512i cvtps_epi32(const __m512& x) {
  return map<float, int32_t, __m512i>(x, [](float value) { return static_cast<int32_t>(std::nearbyint(value)); });
}
inline __m512i cvtepi16_epi32(const __m256i& x) {
  return map<int16_t, int32_t, __m512i>(x, [](int16_t value) { return int32_t{value}; });
}
inline __m512i cvtepi8_epi32(const __m128i& x) {
  return map<int8_t, int32_t, __m512i>(x, [](int8_t value) { return int32_t{value}; });
}
inline int32_t reduce_add_epi32(const __m512i& x) {
  uint32_t sum = 0;
  for (const uint32_t value : Array<uint32_t, __m512i>(x).lane) sum += value;
  return static_cast<int32_t>(sum);
}
// Out of line: kernels repeat it hundreds of times, and SIMDe's would take minutes to compile.
template <class Vector>
__attribute__((noinline)) Vector dpbusd(const Vector& sum, const Vector& a, const Vector& b) {
  Array<uint32_t, Vector> out(sum);
  const Array<uint8_t, Vector> x(a);
  const Array<int8_t, Vector> y(b);
  for (int i = 0; i < x.kCount; ++i) out.lane[i / 4] += static_cast<uint32_t>(x.lane[i] * y.lane[i]);
  return out.vector();
}
inline __m512 cvtph_ps(const __m256i& x) {
  const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
  __m512 result;
  std::memcpy(&result, halves, sizeof(result));
  return result;
}
inline __m512i madd_epi16(const __m512i& a, const __m512i& b) {
  const Array<int16_t, __m512i> x(a), y(b);
  Array<int32_t, __m512i> out;
  for (int i = 0; i < out.kCount; ++i) out.lane[i] = x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1];
  return out.vector();
}

}  // namespace emulated

#define _mm512_shuffle_f32x4(a, b, order) emulated::shuffle_f32x4(a, b, order)
#define _mm512_cvtps_epi32(x) emulated::cvtps_epi32(x)
#define _mm512_cvtepi16_epi32(x) emulated::cvtepi16_epi32(x)
#define _mm512_cvtepi8_epi32(x) emulated::cvtepi8_epi32(x)
#define _mm512_reduce_add_epi32(x) emulated::reduce_add_epi32(x)
#undef _mm512_dpbusd_epi32
#undef _mm256_dpbusd_epi32
#undef _mm_dpbusd_epi32
#define _mm512_dpbusd_epi32(sum, a, b) emulated::dpbusd<__m512i>(sum, a, b)
#define _mm256_dpbusd_epi32(sum, a, b) emulated::dpbusd<__m256i>(sum, a, b)
#define _mm_dpbusd_epi32(sum, a, b) emulated::dpbusd<__m128i>(sum, a, b)
#define _mm512_cvtph_ps(x) emulated::cvtph_ps(x)
#undef _mm512_madd_epi16  // Debian's is the masked one
#define _mm512_madd_epi16(a, b) emulated::madd_epi16(a, b)
#define _mm512_maskz_loadu_ps(mask, from) (emulated::load<float, __m512>(mask, from))
#define _mm512_maskz_loadu_epi32(mask, from) (emulated::load<int32_t, __m512i>(mask, from))
#define _mm512_maskz_loadu_epi8(mask, from) (emulated::load<int8_t, __m512i>(mask, from))
#define _mm256_maskz_loadu_epi16(mask, from) (emulated::load<int16_t, __m256i>(mask, from))
#define _mm512_mask_storeu_epi32(to, mask, x) (emulated::store<int32_t, __m512i>(to, mask, x))
#define _mm_mask_storeu_epi8(to, mask, x) (emulated::store<int8_t, __m128i>(to, mask, x))

// Registers that no CPU here has are kept nowhere.
#define BITLAB_KEEP(vector)

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
