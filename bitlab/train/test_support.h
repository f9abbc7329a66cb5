// The files of testdata/ and the formula that made their values.
#pragma once

#include <filesystem>
#include <string>

#include <ATen/core/Formatting.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <c10/util/accumulate.h>
#include <gtest/gtest.h>

namespace bitlab::train::test {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(BITLAB_SOURCE_DIR) / "bitlab/train/testdata" / name;
}

// values() of make_fixtures.py.
inline at::Tensor values(at::IntArrayRef shape, int64_t k, at::ScalarType type = at::kFloat) {
  const at::Tensor numbers = (at::arange(c10::multiply_integers(shape)) * 7 + k).remainder(23) - 11;
  const bool floating = at::isFloatingType(type) || at::isComplexType(type);
  return (floating ? numbers.to(at::kDouble) / 8 : numbers).reshape(shape).to(type);
}

inline void expect_equal(const at::Tensor& found, const at::Tensor& expected, const std::string& name) {
  EXPECT_EQ(found.scalar_type(), expected.scalar_type()) << name;
  EXPECT_TRUE(found.is_contiguous()) << name;
  EXPECT_FALSE(found.requires_grad()) << name;
  EXPECT_FALSE(found.is_neg() || found.is_conj()) << name;
  EXPECT_TRUE(found.equal(expected)) << name << '\n' << found << "\nexpected\n" << expected;
}

}  // namespace bitlab::train::test
