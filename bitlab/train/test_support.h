// The files of testdata/ and the formula that made their values; small data and a small network.
#pragma once

#include <filesystem>
#include <string>

#include <ATen/core/Formatting.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tanh.h>
#include <c10/util/accumulate.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include "bitlab/data/dataset.h"
#include "bitlab/data/random.h"

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

// Rows of six numbers in [-2, 2], and a label of four.
struct Rows : data::Dataset {
  int64_t count;
  explicit Rows(int64_t n) : count(n) {}
  int64_t size() const override { return count; }
  Result<data::Sample> get(int64_t index) const override {
    data::Random random(3, 1, static_cast<uint64_t>(index));
    std::vector<float> x;
    for (int i = 0; i < 6; ++i) x.push_back(static_cast<float>(random.between(-100, 100)) / 50);
    const int64_t label = random.between(0, 3);
    return data::Sample{{data::Array::of<float>("x", {6}, x), data::Array::of<int64_t>("label", {}, std::span(&label, 1))}};
  }
};

// Two layers in double.
struct Small : torch::nn::Module {
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
  Small() {
    fc1 = register_module("fc1", torch::nn::Linear(6, 9));
    fc2 = register_module("fc2", torch::nn::Linear(9, 4));
    to(at::kDouble);
  }
  at::Tensor forward(const at::Tensor& x) { return fc2(at::tanh(fc1(x.to(at::kDouble)))); }
};

}  // namespace bitlab::train::test
