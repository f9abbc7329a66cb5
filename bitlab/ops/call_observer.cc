#include "bitlab/ops/internal/call_observer.h"

#include <memory>
#include <vector>

#include <ATen/record_function.h>

namespace bitlab::ops {
namespace {

// One callback serves all listeners of a thread, since LibTorch's callbacks are plain functions.
struct Thread {
  std::vector<CallListener*> listeners;
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
  int pauses = 0;
};
thread_local Thread thread;

struct Frame : at::ObserverContext {
  explicit Frame(size_t count) : shown_to(count) {}
  size_t shown_to;  // the first of the thread's listeners; later ones did not see the call begin
};

bool is_for(const CallListener& listener, const at::RecordFunction& fn) {
  return fn.scope() == at::RecordScope::FUNCTION || listener.sees_backward();
}

std::unique_ptr<at::ObserverContext> on_enter(const at::RecordFunction& fn) {
  auto frame = std::make_unique<Frame>(thread.pauses > 0 ? 0 : thread.listeners.size());
  for (size_t i = 0; i < frame->shown_to; ++i)
    if (is_for(*thread.listeners[i], fn)) thread.listeners[i]->enter(fn);
  return frame;
}

void on_leave(const at::RecordFunction& fn, at::ObserverContext* context) {
  const size_t shown_to = static_cast<const Frame*>(context)->shown_to;
  for (size_t i = 0; i < std::min(shown_to, thread.listeners.size()); ++i)
    if (is_for(*thread.listeners[i], fn)) thread.listeners[i]->leave(fn);
}

c10::ArrayRef<const c10::IValue> last_of(c10::ArrayRef<const c10::IValue> values, size_t count) {
  return values.size() <= count ? values : values.slice(values.size() - count);
}

}  // namespace

c10::ArrayRef<const c10::IValue> inputs_of(const at::RecordFunction& fn) {
  const auto schema = fn.operator_schema();
  return schema ? last_of(fn.inputs(), schema->arguments().size()) : fn.inputs();
}

c10::ArrayRef<const c10::IValue> outputs_of(const at::RecordFunction& fn) {
  const auto schema = fn.operator_schema();
  const c10::ArrayRef<const c10::IValue> outputs(fn.outputs().data(), fn.outputs().size());
  return schema ? last_of(outputs, schema->returns().size()) : outputs;
}

CallObserver::CallObserver(CallListener& listener) {
  if (thread.listeners.empty())
    thread.callback =
        at::addThreadLocalCallback(at::RecordFunctionCallback(on_enter, on_leave)
                                       .needsInputs(true)
                                       .needsOutputs(true)
                                       .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  thread.listeners.push_back(&listener);
}

CallObserver::~CallObserver() {
  thread.listeners.pop_back();
  if (thread.listeners.empty()) at::removeCallback(thread.callback);
}

ObservationPause::ObservationPause() { ++thread.pauses; }
ObservationPause::~ObservationPause() { --thread.pauses; }

void notify_rewritten() {
  if (thread.pauses > 0) return;
  for (CallListener* listener : thread.listeners) listener->rewritten();
}

}  // namespace bitlab::ops
