// Calls by type, for std::visit: std::visit(Match{[](int64_t* v) { … }, [](const auto&) { … }}, variant).
#pragma once

namespace bitlab {

template <class... Cases>
struct Match : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Match(Cases...) -> Match<Cases...>;

}  // namespace bitlab
