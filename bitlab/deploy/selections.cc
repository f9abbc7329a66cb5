// What a mask that is computed selects: as many rows as the mask says, which differ from run to run. A program has all rows instead, and every operator on the
// selected ones is applied to all, up to where they are written back by the same mask (y[mask] = f(x[mask])).
//
// That an operator treats rows one by one is tried, not believed: it runs on the selected rows and on all of them, in both recordings, and must give the same
// for the selected ones.
#include <array>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/internal/refusals.h"
#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// The selected rows of [rows, ...].
at::Tensor selected_of(const at::Tensor& rows, const at::Tensor& mask) {
  return rows.index_select(0, mask.reshape({-1}).nonzero().squeeze(1));
}

// A value with each of its tensors replaced.
c10::IValue with_tensors(const c10::IValue& value, const std::function<at::Tensor(const at::Tensor&)>& get) {
  if (value.isTensor()) return value.toTensor().defined() ? c10::IValue(get(value.toTensor())) : value;
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(get(tensor));
    return list;
  }
  return value;
}

std::vector<at::Tensor> tensors_of(const std::vector<c10::IValue>& values) {
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& value : values)
    for_each_tensor(value, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

std::vector<c10::IValue> rerun(const Call& call, std::vector<c10::IValue> arguments) {
  const at::NoGradGuard no_grad;
  operator_of(call).value().callBoxed(&arguments);
  return arguments;
}

// Whether the outputs of an operator on the selected rows are those rows of its outputs on all.
bool is_by_row(const at::Tensor& mask, size_t outputs, const std::vector<at::Tensor>& all,
               const std::vector<at::Tensor>& parts) {
  if (outputs == 0 || all.size() != outputs || parts.size() != outputs) return false;
  for (size_t o = 0; o < outputs; ++o) {
    const at::Tensor &whole = all[o], &part = parts[o];
    if (whole.dim() == 0 || part.dim() != whole.dim() || whole.size(0) != mask.numel()) return false;
    const at::Tensor selected = selected_of(whole, mask);
    if (selected.sizes() != part.sizes() || !at::allclose(selected.to(at::kDouble), part.to(at::kDouble), 1e-4, 1e-5, true))
      return false;
  }
  return true;
}

}  // namespace

bool Lowering::is_selection(const at::Tensor& tensor) const {
  return tensor.defined() && selections_.contains(identity(tensor));
}

bool Lowering::reads_selection(const Call& call) const {
  return reads_any(call, [&](const at::Tensor& tensor) { return is_selection(tensor); });
}

// A mask of one value in a recording shows nothing of what it does; nor does one row, which Python takes in another way.
Status Lowering::check_variety(const Call& call, const Selection& selection) {
  for (const auto& rows : selection.of)
    if (const int64_t count = rows.part.size(0); count < 2 || count == rows.all.size(0)) {
      wants_variety_ = true;
      return unsupported(call, "an example of which a mask selects two rows or more, and not all",
                         fmt::format("{} that selects {}", describe(rows.mask), count));
    }
  return {};
}

Status Lowering::select(const Call& call) {
  const at::Tensor &mask = index_of(call, 0), &twin_mask = index_of(twin(), 0);
  BITLAB_TRY(ValueId x, operand(call, "self"));
  const auto dims = static_cast<std::ptrdiff_t>(mask.dim());
  program::Shape rows(shape(x).begin() + dims, shape(x).end());
  rows.insert(rows.begin(), program::volume({shape(x).begin(), shape(x).begin() + dims}));
  BITLAB_TRY(x, reshape(x, rows));
  Selection selection{mask, x, {}};
  const auto add = [&](const Call& c, const at::Tensor& by) {
    const at::Tensor all = c.read.flatten(0, by.dim() - 1).contiguous();
    selection.of.push_back({by.clone(), all, selected_of(all, by)});
  };
  add(call, mask);
  add(twin(), twin_mask);
  asked_.insert(identity(mask));
  lose(output_of(call));
  selections_[identity(output_of(call))] = std::move(selection);
  return {};
}

// The rows that a call reads, which one mask selects.
Result<Lowering::Selection> Lowering::selection_of(const Call& call) {
  const Selection* first = nullptr;
  bool same = true;
  for (const Argument& argument : call.arguments)
    for_each_tensor(argument.value, [&](const at::Tensor& tensor) {
      const auto found = selections_.find(identity(tensor));
      if (found == selections_.end()) return;
      if (first == nullptr) first = &found->second;
      for (size_t i = 0; i < first->of.size(); ++i) same = same && at::equal(first->of[i].mask, found->second.of[i].mask);
    });
  if (!same) return unsupported(call, "rows that one mask selects", "those of several masks");
  BITLAB_RETURN_IF_ERROR(check_variety(call, *first));
  return *first;
}

Lowering::OnAllRows Lowering::run_on_all_rows(const Call& call) {
  const std::array<const Call*, 2> calls{&call, &twin()};
  OnAllRows run;
  for (size_t i = 0; i < calls.size(); ++i) {
    std::vector<c10::IValue> of_part, of_all;
    Call& whole = run.calls.at(i);
    whole = Call{call.op, call.within, call.line, {}, {}, {}, {}, {}, {}, {}};
    for (size_t a = 0; a < call.arguments.size(); ++a) {
      const std::vector<at::Tensor> recorded = tensors_of({call.arguments[a].value});
      const auto replaced = [&](bool all) {
        size_t place = 0;
        return with_tensors(calls.at(i)->arguments[a].value, [&](const at::Tensor& tensor) -> at::Tensor {
          while (place < recorded.size() && !recorded[place].defined()) ++place;
          const auto found = selections_.find(identity(recorded[place++]));
          if (found == selections_.end()) return tensor;
          const auto& rows = found->second.of[i];
          const at::Tensor copy = (all ? rows.all : rows.part).clone();
          if (all && i == 0) {
            values_[identity(copy)] = found->second.value;
            kept_.push_back(copy);
          }
          return copy;
        });
      };
      of_part.push_back(replaced(false));
      of_all.push_back(replaced(true));
      whole.arguments.push_back({call.arguments[a].name, of_all.back()});
    }
    whole.outputs = rerun(call, std::move(of_all));
    for (const c10::IValue& output : whole.outputs)
      whole.shapes.push_back(output.isTensor() && output.toTensor().defined() ? output.toTensor().sizes().vec()
                                                                              : std::vector<int64_t>());
    run.all.at(i) = tensors_of(whole.outputs);
    run.parts.at(i) = tensors_of(rerun(call, std::move(of_part)));
  }
  return run;
}

// The operator on all rows.
Status Lowering::lower_on_all_rows(const Call& call) {
  BITLAB_TRY(const Selection chosen, selection_of(call));
  const LoweringFunction function = find_lowering(call.op);
  if (function == nullptr) return unknown_operator(call);
  const OnAllRows run = run_on_all_rows(call);
  const std::vector<at::Tensor> recorded = tensors_of(call.outputs);
  for (size_t i = 0; i < run.calls.size(); ++i)
    if (!is_by_row(chosen.of[i].mask, recorded.size(), run.all.at(i), run.parts.at(i)))
      return unsupported(call, "an operator that treats the rows that a mask selects one by one, since all are computed",
                         call.op + " of " + describe(chosen.of[i].part));
  twin_ = &run.calls[1];
  others_.clear();
  asked_.clear();
  BITLAB_RETURN_IF_ERROR(function(*this, run.calls[0]));
  if (call.is_in_place())  // other views of what it changed
    std::erase_if(selections_, [&](const auto& entry) {
      const at::Tensor& changed = call.arguments[0].value.toTensor();
      const auto* impl = static_cast<const at::TensorImpl*>(entry.first);
      return impl != identity(changed) && impl->has_storage() && impl->storage().is_alias_of(changed.storage());
    });
  for (size_t o = 0; o < recorded.size(); ++o) {
    Selection selection{chosen.by, program::kNone, {}};
    if (is_read(recorded[o]) || call.is_in_place()) {
      BITLAB_TRY(selection.value, value_of(run.calls[0], run.all[0][o]));
    }
    for (size_t i = 0; i < run.calls.size(); ++i)
      selection.of.push_back({chosen.of[i].mask, run.all.at(i)[o], run.parts.at(i)[o]});
    kept_.push_back(run.all[0][o]);
    lose(recorded[o]);
    selections_[identity(recorded[o])] = std::move(selection);
  }
  return {};
}

Result<ValueId> Lowering::unselected(const Call& call, const at::Tensor& selected, const at::Tensor& mask,
                                     const at::Tensor& twin_mask) {
  const Selection& selection = selections_.at(identity(selected));
  asked_.insert(identity(selected));
  if (mask.is_same(selection.by)) return selection.value;
  BITLAB_RETURN_IF_ERROR(check_variety(call, selection));
  if (!at::equal(selection.of[0].mask, mask) || !at::equal(selection.of[1].mask, twin_mask))
    return unsupported(call, "rows written by the mask that selected them", "another mask");
  return selection.value;
}

}  // namespace bitlab::deploy
