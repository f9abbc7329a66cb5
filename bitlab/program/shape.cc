#include "bitlab/program/shape.h"

#include <algorithm>

#include <fmt/core.h>

namespace bitlab::program {
namespace {

struct DTypeInfo {
  std::string_view name;
  int64_t size;
};
constexpr std::array<DTypeInfo, 6> kDTypes{
    {{"float32", 4}, {"float16", 2}, {"bfloat16", 2}, {"int64", 8}, {"int32", 4}, {"bool", 1}}};

std::string joined(const std::vector<Port>& ports, const Symbols& symbols) {
  std::string text;
  for (const Port& port : ports)
    text += fmt::format("{}{}: {}{}", text.empty() ? "" : ", ", port.name, name(port.type.dtype),
                        to_string(port.type.shape, symbols));
  return text;
}

}  // namespace

std::string_view name(DType dtype) { return kDTypes.at(static_cast<size_t>(dtype)).name; }
int64_t size_of(DType dtype) { return kDTypes.at(static_cast<size_t>(dtype)).size; }

Result<DType> parse_dtype(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i)
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  return make_error(ErrorCode::kUnknownName, "[program] a dtype of float32, float16, bfloat16, int64, int32, bool, got '{}'",
                    name);
}

int64_t saturated_product(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kManyElements : std::min(product, kManyElements);
}

std::string to_string(const Shape& shape, const Symbols& symbols) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + to_string(shape[i], symbols);
  return text + "]";
}

std::string to_string(std::span<const int64_t> sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

std::vector<int64_t> shape_at(const Shape& shape, const SymbolSizes& sizes) {
  std::vector<int64_t> numbers;
  for (const Dim& dim : shape) numbers.push_back(dim.at(sizes));
  return numbers;
}

int64_t elements(const Shape& shape, const SymbolSizes& sizes) {
  int64_t count = 1;
  for (const Dim& dim : shape) count = saturated_product(count, dim.at(sizes));
  return count;
}

Dim volume(const Shape& shape) {
  Dim product(1);
  for (const Dim& dim : shape) product = product * dim;
  return product;
}

bool is_fixed(const Shape& shape) {
  return std::all_of(shape.begin(), shape.end(), [](const Dim& dim) { return dim.is_number(); });
}

bool is_valid(const Shape& shape) {
  int64_t count = 1;
  for (const Dim& dim : shape) {
    if (dim.factor < 1 || dim.factor > kMaxElements / count || dim.sums.size() > kMaxParts) return false;
    if (std::any_of(dim.powers.begin(), dim.powers.end(), [](uint8_t power) { return power > kMaxPower; })) return false;
    count *= dim.factor;
  }
  return true;
}

bool uses(const Shape& shape, size_t symbol) {
  return std::any_of(shape.begin(), shape.end(), [&](const Dim& dim) { return uses(dim, symbol); });
}

std::optional<size_t> single_symbol(const Dim& dim) {
  std::optional<size_t> symbol;
  for (size_t i = 0; i < kMaxSymbols; ++i) {
    if (!uses(dim, i)) continue;
    if (symbol || dim.powers[i] != 1 || !dim.sums.empty()) return std::nullopt;
    symbol = i;
  }
  return symbol;
}

Binding bind_sizes(const Shape& expected, std::span<const int64_t> found, SymbolSizes& sizes) {
  if (found.size() != expected.size()) return {false};
  for (size_t i = 0; i < found.size(); ++i) {
    const Dim& dim = expected[i];
    const std::optional<size_t> symbol = single_symbol(dim);
    if (dim.is_number() && dim.factor != found[i]) return {false};
    if (!symbol) continue;
    if (found[i] < 0 || dim.factor < 1 || found[i] % dim.factor != 0) return {false};
    const int64_t size = found[i] / dim.factor;
    if (sizes[*symbol] != kUnbound && sizes[*symbol] != size) return {false, symbol};
    sizes[*symbol] = size;
  }
  return {};
}

bool has_shape(std::span<const int64_t> found, const Shape& expected, const SymbolSizes& sizes) {
  return std::equal(found.begin(), found.end(), expected.begin(), expected.end(),
                    [&](int64_t size, const Dim& dim) { return size == dim.at(sizes); });
}

Dim declared(Symbols& symbols, std::string_view name, int64_t min, int64_t max) {
  for (size_t i = 0; i < symbols.size(); ++i)
    if (symbols[i].name == name) return Dim::of_symbol(i);
  if (symbols.size() == kMaxSymbols)
    BITLAB_THROW(make_error(ErrorCode::kInvalidArgument, "[signature] at most {} symbols, got '{}' too", kMaxSymbols, name));
  symbols.push_back({std::string(name), min, max});
  return Dim::of_symbol(symbols.size() - 1);
}

std::string to_string(const Signature& signature) {
  return fmt::format("({}) -> ({})", joined(signature.inputs, signature.symbols),
                     joined(signature.outputs, signature.symbols));
}

}  // namespace bitlab::program
