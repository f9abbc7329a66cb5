// Types of values: an element type, and a shape whose sizes are numbers or multiples of symbols that each run gives a size.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::program {

enum class DType { kFloat32, kFloat16, kBFloat16, kInt64, kInt32, kBool };
std::string_view name(DType dtype);                // "float32", "float16", "bfloat16", "int64", "int32", "bool"
int64_t size_of(DType dtype);                      // bytes of an element: 4, 2, 2, 8, 4, 1
Result<DType> parse_dtype(std::string_view name);  // error: UnknownName

inline constexpr size_t kMaxSymbols = 8;
inline constexpr int64_t kMaxRank = 8;
inline constexpr size_t kMaxImageRank = 5;                  // [batch, channels, 1 to 3 sizes]
inline constexpr int64_t kMaxElements = int64_t{1} << 40;   // of a value with all symbols at 1; keeps products inside int64
inline constexpr int64_t kManyElements = int64_t{1} << 62;  // where counts saturate
// Of numbers that are not negative, at most kManyElements. Nothing in a program that can run comes near the bound.
int64_t saturated_product(int64_t a, int64_t b);

// A size that differs from run to run. The first symbol of a program is the batch.
struct Symbol {
  std::string name;
  int64_t min = 1, max = kMaxElements;  // the sizes that it can take; only a batch can be 0
  // The context of a program with states: how many positions they hold after the run, those of earlier runs and this run's `tokens`.
  bool is_context = false;
  bool operator==(const Symbol&) const = default;
};
using Symbols = std::vector<Symbol>;

// The size of each symbol in one run.
using SymbolSizes = std::array<int64_t, kMaxSymbols>;
inline constexpr SymbolSizes kOnes{1, 1, 1, 1, 1, 1, 1, 1};

// A batch, and all other symbols at 1.
constexpr SymbolSizes at_batch(int64_t batch) {
  SymbolSizes sizes = kOnes;
  sizes[0] = batch;
  return sizes;
}

// A size: a number, times a product of symbols.
struct Dim {
  int64_t factor = 0;
  std::array<uint8_t, kMaxSymbols> powers{};  // of each symbol

  constexpr Dim() = default;
  constexpr Dim(int64_t number) : factor(number) {}  // NOLINT(google-explicit-constructor): a number is a size
  static constexpr Dim of_symbol(size_t index) {
    Dim dim(1);
    dim.powers[index] = 1;
    return dim;
  }
  constexpr bool is_number() const { return powers == std::array<uint8_t, kMaxSymbols>{}; }
  int64_t at(const SymbolSizes& sizes) const;  // saturates at kManyElements
  bool operator==(const Dim&) const = default;
};
// Factors and powers; the product of factors must stay inside int64.
Dim operator*(const Dim& a, const Dim& b);
inline Dim with_factor(Dim dim, int64_t factor) {
  dim.factor = factor;
  return dim;
}

using Shape = std::vector<Dim>;

inline constexpr Dim kBatch = Dim::of_symbol(0);

std::string to_string(const Dim& dim, const Symbols& symbols);      // "28", "batch", "2*batch", "batch*tokens", "height^2"
std::string to_string(const Shape& shape, const Symbols& symbols);  // "[batch, 1, 28, 28]"
std::string to_string(std::span<const int64_t> sizes);              // "[2, 1, 28, 28]"
// The inverse of to_string. Errors: Corrupt, naming what was found.
Result<Dim> parse_dim(std::string_view text, const Symbols& symbols);

inline bool uses(const Dim& dim, size_t symbol) { return dim.powers[symbol] != 0; }
bool uses(const Shape& shape, size_t symbol);  // whether one of the sizes does

// The symbol that a size is a multiple of; nothing for numbers and for products of symbols.
std::optional<size_t> single_symbol(const Dim& dim);

inline constexpr int64_t kUnbound = -1;  // the size of a symbol that nothing has told yet

// What bind_sizes() says of a shape.
struct Binding {
  bool fits = true;
  std::optional<size_t> conflict{};  // a symbol that had another size before; there the shape does not fit, either
};
// Takes the sizes of symbols from a shape that a tensor was found to have. Products of symbols tell nothing, and are not compared.
Binding bind_sizes(const Shape& expected, std::span<const int64_t> found, SymbolSizes& sizes);
// Whether a tensor has the shape, at these sizes.
bool has_shape(std::span<const int64_t> found, const Shape& expected, const SymbolSizes& sizes);

std::vector<int64_t> shape_at(const Shape& shape, const SymbolSizes& sizes);
int64_t elements(const Shape& shape, const SymbolSizes& sizes);  // 1 for rank 0
Dim volume(const Shape& shape);                                  // the product of all sizes
bool is_fixed(const Shape& shape);                               // numbers alone
// Whether every factor is positive and the number of elements with all symbols at 1 is at most kMaxElements.
bool is_valid(const Shape& shape);

struct TensorType {
  DType dtype = DType::kFloat32;
  Shape shape;
  bool operator==(const TensorType&) const = default;
};

// What goes into a network and comes out of it, by name.
struct Port {
  std::string name;
  TensorType type;
};
// A size that differs from run to run: the symbol of that name, which is declared at its first use. Throws InvalidArgument, for too many.
Dim declared(Symbols& symbols, std::string_view name, int64_t min = 1, int64_t max = kMaxElements);

struct Signature {
  Symbols symbols{{"batch", 0}};
  std::vector<Port> inputs, outputs;

  Dim symbol(std::string_view name, int64_t min = 1, int64_t max = kMaxElements) {
    return declared(symbols, name, min, max);
  }
};
std::string to_string(const Signature& signature);  // "(image: float32[batch, 1, 28, 28]) -> (logits: float32[batch, 10])"

}  // namespace bitlab::program
