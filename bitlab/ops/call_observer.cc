#include "bitlab/ops/internal/call_observer.h"

#include <memory>
#include <vector>

#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace bitlab::ops {
namespace {

using Listeners = std::vector<CallListener*>;

// A thread's listeners that see autograd. LibTorch hands it on to the threads that work for this one, as its callbacks: those of devices run the
// functions of autograd there.
struct Watchers : c10::DebugInfoBase {
  Listeners listeners;
};
const c10::DebugInfoKind kWatchers = c10::DebugInfoKind::PRODUCER_INFO;  // which LibTorch leaves to its callers

const Watchers* watchers() { return dynamic_cast<const Watchers*>(c10::ThreadLocalDebugInfo::get(kWatchers)); }

// One callback serves all listeners of a thread, since LibTorch's callbacks are plain functions.
struct Thread {
  Listeners listeners;
  std::vector<std::unique_ptr<c10::DebugInfoGuard>> watchers;  // null for a listener that sees no autograd
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
  int pauses = 0;
};
thread_local Thread thread;

struct Frame : at::ObserverContext {
  explicit Frame(size_t count) : shown_to(count) {}
  size_t shown_to;  // the first of the thread's listeners; later ones did not see the call begin
};

const Listeners& listeners_of(const at::RecordFunction& fn) {
  static const Listeners kNone;
  if (fn.scope() == at::RecordScope::FUNCTION) return thread.listeners;
  const Watchers* const found = watchers();
  return found == nullptr ? kNone : found->listeners;
}

std::unique_ptr<at::ObserverContext> on_enter(const at::RecordFunction& fn) {
  const Listeners& listeners = listeners_of(fn);
  auto frame = std::make_unique<Frame>(thread.pauses > 0 ? 0 : listeners.size());
  for (size_t i = 0; i < frame->shown_to; ++i) listeners[i]->enter(fn);
  return frame;
}

void on_leave(const at::RecordFunction& fn, at::ObserverContext* context) {
  const Listeners& listeners = listeners_of(fn);
  const size_t shown_to = static_cast<const Frame*>(context)->shown_to;
  for (size_t i = 0; i < std::min(shown_to, listeners.size()); ++i) listeners[i]->leave(fn);
}

// Those that see autograd so far, and one more.
std::unique_ptr<c10::DebugInfoGuard> with_watcher(CallListener& listener) {
  auto added = std::make_shared<Watchers>();
  if (const Watchers* const before = watchers(); before != nullptr) added->listeners = before->listeners;
  added->listeners.push_back(&listener);
  return std::make_unique<c10::DebugInfoGuard>(kWatchers, std::move(added));
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
  thread.watchers.push_back(listener.sees_backward() ? with_watcher(listener) : nullptr);
}

CallObserver::~CallObserver() {
  thread.watchers.pop_back();
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
