#include "bitlab/deploy/signature.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <set>

#include <ATen/ops/arange.h>

#include "bitlab/deploy/internal/found.h"

namespace bitlab::deploy {
namespace {

using program::Dim;
using program::Port;
using program::SymbolSizes;

constexpr std::array kTypes{at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kBool};  // in the order of DType

template <class... Args>
Error refuse(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kInvalidArgument, "[capture] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

std::string shape_text(const at::Tensor& tensor) { return program::to_string(std::span<const int64_t>(tensor.sizes())); }

Status check_tensor(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.device().is_cpu())
    return refuse("an example on the CPU, got {} (input={})", tensor.defined() ? tensor.device().str() : "none", name);
  const at::ScalarType type = tensor.scalar_type();
  if (!is_narrow(type) && type != at::kDouble && std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end())
    return refuse("an example of floats, of integers with a sign, of uint8 or of bool values, got {} (input={})",
                  c10::toString(type), name);
  if (tensor.numel() == 0)
    return refuse("an example with one element or more, got shape {} (input={})", shape_text(tensor), name);
  return {};
}

// The first size of an input that nothing is declared of is the batch.
Result<Signature> by_default(const NamedTensors& example) {
  Signature signature;
  for (const auto& [name, tensor] : example) {
    if (tensor.dim() < 1) return refuse("an example of shape [batch, ...], got {} (input={})", shape_text(tensor), name);
    program::Shape shape{program::kBatch};
    for (int64_t i = 1; i < tensor.dim(); ++i) shape.emplace_back(tensor.size(i));
    signature.inputs.push_back({name, {input_dtype(tensor.scalar_type()), std::move(shape)}});
  }
  return signature;
}

Status check_port(const Signature& signature, const Port& port, const at::Tensor& tensor, SymbolSizes& sizes) {
  const std::string expected = to_string(port.type.shape, signature.symbols);
  for (const Dim& dim : port.type.shape)
    if (!dim.is_number() && !single_symbol(dim))
      return refuse("a number or a multiple of one symbol as an input's size, got {} (input={})", expected, port.name);
  if (input_dtype(tensor.scalar_type()) != port.type.dtype)
    return refuse("{} values, got {} (input={})", name(port.type.dtype), c10::toString(tensor.scalar_type()), port.name);
  if (bind_sizes(port.type.shape, tensor.sizes(), sizes).fits) return {};
  return refuse("an example of shape {}, got {} (input={})", expected, shape_text(tensor), port.name);
}

bool is_prime(int64_t number) {
  for (int64_t d = 2; d * d <= number; ++d)
    if (number % d == 0) return false;
  return number > 1;
}

}  // namespace

program::DType dtype_of(at::ScalarType type) {
  const auto* const found = std::find(kTypes.begin(), kTypes.end(), type);
  if (found == kTypes.end())
    throw Exception(
        make_error(ErrorCode::kUnsupported, "[capture] a dtype that programs have, got {}", c10::toString(type)));
  return static_cast<program::DType>(found - kTypes.begin());
}

program::DType input_dtype(at::ScalarType type) {
  if (is_narrow(type)) return program::DType::kInt32;
  return type == at::kDouble ? program::DType::kFloat32 : dtype_of(type);
}

at::ScalarType scalar_type(program::DType dtype) { return kTypes.at(static_cast<size_t>(dtype)); }

Result<Signature> signature_of(const NamedTensors& example, const std::optional<Signature>& declared) {
  if (example.empty()) return refuse("an example of the inputs, got none");
  for (const auto& [name, tensor] : example) BITLAB_RETURN_IF_ERROR(check_tensor(name, tensor));
  if (!declared) return by_default(example);
  Signature signature = *declared;
  signature.outputs.clear();
  SymbolSizes sizes;
  sizes.fill(program::kUnbound);
  for (const Port& port : signature.inputs) {
    const at::Tensor* tensor = example.find(port.name);
    if (tensor == nullptr) return refuse("an example of '{}', got {}", port.name, example.names());
    BITLAB_RETURN_IF_ERROR(check_port(signature, port, *tensor, sizes));
  }
  for (const auto& [name, tensor] : example)
    if (std::none_of(signature.inputs.begin(), signature.inputs.end(), [&](const Port& port) { return port.name == name; }))
      return refuse("inputs of the signature {}, got '{}' too", to_string(signature), name);
  return signature;
}

Result<std::vector<SymbolSizes>> recording_sizes(const program::Symbols& symbols, const SymbolSizes& least, bool apart) {
  constexpr int64_t kMostPrime = 1 << 12;
  constexpr size_t kMostRecordings = 3;
  std::vector<int64_t> used;
  const auto take = [&](const program::Symbol& symbol, int64_t from) -> int64_t {
    for (int64_t number = std::max<int64_t>({symbol.min, from, 2}); number <= std::min(symbol.max, kMostPrime); ++number)
      if (is_prime(number) && std::find(used.begin(), used.end(), number) == used.end()) {
        used.push_back(number);
        return number;
      }
    return 0;
  };
  // Of what is halved or quartered the rest tells nothing where there is always one.
  const auto take_multiple = [&](const program::Symbol& symbol, int64_t from) -> int64_t {
    constexpr int64_t kMultiple = 12;
    for (int64_t number = (from + kMultiple - 1) / kMultiple * kMultiple; number <= std::min(symbol.max, kMostPrime);
         number += kMultiple)
      if (std::find(used.begin(), used.end(), number) == used.end()) {
        used.push_back(number);
        return number;
      }
    return 0;
  };
  std::vector<SymbolSizes> sizes(2, program::kOnes);
  const auto take_of = [&](size_t i) {
    sizes[0][i] = take(symbols[i], least[i]);
    sizes[1][i] = take(symbols[i], apart ? sizes[0][i] + sizes[0][i] / 2 : least[i]);
    return sizes[0][i] != 0 && sizes[1][i] != 0;
  };
  std::vector<size_t> order(symbols.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (!std::all_of(order.begin(), order.end(), take_of)) {  // those of the smallest ranges first
    used.clear();
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return symbols[a].max < symbols[b].max; });
    for (const size_t i : order)
      if (!take_of(i))
        return make_error(ErrorCode::kUnsupported,
                          "[capture] a range with two primes of its own to record at, got {} to {} (symbol={})",
                          symbols[i].min, symbols[i].max, symbols[i].name);
  }
  while (sizes.size() < kMostRecordings) {
    SymbolSizes more = program::kOnes;
    for (size_t i = 0; i < symbols.size(); ++i) {
      const int64_t from = apart ? sizes.back()[i] + sizes.back()[i] / 2 : sizes.back()[i] + 1;
      more[i] = i == 0 ? take(symbols[i], from) : take_multiple(symbols[i], from);
      if (more[i] == 0) more[i] = take(symbols[i], from);
      if (more[i] == 0) return sizes;
    }
    sizes.push_back(more);
  }
  return sizes;
}

SymbolSizes largest_sizes(const program::Symbols& symbols, const SymbolSizes& otherwise) {
  SymbolSizes sizes = otherwise;
  for (size_t i = 0; i < symbols.size(); ++i)
    if (symbols[i].max < program::kMaxElements) sizes[i] = symbols[i].max;
  return sizes;
}

NamedTensors resized(const Signature& signature, const NamedTensors& example, const SymbolSizes& sizes) {
  NamedTensors inputs;
  for (const Port& port : signature.inputs) {
    at::Tensor tensor = example.at(port.name);
    const std::vector<int64_t> shape = shape_at(port.type.shape, sizes);
    for (size_t i = 0; i < shape.size(); ++i) {
      const auto dim = static_cast<int64_t>(i);
      if (tensor.size(dim) != shape[i]) tensor = tensor.index_select(dim, at::arange(shape[i]).remainder(tensor.size(dim)));
    }
    inputs.set(port.name, tensor.contiguous().clone());
  }
  return inputs;
}

namespace {

// What a size is in each recording.
using Found = std::vector<int64_t>;

struct Recorded {
  std::span<const SymbolSizes> sizes;
  size_t symbols;

  Found of(const Dim& dim) const {
    Found found;
    for (const SymbolSizes& at : sizes) found.push_back(dim.at(at));
    return found;
  }

  // The multiple of symbols that two recordings tell, if others agree.
  std::optional<Dim> multiple(const Found& found) const {
    if (std::any_of(found.begin(), found.end(), [](int64_t size) { return size < 1; })) return std::nullopt;
    const int64_t common = std::gcd(found[0], found[1]);
    int64_t left = found[0] / common,
            twin_left = found[1] / common;  // products of the primes of the symbols, if it is a multiple of them
    Dim dim(found[0]);
    for (size_t i = 0; i < symbols; ++i)
      for (; left % sizes[0][i] == 0 && twin_left % sizes[1][i] == 0; left /= sizes[0][i], twin_left /= sizes[1][i]) {
        ++dim.powers[i];
        dim.factor /= sizes[0][i];
      }
    if (left != 1 || twin_left != 1 || of(dim) != found) return std::nullopt;
    return dim;
  }

  static std::optional<Found> divided(const Found& found, const Found& by) {
    Found result;
    for (size_t i = 0; i < found.size(); ++i) {
      if (by[i] < 1 || found[i] % by[i] != 0) return std::nullopt;
      result.push_back(found[i] / by[i]);
    }
    return result;
  }

  // Of symbols and at most `most` sums.
  std::optional<Dim> product(const Found& found, std::span<const Dim> known, int most) const {
    if (const auto dim = multiple(found)) return dim;
    for (size_t i = 0; most > 0 && i < known.size(); ++i) {
      const Found unit = of(known[i]);
      if (is_one_number(unit)) continue;
      const auto rest = divided(found, unit);
      if (const auto dim = rest ? product(*rest, known, most - 1) : std::nullopt) return known[i] * *dim;
    }
    return std::nullopt;
  }

  // f * unit + offset, for each unit that sizes can be told by.
  std::optional<Dim> multiple_and_number(const Found& found, const std::vector<Dim>& units) const {
    std::optional<Dim> best;
    int64_t least = 0;
    for (const Dim& unit : units) {
      const Found at = of(unit);
      const int64_t step = at[0] - at[1], apart = found[0] - found[1];
      if (step == 0 || apart % step != 0 || apart / step < 1) continue;
      const int64_t factor = apart / step, offset = found[0] - factor * at[0];
      if (best && std::abs(offset) + factor >= least) continue;
      const auto dim = sum(with_factor(unit, factor), offset);
      if (!dim || of(*dim) != found) continue;
      least = std::abs(offset) + factor;
      best = dim;
    }
    return best;
  }

  // unit / d, rounded down or up, that or the multiple of d that it makes, and a small number.
  void add_whole_parts(const Found& found, const Dim& unit, std::vector<Dim>& forms) const {
    constexpr int64_t kMostParts = 64, kMostOfPart = 2, kMostOfMultiple = 8;
    const Found at = of(unit);
    for (int64_t parts = 2; parts <= kMostParts; ++parts)
      for (const int64_t more : {int64_t{0}, parts - 1})
        for (const int64_t factor : {int64_t{1}, parts}) {
          const int64_t number = found[0] - (at[0] + more) / parts * factor;
          if (std::abs(number) > (factor == 1 ? kMostOfPart : kMostOfMultiple)) continue;
          const auto part = quotient(unit, more, parts);
          const auto dim = part ? sum(with_factor(*part, part->factor * factor), number) : std::nullopt;
          if (dim && of(*dim) == found && std::find(forms.begin(), forms.end(), *dim) == forms.end()) forms.push_back(*dim);
        }
  }

  // over * unit / under, rounded down or up: what images are scaled to.
  void add_multiples_of_parts(const Found& found, const Dim& unit, std::vector<Dim>& forms) const {
    constexpr int64_t kMostOver = 16, kMostUnder = 16;
    for (int64_t under = 2; under <= kMostUnder; ++under)
      for (int64_t over = 2; over <= kMostOver; ++over)
        for (const int64_t more : {int64_t{0}, under - 1}) {
          if (std::gcd(over, under) != 1) continue;
          const auto dim = quotient(with_factor(unit, unit.factor * over), more, under);
          if (dim && of(*dim) == found && std::find(forms.begin(), forms.end(), *dim) == forms.end()) forms.push_back(*dim);
        }
  }

  std::vector<Dim> whole_parts(const Found& found, const std::vector<Dim>& units) const {
    std::vector<Dim> forms;
    if (sizes.size() < 3 || is_one_number(found)) return forms;
    for (const Dim& unit : units) add_whole_parts(found, unit, forms);
    for (size_t i = 0; forms.empty() && i < units.size(); ++i) add_multiples_of_parts(found, units[i], forms);
    return forms;
  }
};

}  // namespace

std::vector<Dim> dims_of(std::span<const int64_t> found, std::span<const SymbolSizes> sizes, size_t symbols,
                         std::span<const Dim> known) {
  const Recorded all{sizes, symbols};
  const Found whole(found.begin(), found.end());
  if (const auto dim = all.product(whole, known, 2)) return {*dim};
  // No size has a number added to the batch.
  std::vector<Dim> units;
  for (size_t i = 1; i < symbols; ++i) units.push_back(Dim::of_symbol(i));
  units.insert(units.end(), known.begin(), known.end());
  std::vector<Dim> products = units;
  for (size_t i = 0; i < units.size(); ++i)
    for (size_t k = i; k < units.size(); ++k) products.push_back(units[i] * units[k]);
  if (const auto dim = all.multiple_and_number(whole, products)) return {*dim};
  const auto of_sample = Recorded::divided(whole, all.of(program::kBatch));
  if (const auto dim = of_sample ? all.multiple_and_number(*of_sample, products) : std::nullopt)
    return {program::kBatch * *dim};
  return all.whole_parts(whole, units);
}

std::optional<Dim> dim_of(std::span<const int64_t> found, std::span<const SymbolSizes> sizes, size_t symbols,
                          std::span<const Dim> known) {
  const std::vector<Dim> forms = dims_of(found, sizes, symbols, known);
  return forms.empty() ? std::nullopt : std::optional(forms.front());
}

std::optional<SymbolSizes> telling_sizes(std::span<const Dim> forms, const program::Symbols& symbols,
                                         const SymbolSizes& least, const SymbolSizes& otherwise) {
  constexpr int64_t kUsuallyMore = 192, kMostMore = 2048;
  std::optional<SymbolSizes> best;
  size_t most = 1;
  for (size_t i = 1; i < symbols.size(); ++i) {
    if (std::none_of(forms.begin(), forms.end(), [&](const Dim& form) { return uses(form, i); })) continue;
    SymbolSizes at = otherwise;
    for (at[i] = least[i]; at[i] <= std::min(symbols[i].max, least[i] + (best ? kUsuallyMore : kMostMore)); ++at[i]) {
      std::set<int64_t> values;
      for (const Dim& form : forms) values.insert(form.at(at));
      if (values.size() <= most) continue;
      most = values.size();
      best = at;
    }
  }
  return best;
}

}  // namespace bitlab::deploy
