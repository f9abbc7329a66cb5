// Watching the operator calls of a thread, for capture and for the audit of interceptions; and how code that replaces an operator call by
// others tells the watchers.
#pragma once

#include <cstddef>

#include <c10/util/ArrayRef.h>

namespace at {
struct RecordFunction;
}
namespace c10 {
struct IValue;
}

namespace bitlab::ops {

// Receives the operator calls of a thread, nested calls between the enter() and the leave() of the call that makes them.
class CallListener {
 public:
  virtual ~CallListener() = default;
  // The inputs of `fn` are valid during enter() alone, its outputs during leave() alone.
  virtual void enter(const at::RecordFunction& fn) = 0;
  virtual void leave(const at::RecordFunction& fn) = 0;
  // The call that was entered last, and not left yet, is replaced by the calls that follow.
  virtual void rewritten() = 0;
  // Whether it is shown the functions of autograd as well (at::RecordScope::BACKWARD_FUNCTION). Those of a device run on a thread of LibTorch's, where
  // they are shown without the calls that they make, and beside those of this thread.
  virtual bool sees_backward() const { return false; }
};

// What a call takes, during enter(), and what it returned, during leave(). Where TorchScript's interpreter calls an operator, RecordFunction has all that lies on
// its stack, of which these are the last.
c10::ArrayRef<const c10::IValue> inputs_of(const at::RecordFunction& fn);
c10::ArrayRef<const c10::IValue> outputs_of(const at::RecordFunction& fn);

// Shows the calls of the thread that makes it to a listener, for its lifetime. Observers nest like scopes, and each sees every call: capture
// may record a forward pass that is audited at the same time.
class CallObserver {
 public:
  explicit CallObserver(CallListener& listener);
  ~CallObserver();
  CallObserver(const CallObserver&) = delete;
  CallObserver& operator=(const CallObserver&) = delete;
};

// What a listener calls by itself is no call of the program: nobody is shown the calls of this thread while a pause lives.
class ObservationPause {
 public:
  ObservationPause();
  ~ObservationPause();
  ObservationPause(const ObservationPause&) = delete;
  ObservationPause& operator=(const ObservationPause&) = delete;
};

// To be called by the replacement of the operator call under way, before it calls other operators.
void notify_rewritten();

}  // namespace bitlab::ops
