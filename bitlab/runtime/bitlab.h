/* The C interface of the BitLab runtime. C99; no C++ type crosses it.
 *
 * Every function that can fail returns a status: 0 for success, otherwise the group of the error (2 input, 3 file, 4 capability,
 * 5 internal, 6 stopped by the caller); bitlab_last_error() then describes it. Handles are opaque. A model may be shared between threads; a session belongs
 * to one thread at a time. Functions accept NULL handles in _free only. The small build for phones (BITLAB_MOBILE) has no exceptions: where memory for
 * small things runs out there, the program ends; for weights and activations that is a status in every build.
 */
#ifndef BITLAB_RUNTIME_BITLAB_H_
#define BITLAB_RUNTIME_BITLAB_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* Raised when a function changes its meaning or a struct its fields; functions may be added without. Structs of options begin with their size,
 * so that a later library can tell what the caller knows of. */
#define BITLAB_ABI_VERSION 0

typedef struct bitlab_model bitlab_model;
typedef struct bitlab_session bitlab_session;

/* Types of elements. A bool takes one byte, 0 or 1; float16 and bfloat16 are passed as their bits. */
typedef enum bitlab_dtype {
  BITLAB_FLOAT32 = 0,
  BITLAB_FLOAT16 = 1,
  BITLAB_BFLOAT16 = 2,
  BITLAB_INT64 = 3,
  BITLAB_INT32 = 4,
  BITLAB_BOOL = 5
} bitlab_dtype;

/* A tensor, row-major; images are [batch, channels, height, width]. Where a size is 0 there are no elements, and data may be NULL. */
typedef struct bitlab_tensor {
  const char* name; /* of an input: NULL for the one in this place; of an output: set */
  const void* data;
  const int64_t* shape; /* [rank] */
  int32_t rank;
  int32_t dtype; /* a bitlab_dtype */
} bitlab_tensor;

/* What a model takes or gives. Pointers are valid as long as the model. */
typedef struct bitlab_port {
  const char* name;
  int32_t dtype;
  int32_t rank;
  const int64_t* shape;    /* [rank]; -1 where a size differs from run to run */
  const char* const* dims; /* [rank]: the sizes as texts, "28", "batch", "2*tokens" */
} bitlab_port;

/* A size that differs from run to run, and its range. */
typedef struct bitlab_symbol {
  const char* name;
  int64_t min;
  int64_t max;
} bitlab_symbol;

/* The library's version, "0.1.0", and the ABI version that it was built with. */
const char* bitlab_version(void);
int bitlab_abi_version(void);

/* The message of the last failure on the calling thread; "" before the first. Valid until the next call that fails there. */
const char* bitlab_last_error(void);

/* Loads a .bit file, or one that lies in memory, which is copied. *model is set on success only; release it with bitlab_model_free. */
int bitlab_model_load(const char* path, bitlab_model** model);
int bitlab_model_load_memory(const void* bytes, size_t size, bitlab_model** model);
void bitlab_model_free(bitlab_model* model);

/* Inputs, outputs and symbols in the order of the file. *port or *symbol is set on success only. */
size_t bitlab_model_input_count(const bitlab_model* model);
size_t bitlab_model_output_count(const bitlab_model* model);
size_t bitlab_model_symbol_count(const bitlab_model* model);
int bitlab_model_input(const bitlab_model* model, size_t index, bitlab_port* port);
int bitlab_model_output(const bitlab_model* model, size_t index, bitlab_port* port);
int bitlab_model_symbol(const bitlab_model* model, size_t index, bitlab_symbol* symbol);

/* Bytes of the weights in memory. */
int64_t bitlab_model_weight_bytes(const bitlab_model* model);

/* Texts that the file carries ("model", "preprocess"): the key of one by its place, NULL behind the last; and the text of a key, or NULL. Valid as
 * long as the model. */
const char* bitlab_model_metadata_key(const bitlab_model* model, size_t index);
const char* bitlab_model_metadata(const bitlab_model* model, const char* key);

/* Initialize with BITLAB_SESSION_OPTIONS, and set what differs. */
typedef struct bitlab_session_options {
  size_t size; /* of this struct */
  int threads; /* 0 for all cores */
  /* Unless NULL, called with abort_data before each step of a run, on the thread that runs; not 0: the run ends with status 6. */
  int (*abort)(void* abort_data);
  void* abort_data;
  /* Where steps run: "cpu"; "cuda" or "cuda:1", an NVIDIA GPU, with the bits of the CPU. NULL or "": what the environment variable BITLAB_DEVICE says,
   * else "cpu". Status 4 where there is no such device. Read by bitlab_session_create alone. */
  const char* device;
} bitlab_session_options;
#define BITLAB_SESSION_OPTIONS \
  { sizeof(bitlab_session_options), 1, NULL, NULL, NULL }

/* options: NULL for the defaults, one thread. The session keeps the model alive. *session is set on success only. */
int bitlab_session_create(const bitlab_model* model, const bitlab_session_options* options, bitlab_session** session);
void bitlab_session_free(bitlab_session* session);

/* Runs inputs[0 .. count): all with names, in any order, or all without, in the model's. A batch of 0 gives empty outputs. */
int bitlab_session_run(bitlab_session* session, const bitlab_tensor* inputs, size_t count);

/* An output of the last run, valid until the session's next one. */
int bitlab_session_output(const bitlab_session* session, size_t index, bitlab_tensor* output);

/* Copies it into memory of the caller's, of exactly its size in bytes. */
int bitlab_session_copy_output(const bitlab_session* session, size_t index, void* to, size_t size);

/* Of a model with states: the tokens that they hold so far, the most that they can, and ways to forget all, or all but the first `length`.
 * Positions of other models are 0. */
int64_t bitlab_session_position(const bitlab_session* session);
int64_t bitlab_session_max_position(const bitlab_session* session);
int bitlab_session_reset(bitlab_session* session);
int bitlab_session_truncate(bitlab_session* session, int64_t length);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
