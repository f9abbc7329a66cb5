// Errors as values. Below the torch line every function that can fail returns Result<T>; nothing throws, prints or aborts.
// Above it, value() throws the same error as bitlab::Exception.
//
// Message form: "[where] what was expected, got what was found (name=...)".
#pragma once

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

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

// An error on its way into a Result, which takes it over: a pointer in a register, so that functions that can fail are not much larger for that.
class [[nodiscard]] Failure {
 public:
  explicit Failure(Error error);
  Failure(Failure&&) = default;  // and no copy: one Result takes it over
  operator Error() &&;           // NOLINT(google-explicit-constructor): where no Result takes it

 private:
  template <class T>
  friend class Result;
  explicit Failure(Error* error) : error_(error) {}
  static Error* copy(const Error& error);
  static void destroy(Error* error);
  Error* error_;
};

#ifdef BITLAB_FORMATS_NO_FLOATS  // of phones' libbitlab, whose fmt is without them
void float_in_a_message();       // has no definition: what would need it does not link
#endif

// Here rather than in result.cc, as LibTorch's fmt, above it, is another one.
inline Failure make_failure(ErrorCode code, fmt::string_view format, fmt::format_args args) {
  return Failure(Error{code, fmt::vformat(format, args)});
}

// Error{code, formatted message}.
template <class... Args>
Failure make_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
#ifdef BITLAB_FORMATS_NO_FLOATS
  if constexpr ((std::is_floating_point_v<std::remove_cvref_t<Args>> || ...)) float_in_a_message();
#endif
  return make_failure(code, format, fmt::make_format_args(args...));
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
  Result(T&& value) : ok_(true), value_(std::move(value)) {}  // NOLINT(google-explicit-constructor): `return value;`
  Result(const T& value) : ok_(true), value_(value) {}        // NOLINT(google-explicit-constructor)
  Result(Failure failure)  // NOLINT(google-explicit-constructor): `return make_error(...);`
      : ok_(false), error_(failure.error_) {}
  Result(Error error) : Result(Failure(std::move(error))) {}  // NOLINT(google-explicit-constructor)
  Result(const Result& other) requires std::is_copy_constructible_v<T> : ok_(other.ok_) {
    if (ok_) {
      std::construct_at(&value_, other.value_);
    } else {
      error_ = Failure::copy(other.error());
    }
  }
  Result(Result&& other) noexcept : ok_(other.ok_) {
    if (ok_) {
      std::construct_at(&value_, std::move(other.value_));
    } else {
      error_ = std::exchange(other.error_, nullptr);
    }
  }
  Result& operator=(Result other) noexcept {
    std::destroy_at(this);
    return *std::construct_at(this, std::move(other));
  }
  // Inlined where code is to be small, too: behind ok() only what is left to destroy remains.
  __attribute__((always_inline)) ~Result() {
    if (ok_) {
      value_.~T();
    } else if (error_ != nullptr) {
      Failure::destroy(error_);
    }
  }

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok(); }

  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }
  Failure failure() && { return Failure(std::exchange(error_, nullptr)); }

  T& operator*() & { return value_; }
  const T& operator*() const& { return value_; }
  T&& operator*() && { return std::move(value_); }
  T* operator->() { return &value_; }
  const T* operator->() const { return &value_; }

  T& value() & { return check(), **this; }
  const T& value() const& { return check(), **this; }
  T value() && { return check(), *std::move(*this); }

 private:
  void check() const {
    if (!ok()) BITLAB_THROW(error());
  }
  bool ok_;
  union {
    T value_;
    Error* error_;  // null where it was moved away
  };
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Failure failure) : error_(failure.error_) {}         // NOLINT(google-explicit-constructor)
  Result(Error error) : Result(Failure(std::move(error))) {}  // NOLINT(google-explicit-constructor)
  Result(const Result& other) : error_(other.ok() ? nullptr : Failure::copy(other.error())) {}
  Result(Result&& other) noexcept : error_(std::exchange(other.error_, nullptr)) {}
  Result& operator=(Result other) noexcept { return std::swap(error_, other.error_), *this; }
  __attribute__((always_inline)) ~Result() {
    if (error_ != nullptr) Failure::destroy(error_);
  }

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }
  Failure failure() && { return Failure(std::exchange(error_, nullptr)); }
  void value() const {
    if (!ok()) BITLAB_THROW(error());
  }

 private:
  Error* error_ = nullptr;
};

using Status = Result<void>;

}  // namespace bitlab

#define BITLAB_CONCAT_INNER(a, b) a##b
#define BITLAB_CONCAT(a, b) BITLAB_CONCAT_INNER(a, b)

// Returns the error of `expression`, a Result or Status, from the enclosing function.
#define BITLAB_RETURN_IF_ERROR(expression)                                                                 \
  do {                                                                                                     \
    if (auto bitlab_status = (expression); !bitlab_status.ok()) return std::move(bitlab_status).failure(); \
  } while (false)

// BITLAB_TRY(auto x, f()); declares x from the value of f(), or returns its error.
#define BITLAB_TRY(declaration, expression) \
  BITLAB_TRY_INNER(BITLAB_CONCAT(bitlab_result_, __LINE__), declaration, expression)
#define BITLAB_TRY_INNER(result, declaration, expression) \
  auto result = (expression);                             \
  if (!result.ok()) return std::move(result).failure();   \
  declaration = *std::move(result)
