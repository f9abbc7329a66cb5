/* The same by the C interface. */
#include <bitlab/runtime/bitlab.h>
#include <stdio.h>

int main(int argc, char** argv) {
  bitlab_model* model = NULL;
  bitlab_session* session = NULL;
  const bitlab_tensor* outputs = NULL;
  size_t count = 0;
  static const float zeros[28 * 28];
  const int64_t shape[4] = {1, 1, 28, 28};
  const bitlab_tensor input = {zeros, shape, 4, NULL};
  if (argc != 2) return 2;
  if (bitlab_abi_version() != BITLAB_ABI_VERSION) return 3;
  if (bitlab_model_load(argv[1], &model) != 0 || bitlab_session_create(model, 1, &session) != 0 ||
      bitlab_session_run(session, &input, 1, &outputs, &count) != 0) {
    fprintf(stderr, "%s\n", bitlab_last_error());
    return 1;
  }
  for (int i = 0; i < 10; ++i) printf("%a\n", (double)outputs[0].data[i]);
  bitlab_session_free(session);
  bitlab_model_free(model);
  return 0;
}
