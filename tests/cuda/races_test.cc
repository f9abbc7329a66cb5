// The kernels for NVIDIA GPUs whose threads share memory, with a thread of the host for each (BITLAB_HOST_THREADS in cuda_block.h), under
// ThreadSanitizer, which ends the program where two of them meet without a block.sync() between. Small: it is about barriers, and values are those of
// the other tests; but each must be there, and each thread has to come to every barrier.
#define BITLAB_ONE_LANE
#define BITLAB_HOST_THREADS
#include <array>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "bitlab/kernels/activation_quant/cuda/activation_quant.cu"
#include "bitlab/kernels/attention/cuda/attention.cu"
#include "bitlab/kernels/encode/cuda/encode.cu"
#include "bitlab/kernels/float_gemm/cuda/float_gemm.cu"
#include "bitlab/kernels/reduction/cuda/reduction.cu"
#include "bitlab/kernels/ternary_conv/cuda/ternary_conv.cu"
#include "bitlab/kernels/ternary_gemm/cuda/products.h"
#include "bitlab/kernels/ternary_gemm_f32/cuda/ternary_gemm_f32.cu"

namespace bitlab::cuda {
namespace {

// The threads of the block that runs.
struct Team {
  explicit Team(int threads) : block(threads), told(static_cast<size_t>(threads)), waits(static_cast<size_t>(threads)) {
    for (int warp = 0; warp < threads / kWarp; ++warp) warps.push_back(std::make_unique<std::barrier<>>(kWarp));
  }
  std::barrier<> block;
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::vector<std::array<uint8_t, 32>> told;
  std::vector<int> waits;
};
Team* team = nullptr;
thread_local int own_number = 0;

std::barrier<>& own_warp() { return *team->warps[static_cast<size_t>(own_number / kWarp)]; }

}  // namespace

int this_thread() { return own_number; }

void wait_for_block() {
  ++team->waits[static_cast<size_t>(own_number)];
  team->block.arrive_and_wait();
}

void tell_warp(const void* own, size_t bytes, void* of_lanes) {
  std::memcpy(team->told[static_cast<size_t>(own_number)].data(), own, bytes);
  own_warp().arrive_and_wait();
  for (int lane = 0; lane < kWarp; ++lane)
    std::memcpy(static_cast<uint8_t*>(of_lanes) + static_cast<size_t>(lane) * bytes,
                team->told[static_cast<size_t>(own_number / kWarp * kWarp + lane)].data(), bytes);
  own_warp().arrive_and_wait();
}

void run_as_block(int threads, const std::function<void()>& thread) {
  Team own(threads);
  team = &own;
  std::vector<std::thread> running;
  for (int number = 0; number < threads; ++number)
    running.emplace_back([&, number] {
      own_number = number;
      thread();
      own_warp().arrive_and_drop();
      own.block.arrive_and_drop();
    });
  for (std::thread& one : running) one.join();
  EXPECT_EQ(own.waits, std::vector<int>(own.waits.size(), own.waits[0])) << "a thread left a barrier out";
}

void start_on_host(void*, std::function<void()> work) { work(); }
const char* check_on_host(const void*, size_t) { return nullptr; }

}  // namespace bitlab::cuda

namespace bitlab::kernels {
namespace {

template <class T>
std::vector<T> numbers(int64_t count, int64_t most = 127) {
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<T>(i * 37 % (2 * most + 1) - most));
  return values;
}

TEST(Races, ActivationsAreQuantized) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{3, 300}, {1, 33000}}) {
    const std::vector<float> x = numbers<float>(rows * columns);
    std::vector<int8_t> q(x.size());
    std::vector<float> a(static_cast<size_t>(rows));
    std::vector<uint32_t> scratch(a.size());
    ASSERT_EQ(cuda_activation_quant({x.data(), CudaType::kFloat32, rows, columns, 127, 0, q.data(), columns, a.data(),
                                     scratch.data(), nullptr},
                                    nullptr),
              nullptr);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(q[i], x[i]);  // the largest is 127
  }
}

TEST(Races, WeightsAreEncoded) {
  for (const auto& [parts, length] : {std::pair<int64_t, int64_t>{2, 4096 * 5}, {1, 4096 * 34}}) {
    const std::vector<float> w = numbers<float>(parts * length, 2);
    std::vector<int8_t> t(w.size());
    std::vector<float> scale(static_cast<size_t>(parts)), threshold(scale.size());
    std::vector<double> scratch(w.size());
    ASSERT_EQ(
        cuda_encode_absmean(w.data(), parts, length, t.data(), scale.data(), threshold.data(), scratch.data(), nullptr),
        nullptr);
    for (size_t i = 0; i < w.size(); ++i) ASSERT_EQ(t[i], (w[i] > 0) - (w[i] < 0));
  }
}

TEST(Races, RowsAreReduced) {
  constexpr int64_t kRows = 11, kColumns = 70;
  const std::vector<float> x = numbers<float>(kRows * kColumns);
  std::vector<float> y(x.size());
  for (const Reduction op :
       {Reduction::kSoftmax, Reduction::kLayerNorm, Reduction::kRmsNorm, Reduction::kSum, Reduction::kMax}) {
    ReductionArgs args;
    args.op = op, args.x = x.data(), args.columns = kColumns, args.y = y.data();
    ASSERT_EQ(cuda_reduction(args, kRows, nullptr), nullptr);
  }
}

TEST(Races, QueriesAreAttended) {
  const std::vector<float> values = numbers<float>(2 * 150 * 8, 3);
  std::vector<float> y(2 * 3 * 8), scores(static_cast<size_t>(kCudaAttentionBlocks) * 150);
  CudaAttention attention{};
  attention.batch = 1, attention.heads = 2, attention.groups = 2, attention.queries = 3, attention.keys = 150;
  attention.key_rows = 150, attention.depth = attention.value_depth = 8, attention.scale = 1;
  attention.q = attention.k = attention.v = values.data(), attention.y = y.data();
  attention.scores = scores.data(), attention.score_keys = 150;
  Attend::Args args{attention, 6, 2};  // blocks take one after another
  ASSERT_EQ(cuda::launch<Attend>({2}, args, nullptr), nullptr);
}

TEST(Races, FloatsAreMultiplied) {
  constexpr int64_t kRows = 70, kDepth = 37;
  const std::vector<float> x = numbers<float>(70 * kDepth), w = numbers<float>(kRows * kDepth);
  std::vector<float> y(70 * kRows);
  for (const int64_t tokens : {10, 70}) {
    CudaFloatGemm product{};
    product.p.x = x.data(), product.p.x_stride = kDepth, product.p.panels = w.data(), product.p.y = y.data();
    product.p.y_stride = product.p.rows = kRows, product.p.depth = kDepth, product.tokens = tokens,
    product.by_columns = true;
    ASSERT_EQ(cuda_float_gemm(product, nullptr), nullptr);
  }
}

// A product of every scaling, and what it comes to in float64 where there is one scale.
struct Problem {
  int64_t tokens, rows, depth;
  std::vector<int8_t> t = numbers<int8_t>(rows * depth, 1), q = numbers<int8_t>(tokens * mma_chunks(depth) * kMmaDepth);
  std::unique_ptr<uint8_t[], void (*)(void*)> weights{
      static_cast<uint8_t*>(std::aligned_alloc(512, static_cast<size_t>(mma_bytes(rows, depth)))), std::free};
  std::vector<float> ones = std::vector<float>(static_cast<size_t>(rows + tokens), 1.0F);
  std::vector<uint16_t> halves = std::vector<uint16_t>(static_cast<size_t>(rows * mma_chunks(depth) * 2), 0x3C00);
  std::vector<float> y = std::vector<float>(static_cast<size_t>(tokens * rows));

  TernaryGemmArgs args(TernaryScaling scaling) {
    cuda::for_each(EachWordOfWeights(t.data(), rows, depth, weights.get()), nullptr);
    TernaryGemmArgs p;
    p.weights = weights.get(), p.rows = rows, p.depth = depth, p.scale = ones.data(), p.q = q.data();
    p.q_stride = mma_chunks(depth) * kMmaDepth, p.a = ones.data(), p.y = y.data(), p.y_stride = rows;
    if (scaling == TernaryScaling::kTwo) p.scale_neg = ones.data();
    if (scaling == TernaryScaling::kGroups) p.group = 64, p.group_scale = halves.data();
    return p;
  }
  void check() const {
    for (int64_t token = 0; token < tokens; ++token)
      for (int64_t row = 0; row < rows; ++row) {
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; ++k)
          sum += t[static_cast<size_t>(row * depth + k)] * q[static_cast<size_t>(token * mma_chunks(depth) * kMmaDepth + k)];
        ASSERT_EQ(y[static_cast<size_t>(token * rows + row)], static_cast<float>(sum)) << token << ", " << row;
      }
  }
};
constexpr TernaryScaling kScalings[] = {TernaryScaling::kOne, TernaryScaling::kTwo, TernaryScaling::kGroups};

TEST(Races, CodesAreMultiplied) {
  for (const TernaryScaling scaling : kScalings)
    for (const int64_t tokens : {1, 3, 9}) {
      Problem problem{tokens, 16, 1100};
      const TernaryGemmArgs args = problem.args(scaling);
      with_mma_product(args, tokens, [&](auto product) -> const char* {
        using Product = decltype(product);
        const auto shared = std::make_unique<typename Product::Shared>();
        for (int64_t x = 0; x * Product::kRows < args.rows; ++x)
          cuda::run_as_block(Product::kThreads, [&] {
            typename Product::Threads threads;
            Product::run({x, 0}, args, tokens, threads, *shared);
          });
        return nullptr;
      });
      problem.check();
    }
}

TEST(Races, CodesAreMultipliedInTiles) {
  for (const TernaryScaling scaling : kScalings) {
    Problem problem{33, 40, 400};
    ASSERT_EQ(start_tiles<false>({problem.args(scaling), 33, {}}, nullptr), nullptr);
    problem.check();
  }
}

TEST(Races, ConvolutionsGather) {
  Problem problem{36, 20, 9 * 48};  // 3 x 3 of 6 x 6 pixels of 48 channels, of which q has more
  TernaryGemmArgs args = problem.args(TernaryScaling::kOne);
  CudaImage image{48, 48, {1, 6, 6}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, {1, 6, 6}, false};
  ASSERT_EQ(cuda_ternary_conv({args, image, 36}, nullptr), nullptr);
  args.weights = reinterpret_cast<const uint8_t*>(problem.t.data());
  ASSERT_EQ(cuda_int8_gemm({args, 36, true, image, 1}, nullptr), nullptr);

  CudaTernaryF32 floats{};
  floats.p = args, floats.bytes = true, floats.x = problem.ones.data(), floats.x_stride = 9, floats.tokens = 2;
  floats.p.rows = 5, floats.p.depth = 9, floats.groups = 1;
  ASSERT_EQ(cuda_ternary_gemm_f32(floats, nullptr), nullptr);
}

}  // namespace
}  // namespace bitlab::kernels
