#include "bitlab/train/state_dict.h"

#include <algorithm>
#include <cmath>
#include <span>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isclose.h>

#include "bitlab/base/internal/nearest.h"

namespace bitlab::train {
namespace {

constexpr size_t kMaxLines = 20, kMaxCompared = 1000;  // names; the time grows with the product

std::string show(at::IntArrayRef shape) { return c10::str(shape); }

// The prefix of names of the file whose removal gives the most names of the model.
std::string best_prefix(const std::vector<StateDictDiff::Entry>& unexpected, const State& model) {
  std::map<std::string, int64_t> matches;
  for (const auto& entry : std::span(unexpected).first(std::min(unexpected.size(), kMaxCompared)))
    for (size_t dot = entry.name.find('.'); dot != std::string::npos; dot = entry.name.find('.', dot + 1))
      if (model.contains(entry.name.substr(dot + 1))) ++matches[entry.name.substr(0, dot + 1)];
  const auto best =
      std::max_element(matches.begin(), matches.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return best == matches.end() ? "" : best->first;
}

std::vector<std::string> names_of(const std::vector<StateDictDiff::Entry>& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.push_back(entry.name);
  return names;
}

// `others`: where the name may have been meant.
std::string paragraph(std::string_view heading, const std::vector<StateDictDiff::Entry>& entries,
                      const std::vector<std::string>& others) {
  if (entries.empty()) return "";
  const size_t shown = std::min(entries.size(), kMaxLines);
  size_t width = 0;
  for (size_t i = 0; i < shown; ++i) width = std::max(width, entries[i].name.size());
  std::string text = fmt::format("{}: {}\n", heading, entries.size());
  for (size_t i = 0; i < shown; ++i) {
    const auto& [name, model, file] = entries[i];
    text += fmt::format("  {:<{}}  ", name, width);
    text += show(model ? *model : *file);
    if (model && file) text += fmt::format(", got {}", show(*file));
    const std::string* meant = others.size() > kMaxCompared ? nullptr : nearest(name, others, name.size() / 3);
    text += meant == nullptr ? "\n" : fmt::format("  near '{}'\n", *meant);
  }
  if (shown < entries.size()) text += fmt::format("  and {} more\n", entries.size() - shown);
  return text;
}

// "", or how many more entries have the same fault.
std::string more(const std::vector<StateDictDiff::Entry>& entries) {
  return entries.size() < 2 ? "" : fmt::format(" and {} more", entries.size() - 1);
}

Status check(const StateDictDiff& diff) {
  if (!diff.unexpected.empty())
    return make_error(ErrorCode::kUnknownName, "[train] a parameter of the model, got '{}'{}", diff.unexpected[0].name,
                      more(diff.unexpected));
  if (!diff.missing.empty())
    return make_error(ErrorCode::kUnknownName, "[train] every parameter of the model, got none for '{}'{}",
                      diff.missing[0].name, more(diff.missing));
  if (!diff.reshaped.empty())
    return make_error(ErrorCode::kShapeMismatch, "[train] a shape of {}, got {}{} (name={})", show(*diff.reshaped[0].model),
                      show(*diff.reshaped[0].file), more(diff.reshaped), diff.reshaped[0].name);
  return {};
}

// Without a name.
Status check_finite(const at::Tensor& tensor) {
  if (!tensor.is_floating_point()) return {};
  const at::Tensor bad = tensor.to(at::kFloat).isfinite().logical_not();
  const int64_t count = bad.sum().item<int64_t>();
  if (count == 0) return {};
  const at::Tensor index = bad.nonzero()[0].contiguous();
  const std::vector<int64_t> position(index.const_data_ptr<int64_t>(), index.const_data_ptr<int64_t>() + index.numel());
  at::Tensor value = tensor;
  for (const int64_t i : position) value = value.select(0, i);
  const auto found = value.to(at::kDouble).item<double>();
  return make_error(ErrorCode::kNotFinite, "{}, got {} at {}{}",
                    std::isfinite(found) ? "values within the range of float32" : "finite values", found, show(position),
                    count == 1 ? "" : fmt::format(" and {} more", count - 1));
}

// Names of one memory that a file has twice must agree: the one that is copied last would win.
Status check_tied(const State& model, const State& file) {
  for (const auto& names : tied_names(model)) {
    const std::string* first = nullptr;
    for (const std::string& name : names) {
      if (!file.contains(name)) continue;
      if (first == nullptr) first = &name;
      const at::Tensor a = file.at(*first).to(at::kDouble).flatten(), b = file.at(name).to(at::kDouble).flatten();
      const at::Tensor differ = a.isclose(b, /*rtol=*/0, /*atol=*/0, /*equal_nan=*/true).logical_not().nonzero();
      if (differ.size(0) == 0) continue;
      const int64_t at = differ[0][0].item<int64_t>();
      return make_error(ErrorCode::kInvalidArgument, "[train] equal values for tied weights, got {} in '{}' and {} in '{}'",
                        a[at].item<double>(), *first, b[at].item<double>(), name);
    }
  }
  return {};
}

}  // namespace

Result<StateDict> load_state_dict(const std::filesystem::path& path, const State& model, const WeightsOptions& options) {
  BITLAB_TRY(PytorchFile file, PytorchFile::open(path));
  const auto found = find_weights(file, model, options);
  if (!found.ok()) return make_error(found.error().code, "{} (path={})", found.error().message, path.string());
  StateDict weights{.notes = found->notes};
  std::set<std::string> wanted;
  for (const auto& [name, index] : found->entries) {
    const PytorchFile::Entry& entry = file.entries()[index];
    wanted.insert(entry.name);
    if (model.contains(name)) {
      BITLAB_TRY(weights.tensors[name], file.read(entry));
    } else {
      weights.tensors[name] = at::empty(entry.sizes.value_or(std::vector<int64_t>{0}), at::kMeta);
    }
  }
  weights.skipped = file.skipped(wanted);
  return weights;
}

State state_of(const torch::nn::Module& module) {
  State state;
  for (const auto& item : module.named_parameters()) state[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) state[item.key()] = item.value();
  return state;
}

StateDictDiff compare(const State& model, const State& file, const NamePredicate& may_miss) {
  StateDictDiff diff;
  for (const auto& name : missing_names(
           model, [&](const std::string& n) { return file.contains(n); }, may_miss))
    diff.missing.push_back({name, model.at(name).sizes().vec(), std::nullopt});
  for (const auto& [name, tensor] : model)
    if (const auto found = file.find(name); found != file.end() && found->second.sizes() != tensor.sizes())
      diff.reshaped.push_back({name, tensor.sizes().vec(), found->second.sizes().vec()});
  for (const auto& [name, tensor] : file)
    if (!model.contains(name)) diff.unexpected.push_back({name, std::nullopt, tensor.sizes().vec()});
  diff.prefix = best_prefix(diff.unexpected, model);
  return diff;
}

std::string to_text(const StateDictDiff& diff) {
  std::string text = paragraph("Missing in the file", diff.missing, names_of(diff.unexpected)) +
                     paragraph("Unknown to the model", diff.unexpected, names_of(diff.missing)) +
                     paragraph("Of another shape", diff.reshaped, {});
  if (!diff.prefix.empty())
    text += fmt::format("Without the prefix '{}' more names of the file would match.\n", diff.prefix);
  return text;
}

Status check_finite(const State& state) {
  Status first;
  std::string_view name;
  int64_t others = 0;
  for (const auto& [tensor_name, tensor] : state) {
    Status status = check_finite(tensor);
    if (status.ok()) continue;
    if (!first.ok()) {
      ++others;
      continue;
    }
    first = std::move(status);
    name = tensor_name;
  }
  if (first.ok()) return first;
  return make_error(first.error().code, "[train] {} (name={}{})", first.error().message, name,
                    others == 0 ? "" : fmt::format(" and {} more", others));
}

Status load_into(torch::nn::Module& module, const State& state, const NamePredicate& may_miss) {
  State tensors = state_of(module);
  BITLAB_RETURN_IF_ERROR(check(compare(tensors, state, may_miss)));
  for (const auto& [name, value] : state)
    if (const at::Tensor& tensor = tensors.at(name);
        tensor.is_floating_point() != value.is_floating_point() || value.is_complex())
      return make_error(ErrorCode::kTypeMismatch, "[train] values of {}, got {} (name={})",
                        c10::toString(tensor.scalar_type()), c10::toString(value.scalar_type()), name);
  BITLAB_RETURN_IF_ERROR(check_tied(tensors, state));
  const at::NoGradGuard no_grad;
  for (const auto& [name, value] : state) tensors.at(name).copy_(value);
  return {};
}

}  // namespace bitlab::train
