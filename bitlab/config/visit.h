// Which types have a visit().
#pragma once

namespace bitlab::config {

struct AnyVisitor {
  template <class T>
  void operator()(const char*, T&, const char*) const {}
};

template <class T>
concept Visitable = requires(T& t, AnyVisitor v) {
  T::visit(t, v);
};

}  // namespace bitlab::config
