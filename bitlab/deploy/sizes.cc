// Sizes of tensors as what they are in every run: from those of the recordings.
#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bitlab/deploy/internal/found.h"
#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {

// The sums in the shapes of values so far.
std::span<const program::Dim> Lowering::known_sums() {
  const std::vector<program::Value>& values = builder_.peek().values;
  for (; values_seen_ < values.size(); ++values_seen_)
    for (const program::Dim& dim : values[values_seen_].shape)
      for (const program::Sum& sum : dim.sums) {
        program::Dim alone(1);
        alone.sums.push_back(sum);
        if (std::find(sums_.begin(), sums_.end(), alone) == sums_.end()) sums_.push_back(std::move(alone));
      }
  return sums_;
}

const program::SymbolSizes& Lowering::sizes_in(const Call& call) const {
  if (&call == twin_) return recordings_->twin_sizes;
  const auto other = std::find(others_.begin(), others_.end(), &call);
  return other == others_.end() ? recordings_->sizes
                                : recordings_->other_sizes.at(static_cast<size_t>(other - others_.begin()));
}

std::vector<program::SymbolSizes> Lowering::all_sizes() const {
  std::vector<program::SymbolSizes> sizes{recordings_->sizes, recordings_->twin_sizes};
  sizes.insert(sizes.end(), recordings_->other_sizes.begin(),
               recordings_->other_sizes.begin() + static_cast<std::ptrdiff_t>(others_.size()));
  return sizes;
}

std::optional<program::Dim> Lowering::found_as(std::span<const int64_t> found) {
  const program::Symbols& symbols = recordings_->signature.symbols;
  const std::vector<program::SymbolSizes> sizes = all_sizes();
  std::vector<program::Dim> forms = dims_of(found, sizes, symbols.size(), known_sums());
  if (forms.empty()) return std::nullopt;
  if (forms.size() > 1 && !is_told(forms)) return std::nullopt;
  if (!is_confirmed(forms.front(), found)) return std::nullopt;
  return std::move(forms.front());
}

// What a part that is rounded is one of many forms of is believed where the recordings have three values of it; else one at a size with another is asked for,
// between those that there are.
bool Lowering::is_confirmed(const program::Dim& form, std::span<const int64_t> found) {
  constexpr size_t kEnough = 3;
  const auto known = known_sums();
  const auto is_known = [&](const program::Sum& sum) {
    return sum.divisor == 1 ||
           std::any_of(known.begin(), known.end(), [&](const program::Dim& dim) { return dim.sums[0] == sum; });
  };
  const std::set<int64_t> values(found.begin(), found.end());
  if (values.size() >= kEnough || std::all_of(form.sums.begin(), form.sums.end(), is_known)) return true;
  const program::Symbols& symbols = recordings_->signature.symbols;
  const std::vector<program::SymbolSizes> sizes = all_sizes();
  for (size_t i = 1; i < symbols.size(); ++i) {
    if (!uses(form, i)) continue;
    std::vector<int64_t> there;
    for (const program::SymbolSizes& at : sizes) there.push_back(at[i]);
    const int64_t least = *std::min_element(there.begin(), there.end()),
                  most = *std::max_element(there.begin(), there.end());
    program::SymbolSizes at = sizes.front();
    std::optional<program::SymbolSizes> asked;
    const auto middle = static_cast<int64_t>(std::sqrt(static_cast<double>(least) * static_cast<double>(most)));
    for (at[i] = middle; !asked && at[i] <= std::min(symbols[i].max, 2 * most); ++at[i])
      if (!values.contains(form.at(at))) asked = at;
    if (!asked) continue;
    wants_sizes_ = asked;
    return false;
  }
  return true;
}

bool Lowering::is_told(const std::vector<program::Dim>& forms) {
  const std::vector<program::SymbolSizes> sizes = all_sizes();
  const auto telling = telling_sizes(forms, recordings_->signature.symbols, sizes.front(), sizes.back());
  if (telling) wants_sizes_ = telling;
  return !telling;
}

Result<program::Dim> Lowering::dim_of(const Call& call, const std::function<int64_t(const Call&)>& size) {
  const std::vector<int64_t> found = in_all(call, size);
  if (const auto dim = found_as(found)) return *dim;
  return unsupported(call, "sizes that are fixed, or follow from symbols wherever ranges let them be",
                     fmt::format("{}", fmt::join(found, " and ")));
}

bool Lowering::is_at(const program::Dim& dim, const Call& call, const std::function<int64_t(const Call&)>& size) const {
  return std::ranges::equal(in_all(call, size), all_sizes(), {}, {}, [&](const auto& sizes) { return dim.at(sizes); });
}

// Raises the least sizes of symbols to where one size is no larger than another.
void Lowering::keep_within(const program::Dim& size, const program::Dim& other) {
  constexpr int64_t kMostMore = 256;
  program::Symbols symbols = builder_.peek().symbols;
  for (size_t i = 1; i < symbols.size(); ++i) {
    if (!uses(size, i) && !uses(other, i)) continue;
    const int64_t least = symbols[i].min;
    for (int64_t more = 0; more <= kMostMore && least + more <= symbols[i].max; ++more) {
      symbols[i].min = least + more;
      if (!program::is_within(size, 1, 0, other, symbols)) continue;
      if (more != 0) at_least(program::Dim::of_symbol(i), symbols[i].min);
      return;
    }
    symbols[i].min = least;
  }
}

bool Lowering::is_same(const Call& call, const std::function<int64_t(const Call&)>& number) const {
  return is_one_number(in_all(call, number));
}

Result<program::Shape> Lowering::shape_of(const Call& call, const std::function<std::vector<int64_t>(const Call&)>& sizes) {
  const std::vector<std::vector<int64_t>> found = in_all(call, sizes);
  std::string texts;
  for (const std::vector<int64_t>& each : found) texts += (texts.empty() ? "" : " and ") + deploy::show(each);
  program::Shape shape;
  for (const std::vector<int64_t>& each : found)
    if (each.size() != found[0].size()) return unsupported(call, "one rank for all sizes", texts);
  for (size_t i = 0; i < found[0].size(); ++i) {
    std::vector<int64_t> of_axis;
    for (const std::vector<int64_t>& each : found) of_axis.push_back(each[i]);
    const auto dim = found_as(of_axis);
    if (!dim) return unsupported(call, "sizes that are fixed, or follow from symbols wherever ranges let them be", texts);
    shape.push_back(*dim);
  }
  return shape;
}

Result<program::Shape> Lowering::shape_of_output(const Call& call) {
  BITLAB_TRY(program::Shape shape, shape_of(call, [](const Call& c) { return c.shapes.at(0); }));
  if (output_of(call).is_complex()) shape.emplace_back(2);
  return shape;
}

Result<ValueId> Lowering::positions(const Call& call, const std::function<at::Tensor(const Call&)>& get_tensor) {
  const at::Tensor tensor = get_tensor(call), twin_tensor = get_tensor(twin());
  const auto get = [&](const Call& c) { return get_tensor(c).size(0); };
  if (is_activation(tensor)) return value_of(call, tensor);
  for (const at::Tensor& t : {tensor, twin_tensor})
    if (t.dim() != 1 || t.scalar_type() != at::kLong || !at::equal(t, at::arange(t.size(0))))
      return unsupported(call, "the int64 positions 0, 1, ...", describe(t) + " of others");
  BITLAB_TRY(const program::Dim size, dim_of(call, get));
  if (uses(size, 0))  // what a sample gets would depend on its place in the batch
    return unsupported(call, "positions that are the same for each sample", "as many as the batch has");
  BITLAB_TRY(const ValueId id, counted_to(*this, size));
  values_[identity(tensor)] = id;
  return value_of(call, tensor);
}

}  // namespace bitlab::deploy
