#include "bitlab/ops/rewrite.h"

#include <utility>

namespace bitlab::ops {
namespace {

thread_local RewriteListener current = nullptr;

}  // namespace

RewriteListener set_rewrite_listener(RewriteListener listener) { return std::exchange(current, listener); }

void notify_rewritten() {
  if (current != nullptr) current();
}

}  // namespace bitlab::ops
