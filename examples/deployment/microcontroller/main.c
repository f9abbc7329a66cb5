/* LeNet-5 on a digit, on a machine without an operating system: README.md. */
#include <stdio.h>

#include "digit.h"
#include "lenet5.h"

int main(void) {
  static float image[LENET5_IN_INPUT_SIZE], logits[LENET5_OUT_OUTPUT_SIZE];
  int best = 0, refused;
  for (int i = 0; i < LENET5_IN_INPUT_SIZE; ++i) image[i] = ((float)digit[i] / 255.0f - 0.2f) / 0.35f; /* as in training */
  refused = lenet5_run(image, logits);
  if (refused != 0) {
    printf("layer %d refused its input\n", refused);
    return 1;
  }
  for (int i = 0; i < LENET5_OUT_OUTPUT_SIZE; ++i) {
    printf("%d: %.9g\n", i, (double)logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  printf("a %d, with %d bytes of weights and %d of memory\n", best, LENET5_FLASH_BYTES, LENET5_RAM_BYTES);
  return 0;
}
