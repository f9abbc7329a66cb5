/* How an Arm Cortex-M begins: the first two words of its memory are the end of the stack and the first instruction. What follows is the C library's. */
#include <stdint.h>

extern uint32_t stack_end;
extern void _start(void);

static void reset(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the unit for floats is off until it is asked for */
  __asm volatile("dsb\n isb");
#endif
  _start();
}

static void fault(void) {
  for (;;) {
  }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {&stack_end, (const void *)reset, (const void *)fault,
                                                                                     (const void *)fault};
