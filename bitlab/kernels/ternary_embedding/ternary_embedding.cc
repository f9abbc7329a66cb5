#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/half.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::kernels {
namespace {

// Values of a row from `begin` to `end`, which share a scale.
void expand(const uint8_t* codes, int64_t begin, int64_t end, float scale, float scale_neg, float* y) {
  const float values[4] = {-scale_neg, 0.0F * scale, scale, 0.0F};
  for (int64_t k = begin; k < end; ++k) y[k] = values[ternary::code_at(codes, k)];
}

}  // namespace

Status ternary_embedding(const char* op, const TernaryTable& table, const int64_t* index, int64_t tokens, float* y,
                         ThreadPool& pool) {
  for (int64_t i = 0; i < tokens; ++i)
    if (index[i] < 0 || index[i] >= table.rows)
      return make_error(ErrorCode::kInvalidArgument, "[{}] indices in [0, {}), got {} (token={})", op, table.rows, index[i],
                        i);
  constexpr int64_t kTokens = 16;
  const int64_t group = table.group == 0 ? std::max<int64_t>(table.depth, 1) : table.group,
                groups = ceil_div(table.depth, group);
  pool.run(ceil_div(tokens, kTokens), [&](int64_t block, int) {
    for (int64_t i = block * kTokens; i < std::min(tokens, (block + 1) * kTokens); ++i) {
      const int64_t row = index[i];
      if (table.int8 != nullptr) {
        const float scale = table.scale[row * table.scale_stride];
        const int8_t* t = table.int8 + row * table.depth;
        std::transform(t, t + table.depth, y + i * table.depth, [=](int8_t v) { return static_cast<float>(v) * scale; });
        continue;
      }
      const uint8_t* codes = table.codes + row * ternary::code_row_bytes(table.depth);
      for (int64_t g = 0; g < groups; ++g) {
        const float scale =
            table.group == 0 ? table.scale[row * table.scale_stride] : half_to_float(table.group_scale[row * groups + g]);
        const float scale_neg = table.scale_neg == nullptr ? scale : table.scale_neg[row * table.scale_stride];
        expand(codes, g * group, std::min((g + 1) * group, table.depth), scale, scale_neg, y + i * table.depth);
      }
    }
  });
  return {};
}

}  // namespace bitlab::kernels
