#include "bitlab/convert/rules.h"

#include <algorithm>

#include "bitlab/config/io.h"
#include "bitlab/config/path_pattern.h"

namespace bitlab::convert {
namespace {

bool matches(const QuantRule& rule, const LayerFacts& layer) {
  if (!config::matches_path(rule.path, layer.path)) return false;
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

Status check_conditions(const QuantRule& rule, size_t index) {
  if (rule.min_size < 0 || rule.max_size < 0 || (rule.max_size != 0 && rule.max_size < rule.min_size))
    return invalid(rule, index, "min_size up to max_size");
  const Status pattern = config::check_path_pattern(rule.path);
  if (pattern.ok()) return {};
  return make_error(pattern.error().code, "{} ({})", pattern.error().message, describe(rule, index));
}

// What a rule makes of the quantization of all others.
Result<BitQuantConfig> quant_of(const QuantRule& rule, size_t index, BitQuantConfig quant) {
  Status status = config::set_fields(rule.quant, quant);
  if (status.ok() && quant.enabled()) status = validate(quant.weight_spec());
  if (!status.ok()) return make_error(status.error().code, "{} ({})", status.error().message, describe(rule, index));
  if (!rule.master) return quant;
  if (!quant.enabled()) return invalid(rule, index, "a method for the value of a master weight");
  if (rule.quant.contains("activation") && quant.activation != ternary::ActKind::kNone)
    return invalid(rule, index, "float activations of a master weight");
  quant.activation = ternary::ActKind::kNone;
  return quant;
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
  if (rule.master) add("master", "true");
  for (const auto& [key, value] : rule.quant) add(key, value);
  return fmt::format("rule {} ({})", index + 1, text);
}

Result<RuleSet> RuleSet::create(MixedPrecisionConfig config) {
  RuleSet set;
  set.base_ = config.quant;
  for (size_t i = 0; i < config.rules.size(); ++i) {
    BITLAB_RETURN_IF_ERROR(check_conditions(config.rules[i], i));
    BITLAB_TRY(const BitQuantConfig quant, quant_of(config.rules[i], i, config.quant));
    set.rules_.push_back({std::move(config.rules[i]), quant});
  }
  return set;
}

Decision RuleSet::decide(const LayerFacts& layer) {
  for (size_t i = 0; i < rules_.size(); ++i) {
    if (!matches(rules_[i].rule, layer)) continue;
    rules_[i].used = true;
    return {rules_[i].quant, rules_[i].rule.master, describe(rules_[i].rule, i)};
  }
  return {base_, false, "default"};
}

bool RuleSet::has_positions() const {
  return std::any_of(rules_.begin(), rules_.end(),
                     [](const Entry& entry) { return entry.rule.position != config::Position::kAny; });
}

std::vector<std::string> RuleSet::unused() const {
  std::vector<std::string> texts;
  for (size_t i = 0; i < rules_.size(); ++i)
    if (!rules_[i].used) texts.push_back(describe(rules_[i].rule, i));
  return texts;
}

}  // namespace bitlab::convert
