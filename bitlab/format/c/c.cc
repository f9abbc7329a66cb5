#include "bitlab/format/c/c.h"

#include <algorithm>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "bitlab/format/c/internal/emitter.h"

namespace bitlab::format::c {

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

constexpr std::string_view kPrologue = R"(#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* Every operation rounds to its type, and none is fused with another. */
#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2))
#error "IEEE 754 arithmetic that rounds each operation to its type: no -ffast-math, no x87"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

)";

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

std::string Emitter::parameters() const {
  std::string text;
  for (size_t i = 0; i < ports_.size(); ++i) {
    const bool is_input = i < p_.inputs.size();
    const ValueId id = is_input ? p_.inputs[i] : p_.outputs[i - p_.inputs.size()].value;
    text += fmt::format("{}{}{} *{}", i == 0 ? "" : ", ", is_input ? "const " : "", name(type(id)), ports_[i]);
  }
  return text;
}

std::string Emitter::size_report() const {
  const std::string prefix = upper(options_.name), constants = fmt::format("{}", flash_);
  std::string text = fmt::format(
      "#define {0}_FLASH_BYTES {1} /* of weights and other constants, code not counted */\n"
      "#define {0}_RAM_BYTES {2} /* of static memory, beside inputs, outputs and the stack */\n"
      "#define {0}_MACS {3} /* products a run, each with an addition */\n"
      "#define {0}_SAME_BITS {4} /* 1: the bits of BitLab's runtime; 0: functions of the C library have a part in results "
      "*/\n",
      prefix, flash_, memory_[0].bytes() + memory_[1].bytes() + memory_[2].bytes(), macs_, exact_ ? 1 : 0);
  for (size_t i = 0; i < ports_.size(); ++i) {
    const ValueId id = i < p_.inputs.size() ? p_.inputs[i] : p_.outputs[i - p_.inputs.size()].value;
    text +=
        fmt::format("#define {}_{}_SIZE {} /* {} */\n", prefix, upper(ports_[i]), count(id), program::to_string(shape(id)));
  }
  return text;
}

std::string Emitter::header() const {
  const std::string guard = upper(options_.name) + "_H";
  std::string refusals;
  for (const int64_t node : refusing_)
    refusals += fmt::format("   {}: {}\n", node + 1, commented(p_.nodes[static_cast<size_t>(node)].name));
  std::string text = fmt::format("/* {}: {}. Written by BitLab. */\n#ifndef {}\n#define {}\n\n#include <stdint.h>\n\n{}\n",
                                 options_.name, commented(to_string(p_.signature())), guard, guard, size_report());
  text +=
      "/* Values are row-major. Inputs and outputs must not overlap. One run at a time: memory is static.\n"
      "   0, or which layer refused a value that is not finite or an index outside of its table; outputs are then "
      "undefined.\n" +
      refusals + "*/\n";
  return text +
         fmt::format(
             "#ifdef __cplusplus\nextern \"C\" {{\n#endif\nint {}_run({});\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n",
             options_.name, parameters());
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
    BITLAB_RETURN_IF_ERROR(emit(*this, node));
    ++node_;
  }
  copy_outputs();
  constexpr std::array<std::pair<std::string_view, int64_t>, 3> kBlocks{
      {{"float arena", 4}, {"int64_t arena64", 8}, {"int32_t arena32", 4}}};
  std::string arenas;
  for (size_t i = 0; i < kBlocks.size(); ++i) {
    if (memory_.at(i).bytes() > std::numeric_limits<int32_t>::max())
      return make_error(ErrorCode::kUnsupported, "[c] less than 2^31 bytes of memory, got {}", memory_.at(i).bytes());
    if (memory_.at(i).bytes() != 0)
      arenas += fmt::format("static {}[{}];\n", kBlocks[i].first, memory_.at(i).bytes() / kBlocks[i].second);
  }
  const std::string start = fmt::format("/* Written by BitLab. */\n#include \"{}.h\"\n\n", options_.name);
  return Source{header(), start + std::string(kPrologue) + helpers_.text() + constants_ + "\n" + arenas +
                              fmt::format("\nint {}_run({}) {{\n", options_.name, parameters()) + body_ +
                              "  return 0;\n}\n"};
}

Result<Source> serialize(const program::Program& program, const Options& options) { return Emitter(program, options).run(); }

}  // namespace bitlab::format::c
