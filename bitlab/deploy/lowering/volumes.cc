// Grids in volumes, for which programs have no operation.
#include <optional>
#include <vector>

#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
namespace {

// One axis of a grid: the whole place below each point, and how far the point is from there.
struct Places {
  Term floor, rest;
};

enum class Outside { kZeros, kBorder, kReflection };

// `x`: from -1 to 1, the middles of the first and the last pixel of `size` where `align`, else their outer edges.
Places places_of(const Term& x, int64_t size, bool align, bool is_nearest, Outside outside) {
  const double last = static_cast<double>(size) - 1, low = align ? 0 : -0.5, span = align ? last : last + 1;
  Term place = align ? (x + 1) * (last / 2) : (x + 1) * ((last + 1) / 2) + -0.5;
  if (outside == Outside::kReflection && span > 0) {
    const Term way = (place + -low).of(Op::abs), turns = (way * (1 / span)).of(Op::floor), part = way - turns * span;
    const Term is_odd = (turns * 0.5).of(Op::floor) * 2.0 < turns, back = part.behind(Op::sub, span);
    place = is_odd.choose(back, part) + low;
  }
  if (outside != Outside::kZeros) place = place.with(Op::maximum, 0).with(Op::minimum, last);
  if (is_nearest) place = place.of(Op::round);
  const Term floor = place.of(Op::floor);
  return {floor, place - floor};
}

}  // namespace

// x [n, c, d, h, w] at grid [n, ..., 3]: the eight pixels around each place, by how near they are.
Status lower_grid_sample_3d(Lowering& l, const Call& call) {
  const int64_t mode = call.argument("interpolation_mode").toInt();
  BITLAB_TRY(const ValueId x, l.activation(call, "input"));
  BITLAB_TRY(const ValueId grid, l.operand(call, "grid"));
  const program::Shape image = l.shape(x), points = l.shape(grid);
  if (mode > 1 || !program::is_fixed({image.begin() + 1, image.end()}))
    return unsupported(call, "a linear or nearest grid in volumes of fixed size", l.show(image));
  const program::Dim count = program::volume({points.begin() + 1, points.end() - 1});
  const bool align = call.argument("align_corners").toBool();
  const auto outside = static_cast<Outside>(call.argument("padding_mode").toInt());
  std::vector<Places> axes;  // width, height, depth
  for (int64_t axis = 0; axis < 3; ++axis) {
    BITLAB_TRY(ValueId part, slice_of(l, grid, 4, axis, 1));
    BITLAB_TRY(part, l.reshape(part, {points[0], 1, count}));
    axes.push_back(places_of(Term(l, part), image[static_cast<size_t>(4 - axis)].factor, align, mode == 1, outside));
  }
  BITLAB_TRY(const ValueId pixels, l.reshape(x, {image[0], image[1], program::volume({image.begin() + 2, image.end()})}));
  std::optional<Term> total;
  for (int corner = 0; corner < (mode == 1 ? 1 : 8); ++corner) {
    std::optional<Term> weight, index;
    for (int axis = 2; axis >= 0; --axis) {
      const auto& [floor, rest] = axes[static_cast<size_t>(axis)];
      const bool is_next = ((corner >> axis) & 1) != 0;
      const int64_t size = image[static_cast<size_t>(4 - axis)].factor;
      const double last = static_cast<double>(size) - 1;
      const Term place = is_next ? floor + 1 : floor, inside = place.with(Op::maximum, 0).with(Op::minimum, last),
                 near = is_next ? rest : rest.behind(Op::sub, 1),
                 share = place.with(Op::equal, inside).choose(near, near.constant(0)), whole = inside.cast(at::kLong);
      weight = weight ? *weight * share : share;
      index = index ? *index * static_cast<double>(size) + whole : whole;
    }
    BITLAB_TRY(ValueId indices, index->value());
    BITLAB_TRY(indices, expanded(l, indices, {image[0], image[1], count}));
    const Term values(l, l.node(Op::gather, {pixels, indices}, {{"dim", int64_t{2}}}));
    total = total ? *total + values * *weight : values * *weight;
  }
  BITLAB_TRY(const ValueId sum, total->value());
  l.set_exactness(program::Exactness::kBounded);
  program::Shape shape{image[0], image[1]};
  shape.insert(shape.end(), points.begin() + 1, points.end() - 1);
  BITLAB_TRY(const ValueId y, l.reshape(sum, shape));
  return l.finish(call, y);
}

}  // namespace bitlab::deploy
