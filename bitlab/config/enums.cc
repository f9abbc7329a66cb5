#include "bitlab/config/enums.h"

#include <array>

namespace bitlab::config {
namespace {

struct EnumText {
  std::string_view type;
  int value;
  std::string_view text;
};

constexpr std::array kChoices{
#define BITLAB_CHOICE(Enum, value, text) EnumText{#Enum, static_cast<int>(Enum::value), text},
#include "bitlab/config/internal/enums.def"
#undef BITLAB_CHOICE
};

std::string_view text_of(std::string_view type, int value) {
  for (const EnumText& choice : kChoices)
    if (choice.type == type && choice.value == value) return choice.text;
  return "?";
}

std::vector<std::string_view> texts_of_type(std::string_view type) {
  std::vector<std::string_view> list;
  for (const EnumText& choice : kChoices)
    if (choice.type == type) list.push_back(choice.text);
  return list;
}

template <class Enum>
Status parse_choice(std::string_view type, std::string_view text, Enum& value) {
  std::string list;
  for (const EnumText& choice : kChoices) {
    if (choice.type != type) continue;
    if (choice.text == text) {
      value = static_cast<Enum>(choice.value);
      return {};
    }
    if (!list.empty()) list += ", ";
    list += choice.text;
  }
  return make_error(ErrorCode::kUnknownName, "[config] one of {{{}}}, got '{}'", list, text);
}

template <class T>
Status assign(Result<T> parsed, T& value) {
  BITLAB_TRY(value, std::move(parsed));
  return {};
}

}  // namespace

std::string_view name(Optimizer optimizer) { return text_of("Optimizer", static_cast<int>(optimizer)); }
std::string_view name(ParameterOptimizer optimizer) { return text_of("ParameterOptimizer", static_cast<int>(optimizer)); }
std::string_view name(Schedule schedule) { return text_of("Schedule", static_cast<int>(schedule)); }
std::string_view name(Precision precision) { return text_of("Precision", static_cast<int>(precision)); }
std::string_view name(TernaryOrder order) { return text_of("TernaryOrder", static_cast<int>(order)); }
std::string_view name(Position position) { return text_of("Position", static_cast<int>(position)); }
std::string_view name(LogFormat format) { return text_of("LogFormat", static_cast<int>(format)); }
std::vector<std::string_view> names_of(Optimizer) { return texts_of_type("Optimizer"); }
std::vector<std::string_view> names_of(ParameterOptimizer) { return texts_of_type("ParameterOptimizer"); }
std::vector<std::string_view> names_of(Schedule) { return texts_of_type("Schedule"); }
std::vector<std::string_view> names_of(Precision) { return texts_of_type("Precision"); }
std::vector<std::string_view> names_of(TernaryOrder) { return texts_of_type("TernaryOrder"); }
std::vector<std::string_view> names_of(Position) { return texts_of_type("Position"); }
std::vector<std::string_view> names_of(LogFormat) { return texts_of_type("LogFormat"); }
Status parse(std::string_view text, Precision& value) { return parse_choice("Precision", text, value); }
Status parse(std::string_view text, TernaryOrder& value) { return parse_choice("TernaryOrder", text, value); }
Status parse(std::string_view text, Position& value) { return parse_choice("Position", text, value); }
Status parse(std::string_view text, LogFormat& value) { return parse_choice("LogFormat", text, value); }
Status parse(std::string_view text, Optimizer& value) { return parse_choice("Optimizer", text, value); }
Status parse(std::string_view text, ParameterOptimizer& value) { return parse_choice("ParameterOptimizer", text, value); }
Status parse(std::string_view text, Schedule& value) { return parse_choice("Schedule", text, value); }
Status parse(std::string_view text, ternary::Method& value) { return assign(ternary::parse_method(text), value); }
Status parse(std::string_view text, ternary::Granularity& value) { return assign(ternary::parse_granularity(text), value); }
Status parse(std::string_view text, ternary::Gradient& value) { return assign(ternary::parse_gradient(text), value); }
Status parse(std::string_view text, ternary::ActKind& value) { return assign(ternary::parse_act_kind(text), value); }
Status parse(std::string_view text, ternary::Sparsity& value) { return assign(ternary::parse_sparsity(text), value); }
Status parse(std::string_view text, ternary::Rounding& value) { return assign(ternary::parse_rounding(text), value); }
Status parse(std::string_view text, ternary::Calibration& value) { return assign(ternary::parse_calibration(text), value); }

}  // namespace bitlab::config
