// Gamma and Bessel functions, by series and polynomials.
#include <cmath>
#include <numbers>

#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
namespace {

// The coefficients' polynomial, that of the highest power first.
Term polynomial(const Term& x, std::initializer_list<double> coefficients) {
  Term y = x * *coefficients.begin() + *std::next(coefficients.begin());
  for (const auto* next = std::next(coefficients.begin(), 2); next != coefficients.end(); ++next) y = y * x + *next;
  return y;
}

// How far x is from the next whole number: sines and cosines of pi x are exact at these.
Term from_whole(const Term& x) { return x - x.of(Op::round); }

// Below a half gamma functions are reflected, to 1 - x.
struct Reflected {
  Term is_below, x;
};
Reflected reflected(const Term& x) {
  const Term is_below = x < 0.5, other = x.behind(Op::sub, 1);
  return {is_below, is_below.choose(other, x)};
}

// Stirling's series at x + 8, and gamma(x + 1) = x gamma(x) back to x.
Term log_gamma(const Term& x) {
  constexpr int kSteps = 8;
  const Term z = x + kSteps, square = (z * z).behind(Op::div, 1);
  const Term series = polynomial(square, {1.0 / 1260, -1.0 / 360, 1.0 / 12}) / z;
  const Term logarithm = z.of(Op::log), main = (z + -0.5) * logarithm - z + 0.5 * std::log(2 * std::numbers::pi);
  Term product = x;
  for (int i = 1; i < kSteps; ++i) product = product * (x + i);
  return main + series - product.of(Op::log);
}

// The same for the derivative: 1/x and so on are what it grows by.
Term digamma(const Term& x) {
  constexpr int kSteps = 6;
  const Term z = x + kSteps, square = (z * z).behind(Op::div, 1);
  const Term series = polynomial(square, {-1.0 / 252, 1.0 / 120, -1.0 / 12}) * square;
  const Term half = z.behind(Op::div, 0.5);
  Term y = z.of(Op::log) - half + series;
  for (int i = 0; i < kSteps; ++i) y = y - (x + i).behind(Op::div, 1);
  return y;
}

// The modified Bessel function of order 0, times e^-|x|. Polynomials: Abramowitz and Stegun 1964, 9.8.1 and 9.8.2.
Term scaled_bessel(const Term& x) {
  constexpr double kBorder = 3.75;
  const Term size = x.of(Op::abs), small = size.with(Op::minimum, kBorder).with(Op::div, kBorder);
  const Term near = polynomial(small * small, {0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1});
  const Term large = size.with(Op::maximum, kBorder), inverse = large.behind(Op::div, kBorder);
  const Term far = polynomial(inverse, {0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565,
                                        0.00225319, 0.01328592, 0.39894228});
  const Term shrunk = near * (-size).of(Op::exp), rooted = far / large.of(Op::sqrt);
  return (size > kBorder).choose(rooted, shrunk);
}

}  // namespace

Status lower_lgamma(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const auto [is_below, other] = reflected(x);
    const Term y = log_gamma(other), sine = (from_whole(x) * std::numbers::pi).of(Op::sin).of(Op::abs);
    const Term below = sine.behind(Op::div, std::numbers::pi).of(Op::log) - y;
    return is_below.choose(below, y);
  });
}
Status lower_digamma(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const auto [is_below, other] = reflected(x);
    const Term y = digamma(other), angle = from_whole(x) * std::numbers::pi, sine = angle.of(Op::sin);
    const Term below = y - angle.of(Op::cos) * std::numbers::pi / sine;
    const Term is_pole = (x < 0).with(Op::minimum, x.of(Op::floor).with(Op::equal, x)), none = x.of(Op::log);
    return is_pole.choose(none, is_below.choose(below, y));
  });
}
Status lower_i0(Lowering& l, const Call& call) {
  return lower_formula(l, call, [](const Term& x) {
    const Term scaled = scaled_bessel(x);
    return scaled * x.of(Op::abs).of(Op::exp);
  });
}
Status lower_i0e(Lowering& l, const Call& call) { return lower_formula(l, call, scaled_bessel); }

}  // namespace bitlab::deploy
