// Enumerations of the configs, and the text form of every enumeration that a config holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/ternary/calibrate.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::config {

enum class Optimizer { kAdamW, kAdam, kSgd, kMuon };
enum class ParameterOptimizer { kDefault, kMuon, kAdamW };
enum class Schedule { kCosine, kConstant, kLinear, kPolynomial, kStep, kOneCycle, kTwoPhase };
enum class Precision { kFloat32, kBFloat16, kFloat16 };
enum class TernaryOrder { kTogether, kFirstToLast, kLastToFirst };
enum class Position { kAny, kFirst, kLast };
enum class LogFormat { kJsonLines, kCsv, kTensorBoard };

std::string_view name(Optimizer optimizer);
std::string_view name(ParameterOptimizer optimizer);
std::string_view name(Schedule schedule);
std::string_view name(Precision precision);
std::string_view name(TernaryOrder order);
std::string_view name(Position position);
std::string_view name(LogFormat format);

// Every text form, in the order of the enumeration.
std::vector<std::string_view> names_of(Optimizer);
std::vector<std::string_view> names_of(ParameterOptimizer);
std::vector<std::string_view> names_of(Schedule);
std::vector<std::string_view> names_of(Precision);
std::vector<std::string_view> names_of(TernaryOrder);
std::vector<std::string_view> names_of(Position);
std::vector<std::string_view> names_of(LogFormat);

// Reads the text form. Error: UnknownName, listing the choices.
Status parse(std::string_view text, Optimizer& value);
Status parse(std::string_view text, ParameterOptimizer& value);
Status parse(std::string_view text, Schedule& value);
Status parse(std::string_view text, Precision& value);
Status parse(std::string_view text, TernaryOrder& value);
Status parse(std::string_view text, Position& value);
Status parse(std::string_view text, LogFormat& value);
Status parse(std::string_view text, ternary::Method& value);
Status parse(std::string_view text, ternary::Granularity& value);
Status parse(std::string_view text, ternary::Gradient& value);
Status parse(std::string_view text, ternary::ActKind& value);
Status parse(std::string_view text, ternary::Sparsity& value);
Status parse(std::string_view text, ternary::Rounding& value);
Status parse(std::string_view text, ternary::Calibration& value);

}  // namespace bitlab::config
