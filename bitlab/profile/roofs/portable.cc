// The roofs of vectors that every machine has, as the compiler knows them.
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bitlab::profile {
void roof_read_portable(const void* data, int64_t bytes);
void roof_int16_portable(const void* data, int64_t steps);
void roof_float_portable(const void* data, int64_t steps);

namespace {

using Words = uint64_t __attribute__((vector_size(16)));
using Shorts = int16_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));

// Eight independent chains y = y a + b. The factors come from memory, so that nothing is known of them.
template <class Vector>
void multiply_and_add(int64_t steps) {
  volatile int factor = 1;
  const auto element = static_cast<std::remove_reference_t<decltype(Vector{}[0])>>(factor);
  const Vector a = Vector{} + element, b = a;
  Vector y[8] = {a, a, a, a, a, a, a, a};
  for (int64_t s = 0; s < steps; ++s)
    for (Vector& chain : y) chain = chain * a + b;
  for (Vector& chain : y) asm volatile("" : : "m"(chain));
}

}  // namespace

void roof_read_portable(const void* data, int64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  Words x[8] = {};
  for (int64_t i = 0; i < bytes; i += 128)
    for (int64_t part = 0; part < 8; ++part) {
      Words words;
      std::memcpy(&words, p + i + 16 * part, 16);
      x[part] |= words;
    }
  for (Words& words : x) asm volatile("" : : "m"(words));
}

void roof_int16_portable(const void* /*data*/, int64_t steps) { multiply_and_add<Shorts>(steps); }
void roof_float_portable(const void* /*data*/, int64_t steps) { multiply_and_add<Floats>(steps); }

}  // namespace bitlab::profile
