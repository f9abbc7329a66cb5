#include "bitlab/convert/rules.h"

#include <fnmatch.h>
#include <regex>

#include "bitlab/config/io.h"

namespace bitlab::convert {
namespace {

bool is_regex(const std::string& pattern) { return pattern.size() >= 2 && pattern.front() == '/' && pattern.back() == '/'; }

std::regex regex_of(const std::string& pattern) { return std::regex(pattern.substr(1, pattern.size() - 2)); }

bool matches_path(const std::string& pattern, const std::string& path) {
  if (pattern.empty()) return true;
  if (is_regex(pattern)) return std::regex_search(path, regex_of(pattern));
  return fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}

bool matches(const QuantRule& rule, const LayerFacts& layer) {
  if (!matches_path(rule.path, layer.path)) return false;
  if (!rule.type.empty() && rule.type != layer.type) return false;
  if (!rule.tag.empty() && rule.tag != layer.tag) return false;
  if (layer.size < rule.min_size || (rule.max_size != 0 && layer.size > rule.max_size)) return false;
  if (rule.position == config::Position::kFirst) return layer.index == 0;
  if (rule.position == config::Position::kLast) return layer.index == layer.count - 1;
  return true;
}

Error invalid(const QuantRule& rule, size_t index, std::string_view expectation) {
  return make_error(ErrorCode::kInvalidArgument, "[rules] {}, got {}", expectation, describe(rule, index));
}

Result<BitQuantConfig> quant_of(const QuantRule& rule, size_t index, BitQuantConfig base) {
  if (rule.keep != config::Keep::kNo && !rule.quant.empty())
    return invalid(rule, index, "a rule that keeps a layer or changes its quantization");
  if (rule.min_size < 0 || rule.max_size < 0 || (rule.max_size != 0 && rule.max_size < rule.min_size))
    return invalid(rule, index, "min_size up to max_size");
  if (is_regex(rule.path)) {
    try {
      regex_of(rule.path);
    } catch (const std::regex_error& error) {
      return invalid(rule, index, fmt::format("a regular expression ({})", error.what()));
    }
  }
  if (rule.keep == config::Keep::kFloat) return BitQuantConfig::none();
  if (rule.keep == config::Keep::kInt8) {
    BitQuantConfig kept = BitQuantConfig::int8();
    if (base.activation != ternary::ActKind::kNone) kept.activation = base.activation;
    return kept;
  }
  if (Status status = config::apply(rule.quant, base); !status.ok())
    return make_error(status.error().code, "{} ({})", status.error().message, describe(rule, index));
  return base;
}

}  // namespace

std::string describe(const QuantRule& rule, size_t index) {
  std::string text;
  const QuantRule plain;
  const auto add = [&](std::string_view key, const std::string& value) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", key, value);
  };
  if (!rule.path.empty()) add("path", rule.path);
  if (!rule.type.empty()) add("type", rule.type);
  if (!rule.tag.empty()) add("tag", rule.tag);
  if (rule.min_size != plain.min_size) add("min_size", std::to_string(rule.min_size));
  if (rule.max_size != plain.max_size) add("max_size", std::to_string(rule.max_size));
  if (rule.position != plain.position) add("position", std::string(name(rule.position)));
  if (rule.keep != plain.keep) add("keep", std::string(name(rule.keep)));
  for (const auto& [key, value] : rule.quant) add(key, value);
  return fmt::format("rule {} ({})", index + 1, text);
}

Result<RuleSet> RuleSet::create(MixedPrecisionConfig config) {
  RuleSet set;
  set.base_ = config.quant;
  for (size_t i = 0; i < config.rules.size(); ++i) {
    BITLAB_TRY(const BitQuantConfig quant, quant_of(config.rules[i], i, config.quant));
    set.rules_.push_back({std::move(config.rules[i]), quant});
  }
  return set;
}

Decision RuleSet::decide(const LayerFacts& layer) {
  for (size_t i = 0; i < rules_.size(); ++i) {
    if (!matches(rules_[i].rule, layer)) continue;
    rules_[i].used = true;
    return {rules_[i].quant, static_cast<int64_t>(i)};
  }
  return {base_, -1};
}

std::vector<std::string> RuleSet::unused() const {
  std::vector<std::string> texts;
  for (size_t i = 0; i < rules_.size(); ++i)
    if (!rules_[i].used) texts.push_back(describe(rules_[i].rule, i));
  return texts;
}

}  // namespace bitlab::convert
