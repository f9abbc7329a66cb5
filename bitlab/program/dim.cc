// Sizes as numbers, products and sums: their arithmetic, and how they are written.
#include <algorithm>
#include <charconv>
#include <numeric>

#include <fmt/core.h>

#include "bitlab/program/shape.h"

namespace bitlab::program {
namespace {

// The order in which sums and their terms are written; 0 for equal ones.
int compare(const Dim& a, const Dim& b);
int compare(const Sum& a, const Sum& b);

int compare(int64_t a, int64_t b) { return a < b ? -1 : a > b ? 1 : 0; }

template <class T>
int compare(const std::vector<T>& a, const std::vector<T>& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (const int order = compare(a[i], b[i]); order != 0) return order;
  return compare(static_cast<int64_t>(a.size()), static_cast<int64_t>(b.size()));
}

int compare(const Sum& a, const Sum& b) {
  if (const int order = compare(a.terms, b.terms); order != 0) return order;
  if (const int order = compare(a.divisor, b.divisor); order != 0) return order;
  return compare(a.offset, b.offset);
}

// Symbols that are declared first come first.
int compare(const Dim& a, const Dim& b) {
  for (size_t i = 0; i < kMaxSymbols; ++i)
    if (a.powers[i] != b.powers[i]) return a.powers[i] > b.powers[i] ? -1 : 1;
  if (const int order = compare(a.sums, b.sums); order != 0) return order;
  return compare(a.factor, b.factor);
}

template <class T>
void sort(std::vector<T>& list) {
  std::sort(list.begin(), list.end(), [](const T& a, const T& b) { return compare(a, b) < 0; });
}

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// Whether a size is a multiple of one sum.
bool is_sum(const Dim& dim) { return dim.sums.size() == 1 && dim.powers == std::array<uint8_t, kMaxSymbols>{}; }

size_t depth_of(const Dim& dim) {
  size_t depth = 0;
  for (const Sum& sum : dim.sums)
    for (const Dim& term : sum.terms) depth = std::max(depth, 1 + depth_of(term));
  return depth;
}

// A number, and multiples of different sizes, none of which is a sum that could be one with it. Numbers are checked as they are made.
class Linear {
 public:
  std::vector<Dim> terms;
  int64_t offset = 0;

  bool add(const Dim& dim, int64_t times) {
    if (dim.is_number() || dim.factor == 0) return add_product(offset, dim.factor, times);
    if (is_sum(dim) && dim.sums[0].divisor == 1) return add(dim.sums[0], dim.factor, times);
    const auto same = std::find_if(terms.begin(), terms.end(), [&](const Dim& term) { return same_unit(term, dim); });
    if (same != terms.end()) return add_product(same->factor, dim.factor, times);
    terms.push_back(with_factor(dim, 0));
    return add_product(terms.back().factor, dim.factor, times);
  }

  // floor(this / divisor) in the one way in which that is written.
  std::optional<Dim> over(int64_t divisor) && {
    std::erase_if(terms, [](const Dim& term) { return term.factor == 0; });
    if (divisor < 1 || divisor > kMaxElements || terms.size() > kMaxParts) return std::nullopt;
    if (std::any_of(terms.begin(), terms.end(), [](const Dim& term) { return term.factor < 0; })) return std::nullopt;
    if (terms.empty()) return Dim(floor_div(offset, divisor));
    if (is_whole_floor()) return of_floor(divisor);
    int64_t common = divisor;
    for (const Dim& term : terms) common = std::gcd(common, term.factor);
    divide(common);
    divisor /= common;
    if (divisor != 1) {
      absorb_offset();
      return is_whole_floor() ? of_floor(divisor) : made(1, divisor);
    }
    if (offset == 0 && terms.size() == 1) return terms[0];
    common = offset;
    for (const Dim& term : terms) common = std::gcd(common, term.factor);
    divide(common);
    if (!is_whole_floor()) return made(common, 1);
    const std::optional<Dim> unit = of_floor(1);
    return unit ? std::optional(with_factor(*unit, common)) : unit;
  }

 private:
  bool add(const Sum& sum, int64_t factor, int64_t times) {
    int64_t both = 0;
    if (__builtin_mul_overflow(factor, times, &both) || both < -kMaxElements || both > kMaxElements) return false;
    return std::all_of(sum.terms.begin(), sum.terms.end(), [&](const Dim& term) { return add(term, both); }) &&
           add_product(offset, sum.offset, both);
  }

  static bool add_product(int64_t& to, int64_t a, int64_t b) {
    int64_t product = 0;
    return !__builtin_mul_overflow(a, b, &product) && !__builtin_add_overflow(to, product, &to) && to >= -kMaxElements &&
           to <= kMaxElements;
  }

  // Of a number and what was rounded down before: that number can be added, and divided by, first.
  bool is_whole_floor() const {
    return terms.size() == 1 && terms[0].factor == 1 && is_sum(terms[0]) && terms[0].sums[0].divisor != 1;
  }
  std::optional<Dim> of_floor(int64_t divisor) const {
    const Sum& floor = terms[0].sums[0];
    Linear inner;
    inner.offset = floor.offset;
    inner.terms = floor.terms;
    int64_t both = 0;
    if (!add_product(inner.offset, offset, floor.divisor) || __builtin_mul_overflow(divisor, floor.divisor, &both))
      return std::nullopt;
    return std::move(inner).over(both);
  }

  // A multiple of what is rounded down, and a number that is a multiple, too: c floor(n / d) + c k = c floor((n + k d) / d).
  void absorb_offset() {
    if (terms.size() != 1 || !is_sum(terms[0]) || offset % terms[0].factor != 0) return;
    Sum& floor = terms[0].sums[0];
    if (add_product(floor.offset, offset / terms[0].factor, floor.divisor)) offset = 0;
  }

  void divide(int64_t by) {
    for (Dim& term : terms) term.factor /= by;
    offset = floor_div(offset, by);
  }

  std::optional<Dim> made(int64_t factor, int64_t divisor) {
    sort(terms);
    Dim dim(factor);
    dim.sums.push_back({std::move(terms), offset, divisor});
    return depth_of(dim) <= kMaxDepth ? std::optional(std::move(dim)) : std::nullopt;
  }
};

// A number that is below it, or the same, times what makes it whole: times * floor(n / d) <= n * times / d, and a multiple less than that above. The floors
// that others lie deepest in go first, as they may leave what takes another one off.
struct Bound {
  Linear linear;
  int64_t scale;
};
std::optional<Bound> without_floors(const Linear& linear) {
  constexpr int64_t kMostScale = 1 << 20;
  size_t depth = 0;
  for (const Dim& term : linear.terms) depth = std::max(depth, is_sum(term) ? depth_of(term) : 0);
  const auto goes = [&](const Dim& term) { return is_sum(term) && depth_of(term) == depth; };
  int64_t scale = 1;
  for (const Dim& term : linear.terms)
    if (goes(term)) scale = std::lcm(scale, std::min(term.sums[0].divisor, kMostScale));
  Linear bound;
  if (scale > kMostScale || !bound.add(linear.offset, scale)) return std::nullopt;
  for (const Dim& term : linear.terms) {
    if (!goes(term) || scale % term.sums[0].divisor != 0) {
      if (!bound.add(term, scale)) return std::nullopt;
      continue;
    }
    const Sum& floor = term.sums[0];
    const int64_t factor = term.factor * (scale / floor.divisor), most_taken = factor > 0 ? floor.divisor - 1 : 0;
    for (const Dim& part : floor.terms)
      if (!bound.add(part, factor)) return std::nullopt;
    if (!bound.add(floor.offset - most_taken, factor)) return std::nullopt;
  }
  return Bound{std::move(bound), scale};
}

// Whether it is always above -scale. With what is added at the least sizes of symbols, and what is taken off at the largest.
bool is_above(const Linear& linear, int64_t scale, const Symbols& symbols) {
  const SymbolSizes least = sizes_at(&Symbol::min, symbols), most = sizes_at(&Symbol::max, symbols);
  int64_t total = linear.offset;
  for (const Dim& term : linear.terms) {
    const bool is_added = term.factor > 0;
    const int64_t size = saturated_product(std::abs(term.factor), with_factor(term, 1).at(is_added ? least : most));
    if (!is_added && size == kManyElements) return false;  // or more
    total = std::clamp(total + (is_added ? size : -size), -kManyElements, kManyElements);
  }
  return total > -scale;
}

std::string product_text(const Dim& dim, const Symbols& symbols);

// "tokens+1", "(height+1)/2", "height/2"
std::string text_of(const Sum& sum, const Symbols& symbols) {
  std::string text;
  for (const Dim& term : sum.terms) text += (text.empty() ? "" : "+") + product_text(term, symbols);
  if (sum.offset != 0) text += fmt::format("{:+}", sum.offset);
  if (sum.divisor == 1) return text;
  const bool is_product = sum.terms.size() == 1 && sum.offset == 0;
  return fmt::format("{}/{}", is_product ? text : "(" + text + ")", sum.divisor);
}

std::string product_text(const Dim& dim, const Symbols& symbols) {
  std::string text = dim.factor == 1 && !dim.is_number() ? "" : std::to_string(dim.factor);
  const auto times = [&](const std::string& part) { text += (text.empty() ? "" : "*") + part; };
  for (size_t i = 0; i < kMaxSymbols; ++i) {
    if (dim.powers[i] == 0) continue;
    times(i < symbols.size() ? symbols[i].name : fmt::format("s{}", i));
    if (dim.powers[i] > 1) text += fmt::format("^{}", dim.powers[i]);
  }
  for (const Sum& sum : dim.sums) times("(" + text_of(sum, symbols) + ")");
  return text;
}

// Reads what to_string() writes: a sum of products of numbers, symbols to a power, and what stands in parentheses; or such a product over a number.
class Parser {
 public:
  Parser(std::string_view text, const Symbols& symbols) : text_(text), symbols_(symbols) {}

  std::optional<Dim> whole() {
    const std::optional<Dim> dim = sum_of();
    return text_.empty() ? dim : std::nullopt;
  }

 private:
  bool take(char c) {
    if (!text_.starts_with(c)) return false;
    text_.remove_prefix(1);
    return true;
  }

  std::optional<int64_t> number() {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), number);
    if (error != std::errc() || text_.starts_with('-')) return std::nullopt;
    text_.remove_prefix(static_cast<size_t>(end - text_.data()));
    return number;
  }

  std::optional<Dim> sum_of() {
    std::optional<Dim> total = product();
    if (total && take('/')) {
      const std::optional<int64_t> divisor = number();
      return divisor && *divisor >= 1 ? quotient(*total, 0, *divisor) : std::nullopt;
    }
    while (total && (text_.starts_with('+') || text_.starts_with('-'))) {
      const int64_t sign = take('-') ? -1 : 1;
      if (sign == 1) take('+');
      const std::optional<Dim> next = product();
      total = next ? sum(*total, *next, sign) : std::nullopt;
    }
    return total;
  }

  std::optional<Dim> product() {
    std::optional<Dim> all;
    do {
      const std::optional<Dim> next = factor();
      if (!next || (all && next->is_number())) return std::nullopt;  // a number stands first
      int64_t checked = 0;
      if (all && __builtin_mul_overflow(all->factor, next->factor, &checked)) return std::nullopt;
      all = all ? *all * *next : *next;
      if (all->sums.size() > kMaxParts) return std::nullopt;
      if (std::any_of(all->powers.begin(), all->powers.end(), [](uint8_t power) { return power > kMaxPower; }))
        return std::nullopt;
    } while (take('*'));
    return all;
  }

  std::optional<Dim> factor() {
    if (const auto found = symbol()) return power_of(*found);
    if (take('(')) {
      if (++open_ > 2 * kMaxDepth) return std::nullopt;
      std::optional<Dim> inner = sum_of();
      --open_;
      return inner && take(')') ? inner : std::nullopt;
    }
    const std::optional<int64_t> value = number();
    return value ? std::optional(Dim(*value)) : std::nullopt;
  }

  // The longest name that stands here as a whole: names may have signs.
  std::optional<size_t> symbol() {
    std::optional<size_t> longest;
    for (size_t i = 0; i < std::min(symbols_.size(), kMaxSymbols); ++i) {
      const std::string& name = symbols_[i].name;
      if (!text_.starts_with(name) || (longest && symbols_[*longest].name.size() >= name.size())) continue;
      const std::string_view rest = text_.substr(name.size());
      if (!name.empty() && (rest.empty() || std::string_view("*^+-/)").find(rest[0]) != std::string_view::npos)) longest = i;
    }
    if (longest) text_.remove_prefix(symbols_[*longest].name.size());
    return longest;
  }

  std::optional<Dim> power_of(size_t symbol) {
    Dim dim = Dim::of_symbol(symbol);
    if (!take('^')) return dim;
    const std::optional<int64_t> power = number();
    if (!power || *power < 1 || *power > kMaxPower) return std::nullopt;
    dim.powers[symbol] = static_cast<uint8_t>(*power);
    return dim;
  }

  std::string_view text_;
  const Symbols& symbols_;
  size_t open_ = 0;
};

}  // namespace

int64_t Sum::at(const SymbolSizes& sizes) const {
  int64_t total = offset;
  for (const Dim& term : terms) {
    const int64_t size = term.at(sizes);
    total = std::min(total, kManyElements - size) + size;
  }
  return std::max<int64_t>(floor_div(total, divisor), 0);
}

int64_t Dim::at(const SymbolSizes& sizes) const {
  int64_t size = factor;
  for (size_t i = 0; i < kMaxSymbols; ++i)
    for (uint8_t power = 0; power < powers[i]; ++power) size = saturated_product(size, sizes[i]);
  for (const Sum& sum : sums) size = saturated_product(size, sum.at(sizes));
  return size;
}

Dim operator*(const Dim& a, const Dim& b) {
  Dim product(a.factor * b.factor);
  for (size_t i = 0; i < kMaxSymbols; ++i) product.powers[i] = static_cast<uint8_t>(a.powers[i] + b.powers[i]);
  product.sums = a.sums;
  product.sums.insert(product.sums.end(), b.sums.begin(), b.sums.end());
  sort(product.sums);
  return product;
}

bool same_unit(const Dim& a, const Dim& b) { return a.powers == b.powers && a.sums == b.sums; }

std::optional<Dim> sum(const Dim& a, const Dim& b, int64_t times) {
  Linear linear;
  if (!linear.add(a, 1) || !linear.add(b, times)) return std::nullopt;
  return std::move(linear).over(1);
}

std::optional<Dim> quotient(const Dim& of, int64_t offset, int64_t divisor) {
  Linear linear;
  if (!linear.add(of, 1) || !linear.add(offset, 1)) return std::nullopt;
  return std::move(linear).over(divisor);
}

std::optional<Dim> divided(const Dim& a, const Dim& b) {
  if (b.factor == 0 || a.factor % b.factor != 0) return std::nullopt;
  Dim result = with_factor(a, a.factor / b.factor);
  for (size_t i = 0; i < kMaxSymbols; ++i) {
    if (a.powers[i] < b.powers[i]) return std::nullopt;
    result.powers[i] = static_cast<uint8_t>(a.powers[i] - b.powers[i]);
  }
  for (const Sum& sum : b.sums) {
    const auto found = std::find(result.sums.begin(), result.sums.end(), sum);
    if (found == result.sums.end()) return std::nullopt;
    result.sums.erase(found);
  }
  return result;
}

std::string to_string(const Dim& dim, const Symbols& symbols) {
  return dim.factor == 1 && is_sum(dim) ? text_of(dim.sums[0], symbols) : product_text(dim, symbols);
}

Result<Dim> parse_dim(std::string_view text, const Symbols& symbols) {
  if (const std::optional<Dim> dim = Parser(text, symbols).whole()) return *dim;
  return make_error(ErrorCode::kCorrupt, "[program] a number, symbols, their products and sums as a size, got '{}'", text);
}

bool uses(const Sum& sum, size_t symbol) {
  return std::any_of(sum.terms.begin(), sum.terms.end(), [&](const Dim& term) { return uses(term, symbol); });
}

bool uses(const Dim& dim, size_t symbol) {
  return dim.powers[symbol] != 0 ||
         std::any_of(dim.sums.begin(), dim.sums.end(), [&](const Sum& sum) { return uses(sum, symbol); });
}

SymbolSizes sizes_at(int64_t Symbol::*bound, const Symbols& symbols) {
  SymbolSizes sizes = kOnes;
  for (size_t i = 0; i < std::min(symbols.size(), kMaxSymbols); ++i)
    sizes[i] = std::clamp<int64_t>(symbols[i].*bound, 0, kMaxElements);
  return sizes;
}

bool is_within(const Dim& a, int64_t times, int64_t offset, const Dim& b, const Symbols& symbols) {
  Linear room;
  if (!room.add(b, 1) || !room.add(a, -times) || !room.add(offset, -1)) return false;
  int64_t scale = 1;                                     // of a whole number, which is 0 at least where it is above -1
  for (size_t depth = 0; depth <= kMaxDepth; ++depth) {  // of floors within floors
    if (is_above(room, scale, symbols)) return true;
    std::optional<Bound> without = without_floors(room);
    if (!without || __builtin_mul_overflow(scale, without->scale, &scale)) return false;
    room = std::move(without->linear);
  }
  return false;
}

void raise_least(const Sum& sum, Symbols& symbols) {
  SymbolSizes sizes = sizes_at(&Symbol::min, symbols);
  if (sum.at(sizes) >= 1) return;
  const auto raised = [&](int64_t to) {
    SymbolSizes result = sizes;
    for (size_t i = 0; i < std::min(symbols.size(), kMaxSymbols); ++i)
      if (uses(sum, i)) result[i] = std::clamp(to, sizes[i], std::max(sizes[i], symbols[i].max));
    return result;
  };
  int64_t low = 0, high = kMaxElements;  // sizes grow with their symbols
  if (sum.at(raised(high)) < 1) return;
  while (low + 1 < high) {
    const int64_t middle = low + (high - low) / 2;
    (sum.at(raised(middle)) < 1 ? low : high) = middle;
  }
  sizes = raised(high);
  for (size_t i = 0; i < std::min(symbols.size(), kMaxSymbols); ++i)
    if (uses(sum, i)) symbols[i].min = sizes[i];
}

}  // namespace bitlab::program
