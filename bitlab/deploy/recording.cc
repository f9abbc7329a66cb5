#include "bitlab/deploy/recording.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include "bitlab/ops/rewrite.h"

namespace bitlab::deploy {
namespace {

struct Frame : at::ObserverContext {
  Frame* parent = nullptr;
  bool recorded = false;   // a call of the recording
  bool rewritten = false;  // other calls stand in its place
};

struct State {
  Keep keep = Keep::kTensors;
  bool paused = false;
  Frame* frame = nullptr;  // the call under way
  Recording recording;
};
thread_local State* state = nullptr;

std::string full_name(const at::RecordFunction& fn) {
  const auto schema = fn.operator_schema();
  return schema ? c10::toString(schema->operator_name()) : std::string(fn.name());
}

// Copying is no call of the module's.
at::Tensor copy_of(const at::Tensor& tensor) {
  state->paused = true;
  at::Tensor copy = tensor.clone();
  state->paused = false;
  return copy;
}

std::unique_ptr<at::ObserverContext> on_enter(const at::RecordFunction& fn) {
  auto frame = std::make_unique<Frame>();
  frame->parent = state->frame;
  state->frame = frame.get();
  frame->recorded = !state->paused && (frame->parent == nullptr || frame->parent->rewritten);
  if (!frame->recorded) return frame;
  Call call{full_name(fn), {}, {}, {}, {}};
  const auto schema = fn.operator_schema();
  const auto inputs = fn.inputs();  // valid in this callback only
  for (size_t i = 0; i < inputs.size(); ++i)
    call.arguments.push_back({schema && i < schema->arguments().size() ? schema->arguments()[i].name() : "?", inputs[i]});
  if (call.is_in_place() && !inputs.empty() && inputs[0].isTensor()) call.before = copy_of(inputs[0].toTensor());
  state->recording.calls.push_back(std::move(call));
  return frame;
}

void on_exit(const at::RecordFunction& fn, at::ObserverContext* context) {
  const auto* frame = static_cast<Frame*>(context);
  state->frame = frame->parent;
  if (!frame->recorded || frame->rewritten) return;
  const auto outputs = fn.outputs();
  Call& call = state->recording.calls.back();
  call.outputs.assign(outputs.begin(), outputs.end());
  if (state->keep != Keep::kCopies || outputs.empty() || !outputs[0].isTensor()) return;
  call.copy = copy_of(outputs[0].toTensor());
}

// The call under way gives way to those that it is replaced by.
void on_rewrite() {
  Frame* frame = state == nullptr ? nullptr : state->frame;
  if (frame == nullptr || !frame->recorded || frame->rewritten) return;
  frame->rewritten = true;
  state->recording.calls.pop_back();
}

// Observes the calling thread for its lifetime.
class Observer {
 public:
  explicit Observer(State& target)
      : handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(on_enter, on_exit)
                                               .needsInputs(true)
                                               .needsOutputs(true)
                                               .scopes({at::RecordScope::FUNCTION}))),
        listener_(ops::set_rewrite_listener(on_rewrite)) {
    state = &target;
  }
  ~Observer() {
    ops::set_rewrite_listener(listener_);
    at::removeCallback(handle_);
    state = nullptr;
  }
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

 private:
  at::CallbackHandle handle_;
  ops::RewriteListener listener_;
};

}  // namespace

bool Call::is_in_place() const { return op.substr(0, op.find('.')).ends_with('_'); }

const c10::IValue& Call::argument(const std::string& name) const {
  const auto found = std::find_if(arguments.begin(), arguments.end(), [&](const Argument& a) { return a.name == name; });
  TORCH_CHECK(found != arguments.end(), "[capture] an argument '", name, "' of ", op, ", got none");
  return found->value;
}

at::Tensor Call::tensor(const std::string& name) const {
  const c10::IValue& value = argument(name);
  return value.isTensor() ? value.toTensor() : at::Tensor();
}

Result<Recording> record(const std::function<at::Tensor(const at::Tensor&)>& forward, const at::Tensor& input, Keep keep) {
  State current;
  current.keep = keep;
  try {
    at::NoGradGuard no_grad;
    const Observer observer(current);
    current.recording.input = input;
    current.recording.output = forward(input);
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[capture] a forward pass that succeeds, got '{}'",
                      error.what_without_backtrace());
  }
  return std::move(current.recording);
}

}  // namespace bitlab::deploy
