#include "bitlab/deploy/internal/refusals.h"

#include <algorithm>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// An error with the line of the call that it is about: "... (operator=aten::nonzero, line=net.py:12)".
Error at_line(Error error, const Call& call) {
  if (call.line.empty()) return error;
  const bool has_list = error.message.ends_with(")");
  if (has_list) error.message.pop_back();
  error.message += fmt::format("{}line={})", has_list ? ", " : " (", call.line);
  return error;
}

// The sizes of symbols, for messages: "batch 2, tokens 5".
std::string text_of(const program::Symbols& symbols, const program::SymbolSizes& sizes) {
  std::string text;
  for (size_t i = 0; i < symbols.size(); ++i)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", symbols[i].name, sizes[i]);
  return text;
}

}  // namespace

namespace {

// The first call in which two recordings differ, from number i on; nothing for none.
std::optional<Error> differing_call(const program::Symbols& symbols, const Recording& first,
                                    const program::SymbolSizes& sizes, const Recording& other,
                                    const program::SymbolSizes& other_sizes, size_t i) {
  const auto &a = first.calls, &b = other.calls;
  if (i < a.size() && i < b.size() && a[i].op == b[i].op) return std::nullopt;
  const Error error = make_error(ErrorCode::kUnsupported,
                                 "[capture] the same operators for every size (no 'if' and no loop over one, unless "
                                 "dynamic_axes fix it or ranges leave it out), got {} for {} and {} for {}",
                                 i < a.size() ? a[i].op : "none", text_of(symbols, sizes), i < b.size() ? b[i].op : "none",
                                 text_of(symbols, other_sizes));
  return i < a.size() ? at_line(error, a[i]) : i < b.size() ? at_line(error, b[i]) : error;
}

}  // namespace

Status check_same_call(const Recordings& recordings, size_t i) {
  const auto error = differing_call(recordings.signature.symbols, recordings.first, recordings.sizes, recordings.twin,
                                    recordings.twin_sizes, i);
  return error ? Status(*error) : Status();
}

std::optional<Error> other_calls(const Recordings& recordings, const Recording& other, const program::SymbolSizes& sizes) {
  for (size_t i = 0; i < std::max(recordings.first.calls.size(), other.calls.size()); ++i)
    if (auto error = differing_call(recordings.signature.symbols, recordings.first, recordings.sizes, other, sizes, i))
      return error;
  return std::nullopt;
}

Error explained(const Recordings& recordings, size_t from, Error error) {
  if (find_lowering(recordings.first.calls[from].op) == nullptr)
    return at_line(std::move(error), recordings.first.calls[from]);
  const size_t calls = std::max(recordings.first.calls.size(), recordings.twin.calls.size());
  for (size_t i = from; i < calls; ++i)
    if (Status status = check_same_call(recordings, i); !status.ok()) return status.error();
  return at_line(std::move(error), recordings.first.calls[from]);
}

Error unknown_operator(const Call& call) {
  constexpr std::string_view kBySize[] = {"aten::nonzero",   "aten::masked_select", "aten::_unique",
                                          "aten::_unique2",  "aten::unique_dim",    "aten::unique_consecutive",
                                          "torchvision::nms"};
  constexpr std::string_view kNumbers[] = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero"};
  const auto is_one_of = [&](std::span<const std::string_view> names) {
    return std::find(names.begin(), names.end(), call.function()) != names.end();
  };
  if (is_one_of(kBySize))
    return unsupported(call, "sizes that no values decide: weights of 0 and torch.where() rather than a choice of rows",
                       call.op);
  if (is_one_of(kNumbers))
    return unsupported(call, "values that stay in tensors: torch.where() rather than a number of Python or an 'if'",
                       call.op);
  return unsupported(call, "an operator that can be deployed", call.op);
}

}  // namespace bitlab::deploy
