#include "bitlab/format/c/c.h"

#include <algorithm>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "bitlab/format/c/internal/emitter.h"

namespace bitlab::format::c {

using program::Program;
using program::ValueId;
using program::ValueKind;

std::string identifier(std::string_view name) {
  std::string text;
  for (const char c : name) {
    const bool fits = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    text += fits ? c : '_';
  }
  if (text.empty() || (text[0] >= '0' && text[0] <= '9')) text.insert(0, "n");
  return text;
}

std::string commented(std::string_view text) {
  std::string plain;
  for (const char c : text) plain += (c < ' ' || c > '~' || c == '*' || c == '\\' || c == '?') ? '_' : c;
  return plain;
}

std::vector<std::string> port_names(const program::Program& p) {
  std::set<std::string> taken;
  std::vector<std::string> names;
  const auto add = [&](std::string name) {
    while (!taken.insert(name).second) name += "_";
    names.push_back(std::move(name));
  };
  for (const ValueId id : p.inputs) add("in_" + identifier(p.value(id).name));
  for (const program::Output& output : p.outputs) add("out_" + identifier(output.name));
  return names;
}

namespace {

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? char(c - 'a' + 'A') : c; });
  return text;
}

constexpr std::string_view kIncludes = R"(#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

)";

constexpr std::string_view kIncludesOfIntegers = R"(#include <stddef.h>
#include <string.h>

)";

constexpr std::string_view kFloatArithmetic = R"(/* Every operation rounds to its type, and none is fused with another. */
#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2))
#error "IEEE 754 arithmetic that rounds each operation to its type: no -ffast-math, no x87"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

)";

constexpr std::string_view kToIntegers =
    R"(/* The nearest integers of x / step within the limit, halves to even; 0 where a value is not finite. inverse: 1 / step. */
static int to_integers(const float *x, int32_t count, float inverse, float limit, int8_t *q) {
  for (int32_t i = 0; i < count; ++i) {
    float v = x[i] * inverse;
    if (!((x[i] < 0.0f ? -x[i] : x[i]) <= FLT_MAX)) return 0;
    v = v > limit ? limit : v < -limit ? -limit : v;
    q[i] = (int8_t)((v + 12582912.0f) - 12582912.0f);
  }
  return 1;
}

)";

std::string literal(double value) { return fmt::format("{:a}f", static_cast<float>(value)); }

}  // namespace

Status Emitter::check_program() const {
  if (!p_.states.empty())
    return make_error(ErrorCode::kUnsupported, "[c] a program without states, got {} (value={})", p_.states.size(),
                      p_.value(p_.states[0]).name);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const program::Value& value : p_.values) {
    BITLAB_TRY(const Type type, type_of(value));
    const int64_t count = elements(value.shape, options_.sizes);
    if (count > kMost / size_of(type))
      return make_error(ErrorCode::kUnsupported, "[c] values below 2^31 bytes, got {} elements (value={})", count,
                        value.name);
    if (count == 0) return make_error(ErrorCode::kUnsupported, "[c] values with elements, got none (value={})", value.name);
  }
  return {};
}

std::string Emitter::parameters(bool of_floats) const {
  std::string text;
  for (size_t i = 0; i < ports_.size(); ++i) {
    const bool is_input = i < p_.inputs.size();
    const ValueId id = is_input ? p_.inputs[i] : p_.outputs[i - p_.inputs.size()].value;
    text += fmt::format("{}{}{} *{}", i == 0 ? "" : ", ", is_input ? "const " : "",
                        of_floats ? name(*type_of(p_.value(id))) : name(type(id)), ports_[i]);
  }
  return text;
}

int64_t Emitter::bytes_of_ports() const {
  int64_t bytes = 0;
  for (const ValueId id : p_.inputs) bytes += count(id) * size_of(type(id));
  for (const program::Output& output : p_.outputs) bytes += count(output.value) * size_of(type(output.value));
  return bytes;
}

std::string Emitter::size_report() const {
  const std::string prefix = upper(options_.name);
  const int64_t ram = memory_[0].bytes() + memory_[1].bytes() + memory_[2].bytes();
  std::string text =
      fmt::format("#define {}_FLASH_BYTES {} /* of weights and other constants, code not counted */\n", prefix, flash_);
  constexpr std::string_view kRam = "#define {}_RAM_BYTES {} /* of static memory, beside inputs, outputs and the stack */\n";
  if (plan_ == nullptr)
    text += fmt::format(kRam, prefix, ram);
  else
    text += fmt::format("#ifdef {0}_NO_FLOATS\n{1}#else\n{2}#endif\n", prefix, fmt::format(kRam, prefix, ram),
                        fmt::format(kRam, prefix, ram + bytes_of_ports()));
  text += fmt::format(
      "#define {0}_MACS {1} /* products a run, each with an addition */\n"
      "#define {0}_SAME_BITS {2} /* 1: the bits of BitLab's runtime; 0: {3} have a part in results */\n",
      prefix, macs_, exact_ ? 1 : 0, plan_ == nullptr ? "functions of the C library" : "roundings of integers");
  for (size_t i = 0; i < ports_.size(); ++i) {
    const bool is_input = i < p_.inputs.size();
    const ValueId id = is_input ? p_.inputs[i] : p_.outputs[i - p_.inputs.size()].value;
    text +=
        fmt::format("#define {}_{}_SIZE {} /* {} */\n", prefix, upper(ports_[i]), count(id), program::to_string(shape(id)));
    if (plan_ == nullptr) continue;
    const Grid& grid = plan_->grids[static_cast<size_t>(id)];
    text += fmt::format("#define {0}_{1}_STEP {2} /* what 1 stands for */\n", prefix, upper(ports_[i]), literal(grid.step));
    if (is_input)
      text +=
          fmt::format("#define {0}_{1}_LIMIT {2} /* of the sizes of integers */\n", prefix, upper(ports_[i]), grid.limit);
  }
  return text;
}

std::string Emitter::header() const {
  const std::string prefix = upper(options_.name), guard = prefix + "_H";
  std::string refusals;
  for (const int64_t node : refusing_)
    refusals += fmt::format("   {}: {}\n", node + 1, commented(p_.nodes[static_cast<size_t>(node)].name));
  std::string text = fmt::format("/* {}: {}. Written by BitLab. */\n#ifndef {}\n#define {}\n\n#include <stdint.h>\n\n{}\n",
                                 options_.name, commented(to_string(p_.signature())), guard, guard, size_report());
  constexpr std::string_view kRules =
      "Values are row-major. Inputs and outputs must not overlap. One run at a time: memory is static.";
  const std::string floats = fmt::format("int {}_run({});\n", options_.name, parameters(true));
  const std::string codes =
      "0, or which layer refused a value that is not finite or an index outside of its table; outputs are then "
      "undefined.\n" +
      refusals + "*/\n";
  text += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
  if (plan_ == nullptr)
    text += fmt::format("/* {}\n   {}{}", kRules, codes, floats);
  else
    text += fmt::format(
        "/* {}\n   Without an operation of floats: inputs are the nearest integers of x / STEP from -LIMIT to LIMIT, "
        "outputs times "
        "STEP are y. */\nvoid {}_run_integers({});\n#ifndef {}_NO_FLOATS\n/* {}{}#endif\n",
        kRules, options_.name, parameters(false), prefix, codes, floats);
  return text + "#ifdef __cplusplus\n}\n#endif\n\n#endif\n";
}

void Emitter::copy_outputs() {
  for (size_t i = 0; i < p_.outputs.size(); ++i) {
    const ValueId id = p_.outputs[i].value;
    const std::string& out = ports_[p_.inputs.size() + i];
    if (pointer(id) == out) continue;
    line(fmt::format("memcpy({}, {}, {});", out, pointer(id), count(id) * size_of(type(id))));
  }
}

Result<Source> Emitter::run() {
  BITLAB_RETURN_IF_ERROR(check_program());
  for (size_t i = 0; i < p_.inputs.size(); ++i) pointers_[p_.inputs[i]] = ports_[i];
  for (size_t i = 0; i < p_.outputs.size(); ++i) {
    const ValueId root = roots_.of(p_.outputs[i].value);
    if (p_.value(root).kind == ValueKind::kResult) pointers_.try_emplace(root, ports_[p_.inputs.size() + i]);
  }
  for (const program::Node& node : p_.nodes) {
    place(static_cast<size_t>(node_));
    line(fmt::format("/* {}: {} {} */", commented(node.name), program::name(node.op),
                     program::to_string(shape(node.output()))));
    BITLAB_RETURN_IF_ERROR(plan_ == nullptr ? emit(*this, node) : emit_integers(*this, node));
    ++node_;
  }
  copy_outputs();
  BITLAB_TRY(const std::string memory, arenas());
  const std::string start = fmt::format("/* Written by BitLab. */\n#include \"{}.h\"\n\n", options_.name);
  if (plan_ == nullptr)
    return Source{header(), start + std::string(kIncludes) + std::string(kFloatArithmetic) + helpers_.text() + constants_ +
                                "\n" + memory + fmt::format("\nint {}_run({}) {{\n", options_.name, parameters(true)) +
                                body_ + "  return 0;\n}\n"};
  const std::string floats = float_run();  // which adds to what the header tells
  return Source{header(), start + std::string(kIncludesOfIntegers) + helpers_.text() + constants_ + "\n" + memory +
                              fmt::format("\nvoid {}_run_integers({}) {{\n", options_.name, parameters(false)) + body_ +
                              "}\n" + floats};
}

Result<std::string> Emitter::arenas() const {
  using Blocks = std::array<std::pair<std::string_view, int64_t>, 3>;
  const Blocks blocks = plan_ == nullptr ? Blocks{{{"float arena", 4}, {"int64_t arena64", 8}, {"int32_t arena32", 4}}}
                                         : Blocks{{{"int32_t arena", 4}, {"int64_t arena64", 8}, {"int16_t arena16", 2}}};
  std::string text;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const int64_t bytes = memory_.at(i).bytes();
    if (bytes > std::numeric_limits<int32_t>::max())
      return make_error(ErrorCode::kUnsupported, "[c] less than 2^31 bytes of memory, got {}", bytes);
    if (bytes != 0) text += fmt::format("static {}[{}];\n", blocks.at(i).first, bytes / blocks.at(i).second);
  }
  return text;
}

// The function from floats to floats around the one of integers.
std::string Emitter::float_run() {
  std::string memory, before, arguments, after;
  const auto add = [&](ValueId id, char letter, size_t i) {
    memory += fmt::format("  static {} {}{}[{}];\n", name(type(id)), letter, i, count(id));
    arguments += fmt::format("{}{}{}", arguments.empty() ? "" : ", ", letter, i);
  };
  for (size_t i = 0; i < p_.inputs.size(); ++i) {
    const ValueId id = p_.inputs[i];
    const Grid& grid = plan_->grids[static_cast<size_t>(id)];
    const auto reader = std::find_if(p_.nodes.begin(), p_.nodes.end(), [&](const program::Node& node) {
      return std::find(node.inputs.begin(), node.inputs.end(), id) != node.inputs.end();
    });
    const int64_t node = reader == p_.nodes.end() ? 0 : reader - p_.nodes.begin();
    refusing_.push_back(node);
    add(id, 'x', i);
    before += fmt::format("  if (!to_integers({}, {}, {}, {}.0f, x{})) return {};\n", ports_[i], count(id),
                          literal(1 / grid.step), grid.limit, i, node + 1);
  }
  for (size_t i = 0; i < p_.outputs.size(); ++i) {
    const ValueId id = p_.outputs[i].value;
    add(id, 'y', i);
    after += fmt::format("  for (int32_t i = 0; i < {}; ++i) {}[i] = (float)y{}[i] * {};\n", count(id),
                         ports_[p_.inputs.size() + i], i, literal(plan_->grids[static_cast<size_t>(id)].step));
  }
  return fmt::format(
      "\n#ifndef {0}_NO_FLOATS\n#include <float.h>\n\n{1}{2}int {3}_run({4}) {{\n{5}{6}  {3}_run_integers({7});\n{8}"
      "  return 0;\n}}\n#endif\n",
      upper(options_.name), kFloatArithmetic, kToIntegers, options_.name, parameters(true), memory, before, arguments,
      after);
}

Result<Source> serialize(const Program& program, const Options& options) {
  if (!is_in_integers(options.variant)) return Emitter(program, options).run();
  BITLAB_TRY(const IntegerPlan plan, plan_integers(program, options.sizes));
  return Emitter(plan.program, options, &plan).run();
}

}  // namespace bitlab::format::c
