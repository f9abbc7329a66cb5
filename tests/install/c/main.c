/* The same by the C interface. */
#include <bitlab/runtime/bitlab.h>
#include <stdio.h>

int main(int argc, char** argv) {
  bitlab_model* model = NULL;
  bitlab_session* session = NULL;
  bitlab_tensor output;
  static const float zeros[28 * 28];
  const int64_t shape[4] = {1, 1, 28, 28};
  const bitlab_tensor input = {NULL, zeros, shape, 4, BITLAB_FLOAT32};
  if (argc != 2) return 2;
  if (bitlab_abi_version() != BITLAB_ABI_VERSION) return 3;
  if (bitlab_model_load(argv[1], &model) != 0 || bitlab_session_create(model, NULL, &session) != 0 ||
      bitlab_session_run(session, &input, 1) != 0 || bitlab_session_output(session, 0, &output) != 0) {
    fprintf(stderr, "%s\n", bitlab_last_error());
    return 1;
  }
  for (int i = 0; i < 10; ++i) printf("%a\n", (double)((const float*)output.data)[i]);
  bitlab_session_free(session);
  bitlab_model_free(model);
  return 0;
}
