#include "bitlab/data/internal/options.h"

#include <charconv>
#include <cmath>
#include <optional>

#include "bitlab/base/log.h"

namespace bitlab::data {
namespace {

const std::string* find(const DataOptions& options, const std::string& key) {
  const auto found = options.own.find(key);
  return found == options.own.end() ? nullptr : &found->second;
}

template <class T>
std::optional<T> number_of(std::string_view text) {
  T value{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

}  // namespace

Result<int64_t> whole_option(const DataOptions& options, std::string_view set, const std::string& key, int64_t fallback) {
  const std::string* text = find(options, key);
  if (text == nullptr) return fallback;
  const auto value = number_of<int64_t>(*text);
  if (!value) return make_error(ErrorCode::kTypeMismatch, "[{}] a whole number of {}, got '{}'", set, key, *text);
  return *value;
}

Result<std::vector<float>> floats_option(const DataOptions& options, std::string_view set, const std::string& key,
                                         std::vector<float> fallback) {
  const std::string* text = find(options, key);
  if (text == nullptr) return fallback;
  std::vector<float> values;
  constexpr std::string_view kBetween = " ,[]";
  for (size_t begin = text->find_first_not_of(kBetween); begin != std::string::npos;) {
    const size_t end = std::min(text->find_first_of(kBetween, begin), text->size());
    const auto value = number_of<float>(std::string_view(*text).substr(begin, end - begin));
    if (!value || !std::isfinite(*value))
      return make_error(ErrorCode::kTypeMismatch, "[{}] numbers as {}, got '{}'", set, key, *text);
    values.push_back(*value);
    begin = text->find_first_not_of(kBetween, end);
  }
  return values;
}

std::string text_option(const DataOptions& options, const std::string& key, std::string_view fallback) {
  const std::string* text = find(options, key);
  return text == nullptr ? std::string(fallback) : *text;
}

Result<bool> skips_errors(const DataOptions& options, std::string_view set) {
  const std::string errors = text_option(options, "errors", "stop");
  if (errors != "stop" && errors != "skip")
    return make_error(ErrorCode::kInvalidArgument, "[{}] errors of {{stop, skip}}, got '{}'", set, errors);
  return errors == "skip";
}

void warn_of_skipped(std::string_view set, int64_t skipped, int64_t all, std::string_view first) {
  if (skipped > 0)
    log(LogLevel::kWarning, "[{}] {} of {} samples left out, the first of them: {}", set, skipped, all, first);
}

}  // namespace bitlab::data
