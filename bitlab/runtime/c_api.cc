#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bitlab/base/version.h"
#include "bitlab/runtime/bitlab.h"
#include "bitlab/runtime/session.h"

namespace {

using bitlab::ErrorCode;
using bitlab::make_error;
using bitlab::program::Port;
using bitlab::program::Symbols;
using bitlab::runtime::Model;
using bitlab::runtime::NamedView;
using bitlab::runtime::TensorView;

}  // namespace

namespace bitlab::c_api {

// A port in the terms of C.
struct PortView {
  std::string name;
  int32_t dtype;
  std::vector<int64_t> shape;
  std::vector<std::string> texts;
  std::vector<const char*> dims;

  PortView(const Port& port, const Symbols& symbols) : name(port.name), dtype(static_cast<int32_t>(port.type.dtype)) {
    for (const bitlab::program::Dim& dim : port.type.shape) {
      shape.push_back(dim.is_number() ? dim.factor : -1);
      texts.push_back(to_string(dim, symbols));
    }
    for (const std::string& text : texts) dims.push_back(text.c_str());
  }
};

}  // namespace bitlab::c_api

struct bitlab_model {
  std::shared_ptr<const Model> model;
  std::vector<std::unique_ptr<const bitlab::c_api::PortView>> inputs{}, outputs{};  // they point into themselves

  explicit bitlab_model(std::shared_ptr<const Model> loaded) : model(std::move(loaded)) {
    const bitlab::program::Signature signature = model->program().signature();
    for (const Port& port : signature.inputs)
      inputs.push_back(std::make_unique<bitlab::c_api::PortView>(port, signature.symbols));
    for (const Port& port : signature.outputs)
      outputs.push_back(std::make_unique<bitlab::c_api::PortView>(port, signature.symbols));
  }
};

struct bitlab_session {
  std::unique_ptr<bitlab::runtime::Session> session;
  std::vector<TensorView> outputs{};  // of the last run
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

// No C++ exception leaves the library: what the standard library may still throw is out of memory. Without exceptions that ends the program.
template <class Function>
int guarded(Function function) {
#ifndef __cpp_exceptions
  return function();
#else
  try {
    return function();
  } catch (const std::exception& error) {
    return fail(bitlab::make_error(bitlab::ErrorCode::kOutOfMemory, "[bitlab] memory, got '{}'", error.what()));
  }
#endif
}

int create_model(bitlab::Result<std::shared_ptr<const Model>> loaded, bitlab_model** model) {
  if (!loaded.ok()) return fail(loaded.error());
  *model = new bitlab_model(*std::move(loaded));
  return 0;
}

int fail_index(const char* what, size_t count, size_t index) {
  return fail(make_error(ErrorCode::kInvalidArgument, "[bitlab] {} below {}, got {}", what, count, index));
}

int port_of(const std::vector<std::unique_ptr<const bitlab::c_api::PortView>>& ports, const char* what, size_t index,
            bitlab_port* port) {
  if (index >= ports.size()) return fail_index(what, ports.size(), index);
  const bitlab::c_api::PortView& view = *ports[index];
  *port = {view.name.c_str(), view.dtype, static_cast<int32_t>(view.shape.size()), view.shape.data(), view.dims.data()};
  return 0;
}

bitlab::Result<TensorView> view_of(const bitlab_tensor& tensor, size_t place) {
  if (tensor.rank < 0 || tensor.rank > bitlab::program::kMaxRank)
    return make_error(ErrorCode::kInvalidArgument, "[bitlab] a rank of 0 to {}, got {} (input={})",
                      bitlab::program::kMaxRank, tensor.rank, place);
  if (tensor.shape == nullptr && tensor.rank > 0)
    return make_error(ErrorCode::kInvalidArgument, "[bitlab] a shape of each input, got NULL (input={})", place);
  if (tensor.dtype < BITLAB_FLOAT32 || tensor.dtype > BITLAB_BOOL)
    return make_error(ErrorCode::kInvalidArgument, "[bitlab] a bitlab_dtype, got {} (input={})", tensor.dtype, place);
  return TensorView({tensor.shape, tensor.shape + tensor.rank}, static_cast<bitlab::program::DType>(tensor.dtype),
                    tensor.data);
}

// Runs inputs that all have names, or none.
bitlab::Result<std::span<const TensorView>> run(bitlab::runtime::Session& session, std::span<const bitlab_tensor> inputs) {
  std::vector<TensorView> views;
  std::vector<NamedView> named;
  for (size_t i = 0; i < inputs.size(); ++i) {
    BITLAB_TRY(TensorView view, view_of(inputs[i], i));
    if (inputs[i].name == nullptr) {
      views.push_back(std::move(view));
    } else {
      named.push_back({inputs[i].name, std::move(view)});
    }
  }
  if (named.empty()) return session.run(std::span<const TensorView>(views));
  if (views.empty()) return session.run(std::span<const NamedView>(named));
  return make_error(ErrorCode::kInvalidArgument, "[bitlab] inputs that all have names, or none, got {} of {} with one",
                    named.size(), inputs.size());
}

}  // namespace

const char* bitlab_version(void) { return bitlab::version().data(); }
int bitlab_abi_version(void) { return BITLAB_ABI_VERSION; }
const char* bitlab_last_error(void) { return last_error.c_str(); }

int bitlab_model_load(const char* path, bitlab_model** model) {
  if (path == nullptr || model == nullptr) return fail_null("a path and a place for the model");
  return guarded([&] { return create_model(Model::load(path), model); });
}

int bitlab_model_load_memory(const void* bytes, size_t size, bitlab_model** model) {
  if (bytes == nullptr || model == nullptr) return fail_null("bytes and a place for the model");
  return guarded([&] { return create_model(Model::load_memory({static_cast<const uint8_t*>(bytes), size}), model); });
}

void bitlab_model_free(bitlab_model* model) { delete model; }

size_t bitlab_model_input_count(const bitlab_model* model) { return model->inputs.size(); }
size_t bitlab_model_output_count(const bitlab_model* model) { return model->outputs.size(); }
size_t bitlab_model_symbol_count(const bitlab_model* model) { return model->model->program().symbols.size(); }

int bitlab_model_input(const bitlab_model* model, size_t index, bitlab_port* port) {
  if (model == nullptr || port == nullptr) return fail_null("a model and a place for the input");
  return port_of(model->inputs, "an input", index, port);
}

int bitlab_model_output(const bitlab_model* model, size_t index, bitlab_port* port) {
  if (model == nullptr || port == nullptr) return fail_null("a model and a place for the output");
  return port_of(model->outputs, "an output", index, port);
}

int bitlab_model_symbol(const bitlab_model* model, size_t index, bitlab_symbol* symbol) {
  if (model == nullptr || symbol == nullptr) return fail_null("a model and a place for the symbol");
  const Symbols& symbols = model->model->program().symbols;
  if (index >= symbols.size()) return fail_index("a symbol", symbols.size(), index);
  *symbol = {symbols[index].name.c_str(), symbols[index].min, symbols[index].max};
  return 0;
}

int64_t bitlab_model_weight_bytes(const bitlab_model* model) { return model->model->weight_bytes(); }

const char* bitlab_model_metadata_key(const bitlab_model* model, size_t index) {
  const auto& metadata = model->model->program().metadata;
  return index < metadata.size() ? std::next(metadata.begin(), static_cast<std::ptrdiff_t>(index))->first.c_str() : nullptr;
}

const char* bitlab_model_metadata(const bitlab_model* model, const char* key) {
  const auto& metadata = model->model->program().metadata;
  const auto found = key == nullptr ? metadata.end() : metadata.find(key);
  return found == metadata.end() ? nullptr : found->second.c_str();
}

int bitlab_session_create(const bitlab_model* model, const bitlab_session_options* options, bitlab_session** session) {
  if (model == nullptr || session == nullptr) return fail_null("a model and a place for the session");
  constexpr size_t kFirst = offsetof(bitlab_session_options, abort);  // what the first callers knew
  if (options != nullptr && options->size < kFirst)
    return fail(make_error(ErrorCode::kInvalidArgument, "[bitlab] options of {} bytes or more, got a size of {}", kFirst,
                           options->size));
  bitlab_session_options known = BITLAB_SESSION_OPTIONS;
  if (options != nullptr) std::memcpy(&known, options, std::min(options->size, sizeof(known)));
  return guarded([&] {
    bitlab::runtime::SessionOptions wanted{.threads = known.threads};
    if (known.device != nullptr) wanted.device = known.device;
    if (known.abort != nullptr) wanted.abort = [known] { return known.abort(known.abort_data) != 0; };
    auto created = bitlab::runtime::Session::create(model->model, std::move(wanted));
    if (!created.ok()) return fail(created.error());
    *session = new bitlab_session{*std::move(created)};
    return 0;
  });
}

void bitlab_session_free(bitlab_session* session) { delete session; }

int bitlab_session_run(bitlab_session* session, const bitlab_tensor* inputs, size_t count) {
  if (session == nullptr || (inputs == nullptr && count != 0)) return fail_null("a session and inputs");
  return guarded([&] {
    session->outputs.clear();
    const auto results = run(*session->session, {inputs, count});
    if (!results.ok()) return fail(results.error());
    session->outputs.assign(results->begin(), results->end());
    return 0;
  });
}

int bitlab_session_output(const bitlab_session* session, size_t index, bitlab_tensor* output) {
  if (session == nullptr || output == nullptr) return fail_null("a session and a place for the output");
  if (index >= session->outputs.size())
    return fail_index("an output of a run that succeeded", session->outputs.size(), index);
  const TensorView& view = session->outputs[index];
  *output = {session->session->model().program().outputs[index].name.c_str(), view.data, view.shape.data(),
             static_cast<int32_t>(view.shape.size()), static_cast<int32_t>(view.dtype)};
  return 0;
}

int bitlab_session_copy_output(const bitlab_session* session, size_t index, void* to, size_t size) {
  if (session == nullptr || (to == nullptr && size != 0)) return fail_null("a session and memory for the output");
  if (index >= session->outputs.size())
    return fail_index("an output of a run that succeeded", session->outputs.size(), index);
  const bitlab::Status status = session->session->copy_output(index, to, size);
  return status.ok() ? 0 : fail(status.error());
}

int64_t bitlab_session_position(const bitlab_session* session) { return session->session->position(); }
int64_t bitlab_session_max_position(const bitlab_session* session) { return session->session->max_position(); }

int bitlab_session_reset(bitlab_session* session) {
  if (session == nullptr) return fail_null("a session");
  session->session->reset();
  return 0;
}

int bitlab_session_truncate(bitlab_session* session, int64_t length) {
  if (session == nullptr) return fail_null("a session");
  const bitlab::Status status = session->session->truncate(length);
  return status.ok() ? 0 : fail(status.error());
}
