// Every row of ternary_gemm_f32: the same bits as a scalar sum in the documented order, and near the sum in double.
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/ternary_gemm_f32/ternary_gemm_f32.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

TEST(TernaryGemmF32, EveryRowSumsInTheDocumentedOrder) {
  for (const TernaryGemmF32Row* row : test::runnable(ternary_gemm_f32_kernels())) {
    for (int64_t depth : {0, 1, 3, 15, 16, 17, 63, 64, 65, 257, 1000})
      for (auto [tokens, rows] : {std::pair<int64_t, int64_t>{1, 1}, {3, 70}, {17, 5}, {5, 129}, {0, 5}, {5, 0}}) {
        const auto x = test::random_floats(tokens * depth, 1), scale = test::random_floats(rows, 2),
                   bias = test::random_floats(rows, 3);
        const auto t = test::random_int8(rows * depth, 4, -1, 1);
        const auto codes = test::packed(t, rows, depth);
        test::GuardedBytes x_memory(x.size() * sizeof(float)), codes_memory(codes.size()),
            y_memory(static_cast<size_t>(tokens * rows) * sizeof(float));
        const TernaryGemmF32Args args{{.weights = codes_memory.fill<uint8_t>(codes),
                                       .rows = rows,
                                       .depth = depth,
                                       .scale = scale.data(),
                                       .scale_stride = 1,
                                       .bias = bias.data(),
                                       .relu = true,
                                       .y = y_memory.as<float>(),
                                       .y_stride = rows},
                                      x_memory.fill<float>(x),
                                      depth};
        ternary_gemm_f32(*row, args, tokens, *make_thread_pool(2));
        for (int64_t m = 0; m < tokens; ++m)
          for (int64_t n = 0; n < rows; ++n) {
            const auto xm = std::span(x).subspan(static_cast<size_t>(m * depth), static_cast<size_t>(depth));
            const auto tn = std::span(t).subspan(static_cast<size_t>(n * depth), static_cast<size_t>(depth));
            const auto i = static_cast<size_t>(n);
            const float scaled = test::ordered_dot(xm, tn) * scale[i];
            const float expected = scaled + bias[i];
            const float found = y_memory.as<float>()[m * rows + n];
            ASSERT_EQ(found, expected < 0 ? 0 : expected) << row->name << " " << tokens << " " << rows << " " << depth;
            double exact = 0, magnitude = 1;
            for (size_t k = 0; k < xm.size(); ++k) {
              exact += double{xm[k]} * tn[k];
              magnitude += std::fabs(xm[k]);
            }
            exact = exact * scale[i] + bias[i];
            ASSERT_NEAR(found, std::max(exact, 0.0), 1e-5 * magnitude);
          }
      }
  }
}

}  // namespace
}  // namespace bitlab::kernels
