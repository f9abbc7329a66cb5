#include <string>
#include <vector>

#include "bitlab/base/version.h"
#include "bitlab/runtime/bitlab.h"
#include "bitlab/runtime/session.h"

struct bitlab_model {
  std::shared_ptr<const bitlab::runtime::Model> model;
};

struct bitlab_session {
  std::unique_ptr<bitlab::runtime::Session> session;
  std::vector<bitlab_tensor> outputs;
};

namespace {

using bitlab::Error;

thread_local std::string last_error;

int fail(const Error& error) {
  last_error = error.message;
  return static_cast<int>(error_group(error.code));
}

int fail_null(const char* what) {
  return fail(bitlab::make_error(bitlab::ErrorCode::kInvalidArgument, "[bitlab] {}, got NULL", what));
}

// No C++ exception leaves the library: what the standard library may still throw is out of memory.
template <class Function>
int guarded(Function function) {
  try {
    return function();
  } catch (const std::exception& error) {
    return fail(bitlab::make_error(bitlab::ErrorCode::kOutOfMemory, "[bitlab] memory, got '{}'", error.what()));
  }
}

}  // namespace

const char* bitlab_version(void) { return bitlab::version().data(); }
int bitlab_abi_version(void) { return BITLAB_ABI_VERSION; }
const char* bitlab_last_error(void) { return last_error.c_str(); }

int bitlab_model_load(const char* path, bitlab_model** model) {
  if (path == nullptr || model == nullptr) return fail_null("a path and a place for the model");
  return guarded([&] {
    auto loaded = bitlab::runtime::Model::load(path);
    if (!loaded.ok()) return fail(loaded.error());
    *model = new bitlab_model{*std::move(loaded)};
    return 0;
  });
}

void bitlab_model_free(bitlab_model* model) { delete model; }

int64_t bitlab_model_weight_bytes(const bitlab_model* model) { return model->model->weight_bytes(); }

const char* bitlab_model_metadata(const bitlab_model* model, const char* key) {
  const auto& metadata = model->model->program().metadata;
  const auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : found->second.c_str();
}

int bitlab_session_create(const bitlab_model* model, int threads, bitlab_session** session) {
  if (model == nullptr || session == nullptr) return fail_null("a model and a place for the session");
  return guarded([&] {
    auto created = bitlab::runtime::Session::create(model->model, {threads, {}});
    if (!created.ok()) return fail(created.error());
    *session = new bitlab_session{*std::move(created), {}};
    return 0;
  });
}

void bitlab_session_free(bitlab_session* session) { delete session; }

int bitlab_session_run(bitlab_session* session, const bitlab_tensor* inputs, size_t input_count,
                       const bitlab_tensor** outputs, size_t* output_count) {
  if (session == nullptr || (inputs == nullptr && input_count != 0) || outputs == nullptr || output_count == nullptr)
    return fail_null("a session, inputs and a place for the outputs");
  return guarded([&] {
    std::vector<bitlab::runtime::TensorView> views;
    for (size_t i = 0; i < input_count; ++i) {
      if (inputs[i].shape == nullptr) return fail_null("a shape of each input");
      if (inputs[i].rank < 0 || inputs[i].rank > bitlab::program::kMaxRank)
        return fail(bitlab::make_error(bitlab::ErrorCode::kInvalidArgument, "[bitlab] a rank of 0 to {}, got {} (input={})",
                                       bitlab::program::kMaxRank, inputs[i].rank, i));
      views.push_back({{inputs[i].shape, inputs[i].shape + inputs[i].rank}, inputs[i].data, inputs[i].indices});
    }
    const auto results = session->session->run(views);
    if (!results.ok()) return fail(results.error());
    session->outputs.clear();
    for (const auto& view : *results)
      session->outputs.push_back({view.data, view.shape.data(), static_cast<int64_t>(view.shape.size()), nullptr});
    *outputs = session->outputs.data();
    *output_count = session->outputs.size();
    return 0;
  });
}
