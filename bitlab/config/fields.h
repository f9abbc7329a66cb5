// The fields of a config as data: names, help and access to the values, whatever their types. A config is a struct with
//
//   void visit(config::Fields& f) { f("epochs", epochs, "passes over the training data"); … }
//
// and everything that reads, writes, compares or documents configs (io.h, the programs' flags) works on what visit() lists, without knowing the
// struct. A library above this one can therefore have configs of its own.
#pragma once

#include <any>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/config/enums.h"

namespace bitlab {

// Some fields of a config, by key, as texts: what a rule changes, what a data set alone has. Which keys and values fit shows when they are
// applied (io.h).
using Overrides = std::map<std::string, std::string>;

}  // namespace bitlab

namespace bitlab::config {

class Fields;
struct Value;

// One of a closed set of texts.
struct Choice {
  std::function<std::string()> get;
  std::function<Status(std::string_view)> set;  // Error: UnknownName, listing the choices
  std::function<std::vector<std::string>()> names;
};

// Which numbers a field takes, or the numbers of a list.
struct Range {
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  bool has_least = true, has_most = true;  // whether the ends belong to it
  bool contains(double value) const {
    return (has_least ? value >= least : value > least) && (has_most ? value <= most : value < most);
  }
};
constexpr Range at_least(double least) { return {.least = least, .has_most = false}; }  // and finite, as what is above
constexpr Range above(double least) { return {.least = least, .has_least = false, .has_most = false}; }
constexpr Range between(double least, double most) { return {.least = least, .most = most}; }
constexpr Range from_to_below(double least, double most) { return {.least = least, .most = most, .has_most = false}; }
constexpr Range above_up_to(double least, double most) { return {.least = least, .most = most, .has_least = false}; }
// "in [0, 1)"; empty where every number fits.
std::string to_text(const Range& range);

// Any number of values of one type.
struct List {
  std::function<size_t()> size;
  std::function<void()> clear;
  std::function<void()> append;        // one with its defaults
  std::function<Value(size_t)> value;  // valid until the list changes
};

// The fields of a config inside of this one, as they are now.
using Table = std::function<Fields()>;

// Where a field's value lies. Valid as long as the config lives and is not moved.
struct Value {
  std::variant<bool*, int64_t*, double*, std::string*, Overrides*, Choice, List, Table> at;
};

struct Field {
  std::string name;
  Value value;
  std::string help;
  Range range{};
  bool selects = false;  // the fields after it depend on its value
};

template <class T>
Value value_of(T& value);

class Fields {
 public:
  template <class T>
  void operator()(std::string name, T& value, std::string help, Range range = {}) {
    list_.push_back({std::move(name), value_of(value), std::move(help), range});
  }
  // A choice on which the fields that follow depend: it is read before them, wherever a file has it.
  void select(std::string name, Choice choice, std::string help) {
    list_.push_back({std::move(name), {std::move(choice)}, std::move(help), {}, true});
  }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

 private:
  std::vector<Field> list_;
};

template <class T>
concept Config = requires(T& config, Fields& fields) {
  config.visit(fields);
};

template <Config T>
Table table_of(T& config) {
  return [&config] {
    Fields fields;
    config.visit(fields);
    return fields;
  };
}

namespace internal {

inline constexpr std::string_view kNone = "none";

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
inline constexpr bool kIsPlain = std::is_same_v<T, bool> || std::is_same_v<T, int64_t> || std::is_same_v<T, double> ||
                                 std::is_same_v<T, std::string> || std::is_same_v<T, Overrides>;

template <class Enum>
std::vector<std::string> texts_of() {
  const auto list = names_of(Enum{});
  return {list.begin(), list.end()};
}

// An enumeration has name(value), names_of(value) and parse(text, value&) beside it, or those of enums.h.
template <class Enum>
Choice choice_of(Enum& value) {
  return {[&value] { return std::string(name(value)); }, [&value](std::string_view text) { return parse(text, value); },
          texts_of<Enum>};
}

template <class Enum>
Choice choice_of(std::optional<Enum>& value) {
  return {[&value] { return std::string(value ? name(*value) : kNone); },
          [&value](std::string_view text) -> Status {
            if (text == kNone) {
              value.reset();
              return {};
            }
            Enum found{};
            BITLAB_RETURN_IF_ERROR(parse(text, found));
            value = found;
            return {};
          },
          [] {
            auto names = texts_of<Enum>();
            names.emplace_back(kNone);
            return names;
          }};
}

}  // namespace internal

template <class T>
Value value_of(T& value) {
  if constexpr (internal::kIsPlain<T>) {
    return {&value};
  } else if constexpr (internal::IsVector<T>::value) {
    return {List{[&value] { return value.size(); }, [&value] { value.clear(); }, [&value] { value.emplace_back(); },
                 [&value](size_t i) { return value_of(value[i]); }}};
  } else if constexpr (Config<T>) {
    return {table_of(value)};
  } else {
    return {internal::choice_of(value)};
  }
}

// A config of a type that is known when the program runs: a copy of one is a copy of its value.
class AnyConfig {
 public:
  AnyConfig() = default;
  template <Config T>
  requires(!std::is_same_v<T, AnyConfig>) explicit AnyConfig(T value)
      : value_(std::move(value)), visit_([](std::any& any, Fields& fields) { std::any_cast<T&>(any).visit(fields); }) {}

  // Null where it is of another type.
  template <class T>
  const T* as() const {
    return std::any_cast<T>(&value_);
  }
  // No fields where it holds no config.
  void visit(Fields& fields) {
    if (visit_ != nullptr) visit_(value_, fields);
  }

 private:
  std::any value_;
  void (*visit_)(std::any&, Fields&) = nullptr;
};

}  // namespace bitlab::config
