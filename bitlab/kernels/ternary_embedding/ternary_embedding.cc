#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"

#include <algorithm>
#include <array>

#include "bitlab/base/internal/half.h"

namespace bitlab::kernels {
namespace {

// Values of a row from `begin` to `end`, which share a scale.
void expand(const PackedTernary& weights, int64_t row, int64_t begin, int64_t end, float scale, float scale_neg, float* y) {
  constexpr int64_t kPiece = 256;
  std::array<int8_t, kPiece> t;
  for (int64_t k = begin; k < end; k += kPiece) {
    const auto piece = std::span(t).first(static_cast<size_t>(std::min(kPiece, end - k)));
    unpack_row(weights, row, k, piece);
    std::transform(piece.begin(), piece.end(), y + k,
                   [=](int8_t v) { return static_cast<float>(v) * (v < 0 ? scale_neg : scale); });
  }
}

}  // namespace

Status ternary_embedding(const char* op, const TernaryTable& table, const int64_t* index, int64_t tokens, float* y,
                         ThreadPool& pool) {
  const int64_t rows = table.weights->rows, depth = table.weights->depth;
  for (int64_t i = 0; i < tokens; ++i)
    if (index[i] < 0 || index[i] >= rows)
      return make_error(ErrorCode::kInvalidArgument, "[{}] indices in [0, {}), got {} (token={})", op, rows, index[i], i);
  constexpr int64_t kTokens = 16;
  const int64_t group = table.group == 0 ? std::max<int64_t>(depth, 1) : table.group, groups = ceil_div(depth, group);
  pool.run(ceil_div(tokens, kTokens), [&](int64_t block, int) {
    for (int64_t i = block * kTokens; i < std::min(tokens, (block + 1) * kTokens); ++i) {
      const int64_t row = index[i];
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = table.group == 0
                                ? table.scale[row * table.scale_stride]
                                : half_to_float(table.group_scale[row * table.group_row_stride + g * table.group_stride]);
        const float scale_neg = table.scale_neg == nullptr ? scale : table.scale_neg[row * table.scale_stride];
        expand(*table.weights, row, g * group, std::min((g + 1) * group, depth), scale, scale_neg, y + i * depth);
      }
    }
  });
  return {};
}

}  // namespace bitlab::kernels
