// Formulas of values, as the functions of formulas.cc and its like write them.
#pragma once

#include <initializer_list>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {

// A value, or why there is none, so that a formula reads as it is written. The first error stays. Operands have no order in C++: where two of them
// make nodes, one is made before, so that a network gives the same program with every compiler.
class Term {
 public:
  Term(Lowering& lowering, Result<ValueId> value) : lowering_(&lowering), value_(std::move(value)) {}

  Term with(Op op, const Term& other) const { return of(op, {*this, other}); }
  Term with(Op op, double number) const {
    return value_.ok() ? Term(*lowering_, with_number(*lowering_, op, *value_, number)) : *this;
  }
  Term of(Op op) const { return of(op, {*this}); }
  // A number of this one's dtype, op, this one.
  Term behind(Op op, double number) const { return constant(number).with(op, *this); }
  Term constant(double number) const {
    if (!value_.ok()) return *this;
    return {*lowering_, lowering_->number(number, scalar_type(lowering_->dtype(*value_)))};
  }
  Term cast(at::ScalarType type) const { return value_.ok() ? Term(*lowering_, lowering_->cast(*value_, type)) : *this; }
  Term cast_like(const Term& other) const {
    return other.value_.ok() ? cast(scalar_type(lowering_->dtype(*other.value_))) : other;
  }
  // This one, of bools, ? a : b.
  Term choose(const Term& a, const Term& b) const { return of(Op::where, {*this, a, b}); }
  Term choose(double a, const Term& b) const { return choose(b.constant(a), b); }

  const Result<ValueId>& value() const { return value_; }

 private:
  Term of(Op op, std::initializer_list<Term> terms) const {
    std::vector<ValueId> ids;
    for (const Term& term : terms) {
      if (!term.value_.ok()) return term;
      ids.push_back(*term.value_);
    }
    return {*lowering_, lowering_->node(op, std::move(ids))};
  }

  Lowering* lowering_;
  Result<ValueId> value_;
};

inline Term operator+(const Term& a, const Term& b) { return a.with(Op::add, b); }
inline Term operator-(const Term& a, const Term& b) { return a.with(Op::sub, b); }
inline Term operator*(const Term& a, const Term& b) { return a.with(Op::mul, b); }
inline Term operator/(const Term& a, const Term& b) { return a.with(Op::div, b); }
inline Term operator+(const Term& a, double b) { return a.with(Op::add, b); }
inline Term operator*(const Term& a, double b) { return a.with(Op::mul, b); }
inline Term operator-(const Term& a) { return a * -1.0; }
inline Term operator<(const Term& a, const Term& b) { return a.with(Op::less, b); }
inline Term operator<(const Term& a, double b) { return a.with(Op::less, b); }
inline Term operator>(const Term& a, double b) { return a.behind(Op::less, b); }
inline Term is_nan(const Term& x) { return x.with(Op::not_equal, x); }
// An operand in the dtype of the result.
inline Term operand(Lowering& lowering, const Call& call, const char* name = "self") {
  return {lowering, lowering.operand_as(call, name, output_of(call).scalar_type())};
}

// log(e^x + e^y), also where both are the same infinity. `unit`: ln 2 to the base 2.
inline Term log_add_exp(const Term& x, const Term& y, double unit = 1) {
  const Term most = x.with(Op::maximum, y), least = x.with(Op::minimum, y);
  const Term between = least.with(Op::equal, most).choose(0, least - most);
  return most + (between * unit).of(Op::exp).of(Op::log1p) * (1 / unit);
}

// LibTorch's own form may round elsewhere, where a formula rounds more than once.
enum class Rounds { kOnce, kOften };

inline Status finish(Lowering& lowering, const Call& call, const Term& y, Rounds rounds = Rounds::kOften) {
  BITLAB_TRY(const ValueId value, y.value());
  if (rounds == Rounds::kOften) lowering.set_exactness(program::Exactness::kBounded);
  return lowering.finish(call, value);
}

inline Status check_float(const Call& call) {
  if (computed_as(output_of(call).scalar_type()) == at::kFloat) return {};
  return unsupported(call, "values of float32", c10::toString(output_of(call).scalar_type()));
}

using OneTerm = Term (*)(const Term& x);
inline Status lower_formula(Lowering& lowering, const Call& call, OneTerm f, Rounds rounds = Rounds::kOften) {
  BITLAB_RETURN_IF_ERROR(check_float(call));
  return finish(lowering, call, f(operand(lowering, call)), rounds);
}

}  // namespace bitlab::deploy
