// A model that eight threads run a hundred thousand times, in sizes that change: the same bits, no memory that grows, and an end where one is asked for.
#include <atomic>
#include <barrier>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/test_support.h"

namespace bitlab::runtime {
namespace {

using program::kBatch;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;

constexpr int64_t kFeatures = 12, kClasses = 5;

// x [batch, tokens, 12] - a ternary layer, GELU, attention to all tokens, a mean over them - [batch, 5]
std::shared_ptr<const Model> soaked_model() {
  ProgramBuilder b;
  const auto tokens = b.symbol("tokens", 1, 64);
  const auto layer = [&](ValueId x, const char* name, int64_t rows, uint32_t seed) {
    const auto t = kernels::test::random_int8(rows * kFeatures, seed, -1, 1);
    const ValueId w = b.ternary(fmt::format("{}.weight", name), {rows, kFeatures}, kernels::test::packed(t, rows, kFeatures),
                                kernels::test::random_floats(rows, seed + 1));
    return *b.node(Op::ternary_linear, name, {x, w}, test::kInt8);
  };
  ValueId x = b.input("x", {kBatch, tokens, kFeatures});
  x = *b.node(Op::gelu, "gelu", {layer(x, "first", kFeatures, 1)});
  ValueId heads = *b.node(Op::reshape, "heads", {x}, {{"shape", Shape{kBatch, 1, tokens, kFeatures}}});
  heads = *b.node(Op::attention, "attention", {heads, heads, heads}, {{"causal", int64_t{0}}, {"scale", 0.3}});
  ValueId y = *b.node(Op::reshape, "joined", {heads}, {{"shape", Shape{kBatch, tokens, kFeatures}}});
  y = *b.node(Op::permute, "turned", {*b.node(Op::add, "residual", {x, y})}, {{"dims", Sizes{0, 2, 1}}});
  return Model::create(*b.finish({{"y", layer(*b.node(Op::mean, "mean", {y}), "last", kClasses, 3)}})).value();
}

struct SoakCase {
  int64_t batch, tokens;
  std::vector<float> x, y;
  TensorView view;
};

std::vector<SoakCase> cases_of(const std::shared_ptr<const Model>& model) {
  std::vector<SoakCase> cases;
  for (const auto& [batch, tokens] : {std::pair<int64_t, int64_t>{1, 1}, {1, 7}, {2, 3}, {3, 16}, {1, 64}}) {
    SoakCase c{
        batch, tokens, kernels::test::random_floats(batch * tokens * kFeatures, static_cast<uint32_t>(tokens)), {}, {}};
    c.view = TensorView({batch, tokens, kFeatures}, c.x.data());
    const auto session = Session::create(model, {1, {}}).value();
    c.y = test::floats_of(session->run({&c.view, 1}).value()[0]);
    cases.push_back(std::move(c));
    cases.back().view.data = cases.back().x.data();
  }
  return cases;
}

// An emulator and a sanitizer run fewer (CMakePresets.json).
int64_t runs_of_all() {
  const char* text = std::getenv("BITLAB_SOAK_RUNS");
  return text == nullptr ? 100'000 : std::strtol(text, nullptr, 10);
}

TEST(Soak, ManyRunsInManySizesGiveTheSameBitsAndTakeNoMoreMemory) {
  constexpr int kThreads = 8;
  const int64_t runs = runs_of_all() / kThreads;
  const auto model = soaked_model();
  const std::vector<SoakCase> cases = cases_of(model);
  std::atomic<int64_t> equal{0}, failed{0};
  std::barrier everyone(kThreads + 1);
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      const auto session = Session::create(model, {1, {}}).value();
      const auto run = [&](const SoakCase& c) {
        const auto found = session->run({&c.view, 1});
        if (!found.ok()) return ++failed, void();
        equal += std::memcmp((*found)[0].data, c.y.data(), c.y.size() * sizeof(float)) == 0;
      };
      for (const SoakCase& c : cases) run(c);
      everyone.arrive_and_wait();  // all plans are made
      everyone.arrive_and_wait();  // what was allocated is noted
      uint32_t next = static_cast<uint32_t>(i);
      for (int64_t round = 0; round < runs; ++round) {
        next = next * 1664525U + 1013904223U;  // Numerical Recipes
        run(cases[(next >> 16) % cases.size()]);
      }
      everyone.arrive_and_wait();
      everyone.arrive_and_wait();
    });
  everyone.arrive_and_wait();
  const int64_t before = test::allocations();
  everyone.arrive_and_wait();
  everyone.arrive_and_wait();
  EXPECT_EQ(test::allocations(), before);
  everyone.arrive_and_wait();
  threads.clear();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(equal, kThreads * (runs + static_cast<int64_t>(cases.size())));
}

// Asked before each step: the first run stops in its middle, the next one is whole again.
TEST(Soak, ARunStopsWhereItIsAskedTo) {
  const auto model = soaked_model();
  const std::vector<SoakCase> cases = cases_of(model);
  int left = 2;
  const auto session = Session::create(model, {2, {}, [&] { return left-- == 0; }}).value();
  const auto stopped = session->run({&cases[3].view, 1});
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  const auto found = session->run({&cases[3].view, 1});
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(test::floats_of((*found)[0]), cases[3].y);
}

}  // namespace
}  // namespace bitlab::runtime
