// Errors as values. Below the torch line every function that can fail returns Result<T>; nothing throws, prints or aborts.
// Above it, value() throws the same error as bitlab::Exception.
//
// Message form: "[where] what was expected, got what was found (name=...)".
#pragma once

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include <fmt/core.h>

namespace bitlab {

enum class ErrorCode {
#define BITLAB_ERROR(code, group, meaning) k##code,
#include "bitlab/base/errors.def"
#undef BITLAB_ERROR
};

enum class ErrorGroup {
  kDifference = 1,
  kInput = 2,
  kFile = 3,
  kCapability = 4,
  kInternal = 5,
  kStopped = 6
};  // exit codes of the programs

std::string_view error_name(ErrorCode code);     // "ShapeMismatch"
std::string_view error_meaning(ErrorCode code);  // the sentence of errors.def
ErrorGroup error_group(ErrorCode code);

struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

#ifdef BITLAB_FORMATS_NO_FLOATS  // of phones' libbitlab, whose fmt is without them
void float_in_a_message();       // has no definition: what would need it does not link
#endif

// Error{code, formatted message}.
template <class... Args>
Error make_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
#ifdef BITLAB_FORMATS_NO_FLOATS
  if constexpr ((std::is_floating_point_v<std::remove_cvref_t<Args>> || ...)) float_in_a_message();
#endif
  return Error{code, fmt::vformat(format, fmt::make_format_args(args...))};
}

// What value() throws.
class Exception : public std::runtime_error {
 public:
  explicit Exception(Error error) : std::runtime_error(error.message), code_(error.code) {}
  ErrorCode code() const { return code_; }
  Error error() const { return {code_, what()}; }

 private:
  ErrorCode code_;
};

// Throws an Exception; ends the program where exceptions are not part of the build (BITLAB_MOBILE).
#ifdef __cpp_exceptions
#define BITLAB_THROW(error) throw ::bitlab::Exception(error)
#else
#define BITLAB_THROW(error) ((void)(error), std::abort())
#endif

// Holds a T or an Error.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor): `return value;`
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor): `return make_error(...);`

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

  T& value() & { return check(), **this; }
  const T& value() const& { return check(), **this; }
  T value() && { return check(), *std::move(*this); }

 private:
  void check() const {
    if (!ok()) BITLAB_THROW(error());
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }
  void value() const {
    if (error_) BITLAB_THROW(*error_);
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace bitlab

#define BITLAB_CONCAT_INNER(a, b) a##b
#define BITLAB_CONCAT(a, b) BITLAB_CONCAT_INNER(a, b)

// Returns the error of `expression`, a Result or Status, from the enclosing function.
#define BITLAB_RETURN_IF_ERROR(expression)                                                                                \
  do {                                                                                                                    \
    if (auto bitlab_status = (expression); !bitlab_status.ok()) return ::bitlab::Error(std::move(bitlab_status).error()); \
  } while (false)

// BITLAB_TRY(auto x, f()); declares x from the value of f(), or returns its error.
#define BITLAB_TRY(declaration, expression) \
  BITLAB_TRY_INNER(BITLAB_CONCAT(bitlab_result_, __LINE__), declaration, expression)
#define BITLAB_TRY_INNER(result, declaration, expression)              \
  auto result = (expression);                                          \
  if (!result.ok()) return ::bitlab::Error(std::move(result).error()); \
  declaration = *std::move(result)
