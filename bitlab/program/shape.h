// Types of values: an element type, and a shape whose sizes are numbers, or follow from symbols that each run gives a size.
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

struct Sum;

// A size: a number, times a product of symbols and of sums, as "2*batch*(tokens+1)".
struct Dim {
  int64_t factor = 0;
  std::array<uint8_t, kMaxSymbols> powers{};  // of each symbol
  std::vector<Sum> sums;                      // sorted

  Dim();
  Dim(int64_t number);  // NOLINT(google-explicit-constructor): a number is a size
  static Dim of_symbol(size_t index);
  bool is_number() const;
  int64_t at(const SymbolSizes& sizes) const;  // 0 to kManyElements, where it saturates
  bool operator==(const Dim& other) const;
};

// A size that is no multiple of symbols: floor((terms + offset) / divisor), as "tokens+1" of a token put in front, "(height+1)/2" of a stride. There is one
// way to write each, so that sizes are equal where they are written alike: sum() and quotient() make no other.
struct Sum {
  std::vector<Dim> terms{};  // multiples of different sizes, sorted
  int64_t offset = 0, divisor = 1;
  int64_t at(const SymbolSizes& sizes) const;  // as a size's
  bool operator==(const Sum&) const = default;
};
inline constexpr uint8_t kMaxPower = 8;
inline constexpr size_t kMaxDepth = 4;  // of sums in terms of sums
inline constexpr size_t kMaxParts = 8;  // terms of a sum, sums of a product

inline Dim::Dim() = default;
inline Dim::Dim(int64_t number) : factor(number) {}
inline Dim Dim::of_symbol(size_t index) {
  Dim dim(1);
  dim.powers[index] = 1;
  return dim;
}
inline bool Dim::is_number() const { return sums.empty() && powers == std::array<uint8_t, kMaxSymbols>{}; }
inline bool Dim::operator==(const Dim& other) const {
  return factor == other.factor && powers == other.powers && sums == other.sums;
}

// Factors, powers and sums; the product of factors must stay inside int64.
Dim operator*(const Dim& a, const Dim& b);
inline Dim with_factor(Dim dim, int64_t factor) {
  dim.factor = factor;
  return dim;
}
// Whether both are multiples of one size, or numbers.
bool same_unit(const Dim& a, const Dim& b);
// a + times * b, and floor((of + offset) / divisor), of a divisor from 1. Numbers may be what no size is, 0 and below. Nothing where what a symbol is
// multiplied by is below 0, and for numbers beyond 2^40, more than kMaxParts terms or a greater depth than kMaxDepth.
std::optional<Dim> sum(const Dim& a, const Dim& b, int64_t times = 1);
std::optional<Dim> quotient(const Dim& of, int64_t offset, int64_t divisor);
// a / b; nothing where that is no size, whatever the symbols are.
std::optional<Dim> divided(const Dim& a, const Dim& b);

using Shape = std::vector<Dim>;

inline const Dim kBatch = Dim::of_symbol(0);

// "28", "batch", "2*batch", "batch*tokens", "height^2", "tokens+1", "2*(tokens-3)", "(height+1)/2"
std::string to_string(const Dim& dim, const Symbols& symbols);
std::string to_string(const Shape& shape, const Symbols& symbols);  // "[batch, 1, 28, 28]"
std::string to_string(std::span<const int64_t> sizes);              // "[2, 1, 28, 28]"
// The inverse of to_string. Errors: Corrupt, naming what was found.
Result<Dim> parse_dim(std::string_view text, const Symbols& symbols);

bool uses(const Sum& sum, size_t symbol);
bool uses(const Dim& dim, size_t symbol);      // itself or in a sum
bool uses(const Shape& shape, size_t symbol);  // whether one of the sizes does
// Whether times * a + offset <= b, whatever sizes the symbols take in their ranges. It may be true where this is not: what floors take off is not known.
bool is_within(const Dim& a, int64_t times, int64_t offset, const Dim& b, const Symbols& symbols);
// The sizes of all symbols at one end of their ranges, from 0 to kMaxElements: &Symbol::min or &Symbol::max.
SymbolSizes sizes_at(int64_t Symbol::*bound, const Symbols& symbols);
// Raises the least sizes of symbols so that a sum is 1 at least; where none in their ranges makes it so, they stay.
void raise_least(const Sum& sum, Symbols& symbols);

// The symbol that a size is a multiple of; nothing for numbers, products of symbols and sums.
std::optional<size_t> single_symbol(const Dim& dim);

inline constexpr int64_t kUnbound = -1;  // the size of a symbol that nothing has told yet

// What bind_sizes() says of a shape.
struct Binding {
  bool fits = true;
  std::optional<size_t> conflict{};  // a symbol that had another size before; there the shape does not fit, either
};
// Takes the sizes of symbols from a shape that a tensor was found to have. Products of symbols and sums tell nothing, and are not compared.
Binding bind_sizes(const Shape& expected, std::span<const int64_t> found, SymbolSizes& sizes);
// Whether a tensor has the shape, at these sizes.
bool has_shape(std::span<const int64_t> found, const Shape& expected, const SymbolSizes& sizes);

std::vector<int64_t> shape_at(const Shape& shape, const SymbolSizes& sizes);
int64_t elements(const Shape& shape, const SymbolSizes& sizes);  // 1 for rank 0
Dim volume(const Shape& shape);                                  // the product of all sizes
bool is_fixed(const Shape& shape);                               // numbers alone
// Whether every factor is positive and their product is at most kMaxElements.
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
