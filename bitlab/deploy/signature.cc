#include "bitlab/deploy/signature.h"

#include <algorithm>
#include <array>
#include <numeric>

#include <ATen/ops/arange.h>

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
  if (std::find(kTypes.begin(), kTypes.end(), tensor.scalar_type()) == kTypes.end())
    return refuse("an example of float32, float16, bfloat16, int64, int32 or bool values, got {} (input={})",
                  c10::toString(tensor.scalar_type()), name);
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
    signature.inputs.push_back({name, {dtype_of(tensor.scalar_type()), std::move(shape)}});
  }
  return signature;
}

Status check_port(const Signature& signature, const Port& port, const at::Tensor& tensor, SymbolSizes& sizes) {
  const std::string expected = to_string(port.type.shape, signature.symbols);
  for (const Dim& dim : port.type.shape)
    if (!dim.is_number() && !single_symbol(dim))
      return refuse("a number or a multiple of one symbol as an input's size, got {} (input={})", expected, port.name);
  if (dtype_of(tensor.scalar_type()) != port.type.dtype)
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

Result<std::pair<SymbolSizes, SymbolSizes>> recording_sizes(const program::Symbols& symbols, const SymbolSizes& least) {
  constexpr int64_t kMostPrime = 1 << 12;
  SymbolSizes first = program::kOnes, second = program::kOnes;
  std::vector<int64_t> used;
  const auto take = [&](const program::Symbol& symbol, int64_t from) -> int64_t {
    for (int64_t number = std::max<int64_t>({symbol.min, from, 2}); number <= std::min(symbol.max, kMostPrime); ++number)
      if (is_prime(number) && std::find(used.begin(), used.end(), number) == used.end()) {
        used.push_back(number);
        return number;
      }
    return 0;
  };
  for (size_t i = 0; i < symbols.size(); ++i) {
    first[i] = take(symbols[i], least[i]), second[i] = take(symbols[i], least[i]);
    if (first[i] == 0 || second[i] == 0)
      return make_error(ErrorCode::kUnsupported,
                        "[capture] a range with two primes of its own to record at, got {} to {} (symbol={})",
                        symbols[i].min, symbols[i].max, symbols[i].name);
  }
  return std::pair(first, second);
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

std::optional<Dim> dim_of(int64_t size, int64_t twin, const SymbolSizes& sizes, const SymbolSizes& twin_sizes,
                          size_t symbols) {
  if (size < 1 || twin < 1) return std::nullopt;
  const int64_t common = std::gcd(size, twin);
  int64_t left = size / common,
          twin_left = twin / common;  // products of the primes of the symbols, if it is a multiple of them
  Dim dim(size);
  for (size_t i = 0; i < symbols; ++i)
    for (; left % sizes[i] == 0 && twin_left % twin_sizes[i] == 0; left /= sizes[i], twin_left /= twin_sizes[i]) {
      ++dim.powers[i];
      dim.factor /= sizes[i];
    }
  if (left != 1 || twin_left != 1) return std::nullopt;
  return dim;
}

}  // namespace bitlab::deploy
