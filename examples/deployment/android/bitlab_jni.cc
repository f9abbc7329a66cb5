// The native part of org.bitlab.Session: one function for each of the C ABI's that it needs. Statuses and bytes cross, texts as UTF-8; what is wrong becomes
// an exception in Java, where arguments are checked, too.
#include <cstddef>
#include <cstdint>
#include <jni.h>
#include <vector>

#include "bitlab/runtime/bitlab.h"

namespace {

struct Loaded {
  bitlab_model* model = nullptr;
  bitlab_session* session = nullptr;
  ~Loaded() {
    bitlab_session_free(session);
    bitlab_model_free(model);
  }
};

Loaded* loaded(jlong handle) { return reinterpret_cast<Loaded*>(static_cast<intptr_t>(handle)); }

// Null with an exception pending where memory is short, as all that JNI makes.
jbyteArray bytes_of(JNIEnv* env, const char* text) {
  jsize length = 0;
  while (text[length] != '\0') ++length;
  jbyteArray bytes = env->NewByteArray(length);
  if (bytes != nullptr) env->SetByteArrayRegion(bytes, 0, length, reinterpret_cast<const jbyte*>(text));
  return bytes;
}

jlongArray longs_of(JNIEnv* env, const int64_t* values, jsize count) {
  jlongArray longs = env->NewLongArray(count);
  if (longs != nullptr) env->SetLongArrayRegion(longs, 0, count, reinterpret_cast<const jlong*>(values));
  return longs;
}

// An input or output of the model; the place is one that count() has.
bitlab_port port_of(jlong handle, jboolean is_output, jint place) {
  bitlab_port port = {};
  const auto index = static_cast<size_t>(place);
  (is_output ? bitlab_model_output : bitlab_model_input)(loaded(handle)->model, index, &port);
  return port;
}

// What a direct buffer holds, from a byte on.
char* address_of(JNIEnv* env, jobject buffer, jlong offset) {
  return static_cast<char*>(env->GetDirectBufferAddress(buffer)) + offset;
}

int load(JNIEnv* env, jbyteArray bytes, bool is_path, int threads, Loaded& all) {
  const auto size = static_cast<size_t>(env->GetArrayLength(bytes));
  std::vector<char> data(size + 1);  // a path ends with 0
  env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(size), reinterpret_cast<jbyte*>(data.data()));
  const int status =
      is_path ? bitlab_model_load(data.data(), &all.model) : bitlab_model_load_memory(data.data(), size, &all.model);
  if (status != 0) return status;
  bitlab_session_options options = BITLAB_SESSION_OPTIONS;
  options.threads = threads;
  return bitlab_session_create(all.model, &options, &all.session);
}

}  // namespace

extern "C" {

JNIEXPORT jint JNICALL Java_org_bitlab_Session_load(JNIEnv* env, jclass, jbyteArray bytes, jboolean is_path, jint threads,
                                                    jlongArray handle) {
  auto* all = new Loaded;
  const int status = load(env, bytes, is_path, threads, *all);
  if (status != 0) {
    delete all;
    return status;
  }
  const auto number = static_cast<jlong>(reinterpret_cast<intptr_t>(all));
  env->SetLongArrayRegion(handle, 0, 1, &number);
  return 0;
}

JNIEXPORT void JNICALL Java_org_bitlab_Session_free(JNIEnv*, jclass, jlong handle) { delete loaded(handle); }

JNIEXPORT jbyteArray JNICALL Java_org_bitlab_Session_lastError(JNIEnv* env, jclass) {
  return bytes_of(env, bitlab_last_error());
}

JNIEXPORT jint JNICALL Java_org_bitlab_Session_count(JNIEnv*, jclass, jlong handle, jboolean is_output) {
  const bitlab_model* model = loaded(handle)->model;
  return static_cast<jint>(is_output ? bitlab_model_output_count(model) : bitlab_model_input_count(model));
}

JNIEXPORT jbyteArray JNICALL Java_org_bitlab_Session_name(JNIEnv* env, jclass, jlong handle, jboolean is_output,
                                                          jint place) {
  return bytes_of(env, port_of(handle, is_output, place).name);
}

JNIEXPORT jint JNICALL Java_org_bitlab_Session_dtype(JNIEnv*, jclass, jlong handle, jboolean is_output, jint place) {
  return port_of(handle, is_output, place).dtype;
}

JNIEXPORT jlongArray JNICALL Java_org_bitlab_Session_shape(JNIEnv* env, jclass, jlong handle, jboolean is_output,
                                                           jint place) {
  const bitlab_port port = port_of(handle, is_output, place);
  return longs_of(env, port.shape, port.rank);
}

JNIEXPORT jbyteArray JNICALL Java_org_bitlab_Session_dim(JNIEnv* env, jclass, jlong handle, jboolean is_output, jint place,
                                                         jint dim) {
  return bytes_of(env, port_of(handle, is_output, place).dims[dim]);
}

// Null where the file has no such text. The key ends with 0.
JNIEXPORT jbyteArray JNICALL Java_org_bitlab_Session_metadata(JNIEnv* env, jclass, jlong handle, jbyteArray key) {
  const jsize length = env->GetArrayLength(key);
  std::vector<char> text(static_cast<size_t>(length) + 1);
  env->GetByteArrayRegion(key, 0, length, reinterpret_cast<jbyte*>(text.data()));
  const char* found = bitlab_model_metadata(loaded(handle)->model, text.data());
  return found == nullptr ? nullptr : bytes_of(env, found);
}

// Buffers are direct, offsets are bytes, shapes are long[].
JNIEXPORT jint JNICALL Java_org_bitlab_Session_run(JNIEnv* env, jclass, jlong handle, jobjectArray buffers,
                                                   jlongArray offsets, jobjectArray shapes, jintArray dtypes) {
  const jsize count = env->GetArrayLength(buffers);
  const auto size = static_cast<size_t>(count);
  std::vector<jlong> begin(size);
  std::vector<jint> dtype(size);
  std::vector<std::vector<int64_t>> shape(size);
  std::vector<bitlab_tensor> inputs(size);
  env->GetLongArrayRegion(offsets, 0, count, begin.data());
  env->GetIntArrayRegion(dtypes, 0, count, dtype.data());
  for (jsize i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    auto* const sizes = static_cast<jlongArray>(env->GetObjectArrayElement(shapes, i));
    const jobject buffer = env->GetObjectArrayElement(buffers, i);
    const jsize rank = env->GetArrayLength(sizes);
    shape[at].resize(static_cast<size_t>(rank));
    env->GetLongArrayRegion(sizes, 0, rank, reinterpret_cast<jlong*>(shape[at].data()));
    inputs[at] = {nullptr, address_of(env, buffer, begin[at]), shape[at].data(), rank, dtype[at]};
    env->DeleteLocalRef(sizes);
    env->DeleteLocalRef(buffer);
  }
  return bitlab_session_run(loaded(handle)->session, inputs.data(), size);
}

// Null where there is no such output of a run.
JNIEXPORT jlongArray JNICALL Java_org_bitlab_Session_shapeOfOutput(JNIEnv* env, jclass, jlong handle, jint place) {
  bitlab_tensor output;
  if (bitlab_session_output(loaded(handle)->session, static_cast<size_t>(place), &output) != 0) return nullptr;
  return longs_of(env, output.shape, output.rank);
}

JNIEXPORT jint JNICALL Java_org_bitlab_Session_copyOutput(JNIEnv* env, jclass, jlong handle, jint place, jobject to,
                                                          jlong offset, jlong bytes) {
  return bitlab_session_copy_output(loaded(handle)->session, static_cast<size_t>(place), address_of(env, to, offset),
                                    static_cast<size_t>(bytes));
}

JNIEXPORT jint JNICALL Java_org_bitlab_Session_reset(JNIEnv*, jclass, jlong handle) {
  return bitlab_session_reset(loaded(handle)->session);
}

}  // extern "C"
