// How code that replaces an operator call of LibTorch by others tells it to whoever observes calls: capture records the others then.
#pragma once

namespace bitlab::ops {

// Called on the calling thread whenever the operator call under way there is replaced; null: nobody listens.
using RewriteListener = void (*)();
// Sets the calling thread's listener and returns the one before.
RewriteListener set_rewrite_listener(RewriteListener listener);

// To be called by the replacement, before it calls other operators.
void notify_rewritten();

}  // namespace bitlab::ops
