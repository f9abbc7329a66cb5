// The floating-point state that the numeric contract needs: round to nearest even, subnormals kept.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace bitlab {

// Sets the contract's state on the calling thread and restores the caller's at the end of the scope.
class ScopedFloatEnvironment {
 public:
  ScopedFloatEnvironment() : saved_(read()) { write(kContract); }
  ~ScopedFloatEnvironment() { write(saved_); }
  ScopedFloatEnvironment(const ScopedFloatEnvironment&) = delete;
  ScopedFloatEnvironment& operator=(const ScopedFloatEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  using Register = uint32_t;
  static constexpr Register kContract = 0x1F80;  // MXCSR: all exceptions masked, nearest even, no FTZ, no DAZ
  static Register read() { return _mm_getcsr(); }
  static void write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kContract = 0;  // FPCR: nearest even, no FZ, no default NaN
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" ::"r"(value)); }
#else
#error "ScopedFloatEnvironment: add the control register of this architecture"
#endif
  Register saved_;
};

}  // namespace bitlab
