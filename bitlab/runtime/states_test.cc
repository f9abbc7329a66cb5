// Decoders that keep keys and values: tokens in any number of runs give the bits of all at once, which a decoder without states and plain
// loops give, too.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include <gtest/gtest.h>

#include "bitlab/kernels/test_support.h"
#include "bitlab/runtime/test_support.h"

namespace {

std::atomic<int64_t> counted{0};

}  // namespace

// Counts what the standard library allocates, for the tests that runs allocate nothing. Not inlined: a compiler that sees free() in one place and
// no malloc() in the other warns of a mismatch.
[[gnu::noinline]] void* operator new(size_t size) {
  ++counted;
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

int64_t bitlab::runtime::test::allocations() { return counted; }

namespace bitlab::runtime {
namespace {

using kernels::test::packed;
using kernels::test::random_floats;
using kernels::test::random_int8;
using kernels::test::same_bits;
using program::Attributes;
using program::Dim;
using program::DType;
using program::kBatch;
using program::kNone;
using program::Op;
using program::ProgramBuilder;
using program::Shape;
using program::Sizes;
using program::ValueId;

constexpr int64_t kVocabulary = 11, kModelWidth = 8, kModelHeads = 2, kHeadDepth = 4;

// ids [batch, tokens] and gain [1] - layers of rotary attention with two heads that share keys, ternary products, norms - logits
// [batch, tokens, 11]. With states, or of whole sequences.
class Decoder {
 public:
  Decoder(bool has_states, int layers, int64_t most) : has_states_(has_states) {
    tokens_ = b_.symbol("tokens", 1, most);
    if (has_states) b_.declare({"context", 1, most, true});
    const ValueId ids = b_.input("ids", {kBatch, tokens_}, DType::kInt64), gain = b_.input("gain", {1});
    const ValueId table = b_.floats("table", {kVocabulary, kModelWidth}, random_floats(kVocabulary * kModelWidth, 1));
    ValueId x = *b_.node(Op::embedding, "embedding", {ids, table});
    positions_ = *b_.node(Op::positions, "positions", {}, {{"size", Shape{tokens_}}, {"continues", int64_t{has_states}}});
    for (int layer = 0; layer < layers; ++layer)
      x = add_layer(x, fmt::format("layer{}", layer), 10U * static_cast<uint32_t>(layer + 1));
    x = *b_.node(Op::mul, "gained", {x, gain});
    x = product(x, "logits", kVocabulary, 7);
    model_ = Model::create(*b_.finish({{"logits", x}})).value();
  }
  const std::shared_ptr<const Model>& model() const { return model_; }

 private:
  ValueId product(ValueId x, const std::string& name, int64_t rows, uint32_t seed) {
    const auto t = random_int8(rows * kModelWidth, seed, -1, 1);
    const ValueId w =
        b_.ternary(name + ".weight", {rows, kModelWidth}, packed(t, rows, kModelWidth), random_floats(rows, seed + 1, 0.4F));
    return *b_.node(Op::ternary_linear, name, {x, w}, test::kInt8);
  }
  ValueId heads(ValueId x, const std::string& name, int64_t count) {
    x = *b_.node(Op::reshape, name + ".parts", {x}, {{"shape", Shape{kBatch, tokens_, count, kHeadDepth}}});
    return *b_.node(Op::permute, name + ".heads", {x}, {{"dims", Sizes{0, 2, 1, 3}}});
  }
  ValueId rotated(ValueId x, const std::string& name) {
    return *b_.node(Op::rotary, name + ".rotary", {x, positions_}, {{"theta", 10000.0}});
  }
  ValueId add_layer(ValueId x, const std::string& name, uint32_t seed) {
    const ValueId norm = *b_.node(Op::rms_norm, name + ".norm", {x}, {{"dims", int64_t{1}}, {"eps", 1e-5}});
    const auto parts = *b_.nodes(Op::split, name + ".split", {product(norm, name + ".qkv", 16, seed)},
                                 {{"dim", int64_t{2}}, {"sizes", Shape{8, 4, 4}}});
    const ValueId q = rotated(heads(parts[0], name + ".q", kModelHeads), name + ".q"),
                  k = rotated(heads(parts[1], name + ".k", 1), name + ".k"), v = heads(parts[2], name + ".v", 1);
    std::vector<ValueId> inputs{q, k, v};
    if (has_states_) {
      const Shape shape{kBatch, 1, Dim::of_symbol(2), kHeadDepth};
      inputs.insert(inputs.end(), {kNone, b_.state(name + ".keys", shape), b_.state(name + ".values", shape)});
    }
    ValueId y = *b_.node(Op::attention, name + ".attention", inputs, {{"causal", int64_t{1}}, {"scale", 0.5}});
    y = *b_.node(Op::permute, name + ".turned", {y}, {{"dims", Sizes{0, 2, 1, 3}}});
    y = *b_.node(Op::reshape, name + ".joined", {y}, {{"shape", Shape{kBatch, tokens_, kModelWidth}}});
    return *b_.node(Op::add, name, {x, product(y, name + ".out", kModelWidth, seed + 3)});
  }

  bool has_states_;
  ProgramBuilder b_;
  Dim tokens_;
  ValueId positions_ = kNone;
  std::shared_ptr<const Model> model_;
};

// A sequence of ids for each sample.
struct Ids {
  int64_t batch, tokens;
  std::vector<int64_t> ids;

  Ids(int64_t samples, int64_t count, uint32_t seed) : batch(samples), tokens(count) {
    for (const int8_t id : random_int8(samples * count, seed, 0, kVocabulary - 1)) ids.push_back(id);
  }
  std::vector<int64_t> part(int64_t begin, int64_t count) const {
    std::vector<int64_t> values;
    for (int64_t n = 0; n < batch; ++n)
      values.insert(values.end(), ids.begin() + n * tokens + begin, ids.begin() + n * tokens + begin + count);
    return values;
  }
};

Result<std::vector<float>> run(Session& session, const Ids& ids, int64_t begin, int64_t count, float gain = 1) {
  const std::vector<int64_t> values = ids.part(begin, count);
  const TensorView inputs[] = {{{ids.batch, count}, values.data()}, {{1}, &gain}};
  BITLAB_TRY(const auto outputs, session.run(inputs));
  EXPECT_EQ(outputs[0].shape, (std::vector<int64_t>{ids.batch, count, kVocabulary}));
  return std::vector<float>(outputs[0].as(), outputs[0].as() + ids.batch * count * kVocabulary);
}

// Logits [batch, all tokens, words] of runs of these lengths.
std::vector<float> run_in_parts(Session& session, const Ids& ids, const std::vector<int64_t>& lengths) {
  std::vector<float> all(static_cast<size_t>(ids.batch * ids.tokens * kVocabulary));
  int64_t begin = 0;
  for (const int64_t count : lengths) {
    const auto part = run(session, ids, begin, count).value();
    for (int64_t n = 0; n < ids.batch; ++n)
      std::copy_n(part.begin() + n * count * kVocabulary, count * kVocabulary,
                  all.begin() + (n * ids.tokens + begin) * kVocabulary);
    begin += count;
  }
  EXPECT_EQ(begin, ids.tokens);
  EXPECT_EQ(session.position(), ids.tokens);
  return all;
}

std::unique_ptr<Session> session_of(const Decoder& decoder, int threads = 1) {
  return Session::create(decoder.model(), {threads, {}}).value();
}

TEST(States, AnySplitGivesTheBitsOfTheWholeSequence) {
  constexpr int64_t kTokens = 11;
  const Decoder decoder(true, 2, 20), whole(false, 2, 20);
  const std::vector<std::vector<int64_t>> splits{{11},   std::vector<int64_t>(kTokens, 1), {3, 1, 7}, {2, 2, 2, 5}, {10, 1},
                                                 {1, 10}};
  for (const int64_t batch : {1, 3}) {
    const Ids ids(batch, kTokens, 5);
    const auto expected = run(*session_of(whole), ids, 0, kTokens).value();
    for (const int threads : {1, 3}) {
      const auto session = session_of(decoder, threads);
      for (const auto& lengths : splits) {
        session->reset();
        EXPECT_TRUE(same_bits(run_in_parts(*session, ids, lengths), expected)) << batch << " " << lengths.size();
      }
    }
  }
}

// q, k and v as they come, rotated and attended, against loops in double with libm's cosines.
TEST(States, AttentionBehindEarlierTokensIsItsDefinition) {
  constexpr int64_t kTokens = 7;
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens"), context = b.symbol("context");
  b.declare({"context", 1, 50, true});
  const ValueId q = b.input("q", {1, kModelHeads, tokens, kHeadDepth}), k = b.input("k", {1, 1, tokens, kHeadDepth}),
                v = b.input("v", {1, 1, tokens, kHeadDepth});
  const ValueId at = *b.node(Op::positions, "at", {}, {{"size", Shape{tokens}}, {"continues", int64_t{1}}});
  const auto rotated = [&](ValueId x, const char* name) { return *b.node(Op::rotary, name, {x, at}, {{"theta", 100.0}}); };
  const Shape state{1, 1, context, kHeadDepth};
  const ValueId keys = b.state("keys", state), values = b.state("values", state);
  const ValueId y = *b.node(Op::attention, "y", {rotated(q, "rq"), rotated(k, "rk"), v, kNone, keys, values},
                            {{"causal", int64_t{1}}, {"scale", 0.7}});
  const auto session = test::session_of(*b.finish({y}));
  const auto qs = random_floats(kModelHeads * kTokens * kHeadDepth, 1), ks = random_floats(kTokens * kHeadDepth, 2),
             vs = random_floats(kTokens * kHeadDepth, 3);
  const auto turned = [](const float* x, int64_t position, int64_t d) {
    const int64_t half = kHeadDepth / 2, pair = d % half;
    const double angle = static_cast<double>(position) * std::pow(100.0, -2.0 * static_cast<double>(pair) / kHeadDepth);
    const double a = x[pair], c = x[half + pair];
    return d < half ? a * std::cos(angle) - c * std::sin(angle) : c * std::cos(angle) + a * std::sin(angle);
  };
  const auto row = [](const std::vector<float>& x, int64_t index) { return x.data() + index * kHeadDepth; };
  int64_t begin = 0;
  for (const int64_t count : {3, 1, 3}) {
    std::vector<float> part;
    for (int64_t h = 0; h < kModelHeads; ++h)
      part.insert(part.end(), row(qs, h * kTokens + begin), row(qs, h * kTokens + begin + count));
    const TensorView inputs[] = {{{1, kModelHeads, count, kHeadDepth}, part.data()},
                                 {{1, 1, count, kHeadDepth}, row(ks, begin)},
                                 {{1, 1, count, kHeadDepth}, row(vs, begin)}};
    const auto found = session->run(inputs).value()[0];
    for (int64_t h = 0; h < kModelHeads; ++h)
      for (int64_t i = 0; i < count; ++i) {
        const int64_t position = begin + i;
        std::vector<double> weights;
        double sum = 0;
        for (int64_t j = 0; j <= position; ++j) {
          double score = 0;
          for (int64_t d = 0; d < kHeadDepth; ++d)
            score += turned(row(qs, h * kTokens + position), position, d) * turned(row(ks, j), j, d);
          sum += weights.emplace_back(std::exp(0.7 * score));
        }
        for (int64_t d = 0; d < kHeadDepth; ++d) {
          double expected = 0;
          for (int64_t j = 0; j <= position; ++j)
            expected += weights[static_cast<size_t>(j)] / sum * static_cast<double>(row(vs, j)[d]);
          EXPECT_NEAR(found.as()[(h * count + i) * kHeadDepth + d], expected, 1e-5);
        }
      }
    begin += count;
  }
}

// States double from 64 positions on, and never beyond the most that there can be.
TEST(States, GrowWithWhatTheyHold) {
  constexpr int64_t kMost = 200;
  const Decoder decoder(true, 2, kMost);
  const Ids ids(2, kMost, 6);
  const auto expected = run(*session_of(decoder), ids, 0, kMost).value();
  const auto session = session_of(decoder, 2);
  EXPECT_EQ(session->max_position(), kMost);
  EXPECT_EQ(session->state_bytes(), 0);
  const auto bytes = [](int64_t capacity) { return 4 * 2 * capacity * kHeadDepth * static_cast<int64_t>(sizeof(float)); };
  std::vector<float> all(expected.size());
  int64_t begin = 0;
  for (const auto& [count, capacity] :
       {std::pair<int64_t, int64_t>{60, 64}, {4, 64}, {1, 128}, {62, 128}, {1, 128}, {1, 200}, {71, 200}}) {
    const auto part = run(*session, ids, begin, count).value();
    EXPECT_EQ(session->state_bytes(), bytes(capacity)) << begin;
    for (int64_t n = 0; n < 2; ++n)
      std::copy_n(part.begin() + n * count * kVocabulary, count * kVocabulary,
                  all.begin() + (n * kMost + begin) * kVocabulary);
    begin += count;
  }
  ASSERT_EQ(begin, kMost);
  EXPECT_TRUE(same_bits(all, expected));
  session->reset();
  EXPECT_EQ(session->position(), 0);
  EXPECT_TRUE(same_bits(run(*session, ids, 0, kMost).value(), expected)) << "memory that is there serves the next sequence";
}

TEST(States, TruncatedOnesGoOnAsIfTheRestHadNeverBeen) {
  const Decoder decoder(true, 2, 20);
  const Ids ids(1, 12, 8);
  Ids joined = ids;  // the first 5, then the last 4
  joined.tokens = 9;
  joined.ids.erase(joined.ids.begin() + 5, joined.ids.begin() + 8);
  const auto expected = run_in_parts(*session_of(decoder), joined, {9});
  const auto session = session_of(decoder);
  run(*session, ids, 0, 5).value();
  run(*session, ids, 5, 3).value();
  EXPECT_EQ(session->truncate(9).error().message, "[session] a length from 0 to the position 8, got 9");
  EXPECT_EQ(session->truncate(-1).error().message, "[session] a length from 0 to the position 8, got -1");
  EXPECT_EQ(session->position(), 8);
  ASSERT_TRUE(session->truncate(5).ok());
  EXPECT_EQ(session->position(), 5);
  EXPECT_TRUE(same_bits(run(*session, ids, 8, 4).value(), std::span(expected).subspan(5 * kVocabulary)));
  ASSERT_TRUE(session->truncate(0).ok());
  EXPECT_TRUE(same_bits(run(*session, joined, 0, 9).value(), expected));
}

TEST(States, AnotherBatchBeginsAnew) {
  const Decoder decoder(true, 1, 20);
  const Ids one(1, 6, 9), three(3, 6, 10);
  const auto session = session_of(decoder);
  const auto expected = run_in_parts(*session_of(decoder), three, {6});
  run(*session, one, 0, 4).value();
  EXPECT_EQ(run(*session, three, 0, 2).error().message, "[session] the batch 1 of the 4 positions so far, got 3");
  EXPECT_EQ(session->position(), 4);
  const auto rest = run(*session, one, 4, 2).value();
  const auto whole = run_in_parts(*session_of(decoder), one, {6});
  EXPECT_TRUE(same_bits(rest, std::span(whole).subspan(4 * kVocabulary))) << "as if nothing had been refused";
  session->reset();
  EXPECT_TRUE(same_bits(run_in_parts(*session, three, {2, 4}), expected));
  session->reset();
  EXPECT_TRUE(same_bits(run_in_parts(*session, one, {5, 1}), whole));
}

TEST(States, RunsThatFailLeaveThemAsTheyWere) {
  const Decoder decoder(true, 2, 10);
  const Ids ids(1, 10, 11), wrong(1, 11, 11);
  const auto expected = run_in_parts(*session_of(decoder), ids, {10});
  const auto session = session_of(decoder);
  run(*session, ids, 0, 4).value();
  EXPECT_EQ(run(*session, wrong, 0, 7).error().message,
            "[session] at most 10 positions, got 7 behind 4 (reset or truncate)");
  EXPECT_EQ(run(*session, wrong, 0, 11).error().message, "[session] tokens from 1 to 10, got 11");
  Ids unknown = ids;
  unknown.ids[4] = kVocabulary;
  EXPECT_EQ(run(*session, unknown, 4, 2).error().message, "[embedding] indices from 0 to 10, got 11 (node=embedding)");
  // Fails behind both layers, which have written their keys and values by then.
  Ids other = ids;
  std::reverse(other.ids.begin(), other.ids.end());
  EXPECT_EQ(run(*session, other, 3, 1, std::numeric_limits<float>::infinity()).error().message,
            "[ternary_linear] finite input, got NaN or infinity (row=0) (node=logits)");
  EXPECT_EQ(session->position(), 4);
  std::vector<float> none(kVocabulary);
  EXPECT_EQ(session->copy_output(0, none.data(), kVocabulary * sizeof(float)).error().message,
            "[session] an output below 0 of a run that succeeded, got 0");
  EXPECT_TRUE(same_bits(run(*session, ids, 4, 6).value(), std::span(expected).subspan(4 * kVocabulary)));
}

TEST(States, ABatchOfZeroHasPositionsToo) {
  const Decoder decoder(true, 1, 10);
  const auto session = session_of(decoder);
  const Ids none(0, 4, 1);
  EXPECT_TRUE(run(*session, none, 0, 3).value().empty());
  EXPECT_EQ(session->position(), 3);
  EXPECT_TRUE(run(*session, none, 3, 1).value().empty());
}

// A program of a few bytes may ask for any amount of memory.
TEST(States, MemoryIsCountedBeforeItIsTaken) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens"), context = b.symbol("context");
  b.declare({"context", 1, program::kMaxElements, true});
  const ValueId x = b.input("x", {kBatch, 1 << 10, tokens, 1 << 10});
  const Shape shape{kBatch, 1 << 10, context, 1 << 10};
  const ValueId keys = b.state("keys", shape), values = b.state("values", shape);
  const ValueId y = *b.node(Op::attention, "y", {x, x, x, kNone, keys, values}, {{"causal", int64_t{1}}, {"scale", 1.0}});
  const auto session = test::session_of(*b.finish({y}));
  const float unread = 0;
  for (const auto& [batch, count] :
       {std::pair<int64_t, int64_t>{1, int64_t{1} << 40}, {int64_t{1} << 40, 1}, {1 << 20, 1 << 20}}) {
    const TensorView view{{batch, 1 << 10, count, 1 << 10}, &unread};
    const auto result = session->run({&view, 1});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().message.find("[plan] at most 2^46 bytes a value, got ["), 0U) << result.error().message;
    EXPECT_EQ(session->position(), 0);
  }
}

TEST(States, SizesThatComeBackFindTheirPlans) {
  const Decoder decoder(true, 2, 60);
  const Ids ids(2, 60, 12);
  const auto session = session_of(decoder);
  int64_t begin = 0;
  for (int round = 0; round < 5; ++round)
    for (const int64_t count : {8, 1, 1}) {
      run(*session, ids, begin, count).value();
      begin += count;
      EXPECT_EQ(session->plans_made(), round == 0 && count == 8 ? 1 : 2) << begin;
    }
  session->reset();
  run(*session, ids, 0, 8).value();
  EXPECT_EQ(session->plans_made(), 2);
}

TEST(States, RunsAllocateNothing) {
  const Decoder decoder(true, 3, 60);
  const auto session = session_of(decoder);
  const Ids ids(1, 60, 13);
  const float gain = 1;
  const TensorView inputs[] = {{{1, 1}, ids.ids.data()}, {{1}, &gain}};
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(session->run(inputs).ok());
  const int64_t before = test::allocations();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(session->run(inputs).ok());
  EXPECT_EQ(test::allocations(), before);
}

}  // namespace
}  // namespace bitlab::runtime
