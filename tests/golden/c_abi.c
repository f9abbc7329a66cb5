/* Runs a file of operations through the C ABI, on the inputs of runtime/golden_test.cc, and compares with the golden bytes.
 * Usage: c_abi_golden operations_1.bit operations_1.values */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitlab/runtime/bitlab.h"

enum { kMaxInputs = 512, kMaxRank = 8 };

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

static size_t size_of(int32_t dtype) {
  static const size_t kSizes[] = {4, 2, 2, 8, 4, 1};
  return kSizes[dtype];
}

/* Of a size as a text, which is a product: two samples of three tokens. */
static int64_t size_at(const char* text) {
  int64_t size = 1;
  while (*text != '\0') {
    const size_t length = strcspn(text, "*");
    if (*text >= '0' && *text <= '9') {
      size *= atoll(text);
    } else {
      size *= strncmp(text, "batch", length) == 0 ? 2 : 3;
    }
    text += length;
    if (*text == '*') ++text;
  }
  return size;
}

/* A multiple of 1/16 below 16 as float16 or bfloat16: neither rounds it. */
static uint16_t half_of(float value, int32_t dtype) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (dtype == BITLAB_BFLOAT16) return (uint16_t)(bits >> 16);
  if (value == 0) return 0;
  return (uint16_t)((bits >> 16 & 0x8000U) | ((bits & 0x7FFFFFFFU) - 0x38000000U) >> 13);
}

/* From -8 to 8 in steps of 1/16; indices and numbers of other types 0, 1 and 2. */
static void* elements_of(int32_t dtype, int64_t count, int64_t seed) {
  char* all = malloc((size_t)count * size_of(dtype) + 1);
  for (int64_t i = 0; all != NULL && i < count; ++i) {
    const uint64_t bits = mix(mix((uint64_t)seed) + (uint64_t)i * 0x9E3779B97F4A7C15U);
    const float real = (float)((int64_t)(bits % 257) - 128) / 16;
    const uint64_t whole = bits % (dtype == BITLAB_BOOL ? 2 : 3);
    const int32_t narrow = (int32_t)whole;
    const uint16_t half = half_of(real, dtype);
    const uint8_t byte = (uint8_t)whole;
    const void* element = dtype == BITLAB_FLOAT32 ? (const void*)&real
                          : dtype == BITLAB_INT64 ? (const void*)&whole
                          : dtype == BITLAB_INT32 ? (const void*)&narrow
                          : dtype == BITLAB_BOOL  ? (const void*)&byte
                                                  : (const void*)&half;
    memcpy(all + (size_t)i * size_of(dtype), element, size_of(dtype));
  }
  return all;
}

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, bitlab_last_error());
  return 1;
}

/* The outputs whose bytes differ, and bytes of the file that no output has. */
static int differing(const bitlab_model* model, const bitlab_session* session, FILE* values) {
  int wrong = 0;
  for (size_t i = 0; i < bitlab_model_output_count(model); ++i) {
    bitlab_tensor output;
    bitlab_port port;
    if (bitlab_session_output(session, i, &output) != 0 || bitlab_model_output(model, i, &port) != 0) return fail("output");
    size_t bytes = size_of(output.dtype);
    for (int32_t d = 0; d < output.rank; ++d) bytes *= (size_t)output.shape[d];
    char* expected = malloc(bytes + 1);
    if (expected == NULL || fread(expected, 1, bytes, values) != bytes || memcmp(expected, output.data, bytes) != 0) {
      fprintf(stderr, "%s differs\n", port.name);
      wrong = 1;
    }
    free(expected);
  }
  if (fgetc(values) != EOF) wrong = 1;
  return wrong;
}

int main(int argc, char** argv) {
  static bitlab_tensor inputs[kMaxInputs];
  static int64_t shapes[kMaxInputs][kMaxRank];
  bitlab_session_options options = BITLAB_SESSION_OPTIONS;
  bitlab_model* model = NULL;
  bitlab_session* session = NULL;
  if (argc != 3) return 2;
  if (bitlab_model_load(argv[1], &model) != 0) return fail("load");
  const size_t count = bitlab_model_input_count(model);
  if (count > kMaxInputs) return 2;
  for (size_t i = 0; i < count; ++i) {
    bitlab_port port;
    int64_t elements = 1;
    if (bitlab_model_input(model, i, &port) != 0) return fail("input");
    for (int32_t d = 0; d < port.rank; ++d) elements *= shapes[i][d] = size_at(port.dims[d]);
    const bitlab_tensor input = {NULL, elements_of(port.dtype, elements, (int64_t)i + 1), shapes[i], port.rank, port.dtype};
    inputs[i] = input;
  }
  options.threads = 2;
  if (bitlab_session_create(model, &options, &session) != 0) return fail("session");
  if (bitlab_session_run(session, inputs, count) != 0) return fail("run");
  FILE* values = fopen(argv[2], "rb");
  if (values == NULL) return 2;
  const int wrong = differing(model, session, values);
  fclose(values);
  bitlab_session_free(session);
  bitlab_model_free(model);
  for (size_t i = 0; i < count; ++i) free((void*)inputs[i].data);
  return wrong;
}
