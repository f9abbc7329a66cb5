/* The C interface of the BitLab runtime. C99; no C++ type crosses it.
 *
 * Every function that can fail returns a status: 0 for success, otherwise the group of the error (2 input, 3 file, 4 capability,
 * 5 internal); bitlab_last_error() then describes it. Handles are opaque. A model may be shared between threads; a session belongs
 * to one thread at a time. Functions accept NULL handles in _free only.
 */
#ifndef BITLAB_RUNTIME_BITLAB_H_
#define BITLAB_RUNTIME_BITLAB_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a function changes its meaning; functions may be added without. */
#define BITLAB_ABI_VERSION 0

typedef struct bitlab_model bitlab_model;
typedef struct bitlab_session bitlab_session;

/* A tensor, row-major; images are [batch, channels, height, width]. Inputs of a model are float32 or int64 (indices, such as tokens);
 * one of the two pointers is set, the other NULL. Outputs are float32. Where a size is 0 there are no values, and data may be NULL. */
typedef struct bitlab_tensor {
  const float* data;
  const int64_t* shape;
  int64_t rank;
  const int64_t* indices;
} bitlab_tensor;

/* The library's version, "0.1.0", and the ABI version that it was built with. */
const char* bitlab_version(void);
int bitlab_abi_version(void);

/* The message of the last failure on the calling thread; "" before the first. Valid until the next call that fails there. */
const char* bitlab_last_error(void);

/* Loads a .bit file. *model is set on success only; release it with bitlab_model_free. */
int bitlab_model_load(const char* path, bitlab_model** model);
void bitlab_model_free(bitlab_model* model);

/* Bytes of the weights in memory. */
int64_t bitlab_model_weight_bytes(const bitlab_model* model);

/* A text that the file carries ("model", "image"), or NULL. Valid as long as the model. */
const char* bitlab_model_metadata(const bitlab_model* model, const char* key);

/* threads: 0 for all cores. The session keeps the model alive. *session is set on success only. */
int bitlab_session_create(const bitlab_model* model, int threads, bitlab_session** session);
void bitlab_session_free(bitlab_session* session);

/* Runs inputs[0 .. input_count). A batch of 0 gives empty outputs. On success *outputs points to *output_count tensors, valid until the session's next run. */
int bitlab_session_run(bitlab_session* session, const bitlab_tensor* inputs, size_t input_count,
                       const bitlab_tensor** outputs, size_t* output_count);

#ifdef __cplusplus
}
#endif

#endif
