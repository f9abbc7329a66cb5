// Readers of what resizes images and samples them.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

struct Resizing {
  Shape sizes;
  std::vector<double> scales;
  std::string mode, where, nearest;
  bool is_exact = true;  // the scales are the ratios of the sizes
  Ints axes{};           // that sizes and scales were given of
};

// What is given beside x: scales or sizes, of all dimensions or of axes.
struct ResizingInput {
  std::vector<double> scales;
  std::optional<SizeList> sizes;
};
Result<ResizingInput> resizing_input(Reader& r) {
  constexpr int64_t kSizes = 11;  // before, scales alone: as an input, before opset 9 as an attribute
  ResizingInput input;
  const bool is_old = r.node().type == "Upsample" || r.opset() < kSizes;
  if (!is_old && r.has(3)) input.sizes = r.sizes(3);
  if (const ModelAttribute* given = r.node().find("scales"); given != nullptr && is_old) {
    input.scales.assign(given->numbers.begin(), given->numbers.end());
  } else if (const Tensor* scales = r.tensor(is_old ? 1 : 2); scales != nullptr && !input.sizes) {
    for (int64_t i = 0; i < scales->count(); ++i) input.scales.push_back(scales->number(i));
  }
  if (!input.sizes && input.scales.empty()) return r.refuse("scales or sizes that are known, got none");
  return input;
}

// One scale for all axes, in the name of the aspect ratio.
Status keep_ratio(const Reader& r, const Shape& x, const Ints& axes, Resizing& to) {
  const std::string policy = r.text("keep_aspect_ratio_policy", "stretch");
  if (policy == "stretch") return {};
  std::optional<double> scale;
  for (const int64_t axis : axes) {
    const double own = to.scales[static_cast<size_t>(axis)];
    if (!x[static_cast<size_t>(axis)].is_number()) return r.refuse("sizes that are numbers, got {}", r.show(x));
    scale = !scale ? own : policy == "not_larger" ? std::min(*scale, own) : std::max(*scale, own);
  }
  for (const int64_t axis : axes) {
    const auto at = static_cast<size_t>(axis);
    to.scales[at] = *scale;
    to.sizes[at] = std::max<int64_t>(1, static_cast<int64_t>(std::floor(*scale * static_cast<double>(x[at].factor) + 0.5)));
  }
  to.is_exact = false;
  return {};
}

// Of all dimensions, from `sizes` or `scales`.
Result<Resizing> resizing_of(Reader& r, const Shape& x) {
  Ints axes(x.size());
  std::iota(axes.begin(), axes.end(), int64_t{0});
  if (const auto given = r.list("axes"); given && !given->empty()) axes = *given;
  const bool is_old = r.node().type == "Upsample" || r.opset() < 11;
  Resizing result{x, std::vector<double>(x.size(), 1), r.text("mode", "nearest"),
                  r.text("coordinate_transformation_mode", is_old ? "asymmetric" : "half_pixel"),
                  r.text("nearest_mode", is_old ? "floor" : "round_prefer_floor")};
  BITLAB_TRY(const ResizingInput given, resizing_input(r));
  if ((given.sizes ? given.sizes->values.size() : given.scales.size()) != axes.size())
    return r.corrupt("a size for each of {} axes, got another number", axes.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    BITLAB_TRY(axes[i], r.axis(axes[i], x.size()));
    const auto at = static_cast<size_t>(axes[i]);
    Dim& size = result.sizes[at];
    if (given.sizes) {
      const Dim wanted = given.sizes->values[i];
      result.scales[at] = static_cast<double>(wanted.factor) / static_cast<double>(size.factor);
      size = wanted;
      if (size.factor < 1) return r.refuse("sizes from 1, got {}", size.factor);
      continue;
    }
    const double scaled = static_cast<double>(size.factor) * given.scales[i];
    if (!(scaled >= 1 && scaled < static_cast<double>(program::kMaxElements)))
      return r.refuse("sizes from 1, got {}", scaled);
    result.scales[at] = given.scales[i];
    result.is_exact = result.is_exact && scaled == std::floor(scaled);
    constexpr int64_t kMostParts = 16;  // of a scale that is a fraction
    for (int64_t parts = 2; parts <= kMostParts && scaled != std::floor(scaled); ++parts) {
      const double whole = given.scales[i] * static_cast<double>(parts);
      if (whole != std::floor(whole)) continue;
      r.prefer_multiple(size, parts);
      break;
    }
    size.factor = static_cast<int64_t>(std::floor(scaled));
  }
  if (given.sizes) BITLAB_RETURN_IF_ERROR(keep_ratio(r, x, axes, result));
  result.axes = std::move(axes);
  return result;
}

// The program's name of the mode; empty where it has none.
std::string mode_of(const Reader& r, const Resizing& to, const Shape& x) {
  const Shape& y = to.sizes;
  const std::string &mode = to.mode, &where = to.where;
  const bool antialias = r.integer("antialias", 0) != 0, centered = where == "half_pixel" || where == "pytorch_half_pixel";
  if (!to.is_exact || y[0] != x[0] || y[1] != x[1]) return "";
  bool grows = true, has_many = true;  // by whole numbers; more than one value
  for (size_t i = 2; i < x.size(); ++i) {
    grows = grows && divided(y[i], x[i]).has_value();
    has_many = has_many && (y[i].factor > 1 || where == "half_pixel");
  }
  if (mode == "nearest") {
    const std::string& nearest = to.nearest;
    if (where == "asymmetric" && nearest == "floor") return "nearest";
    const bool is_round = nearest == "round_prefer_ceil" || (nearest == "round_prefer_floor" && grows);
    return centered && has_many && is_round ? "nearest_exact" : "";
  }
  // With antialiasing windows end at the image's border, which ONNX says apart.
  if (!has_many || (!centered && where != "align_corners") || (r.integer("exclude_outside", 0) != 0) != antialias) return "";
  if (mode == "linear") return antialias ? "linear_antialias" : "linear";
  if (mode != "cubic" || r.number("cubic_coeff_a", -0.75F) != (antialias ? -0.5F : -0.75F)) return "";
  return antialias ? "cubic_antialias" : "cubic";
}

// --- by the weights of every value of one dimension

// One dimension that is resized: of n values into m.
struct Line {
  int64_t n = 0, m = 0;
  double scale = 1, start = 0, end = 1;  // of a region, in parts of the line
};

// Where value i of the result lies among those of x.
double place_on(const Line& line, const std::string& where, int64_t i) {
  const auto n = static_cast<double>(line.n), at = static_cast<double>(i), width = line.scale * n;
  if (where == "align_corners") return width == 1 ? 0 : at * (n - 1) / (width - 1);
  if (where == "asymmetric") return at / line.scale;
  if (where == "tf_crop_and_resize") {
    const double part = line.end - line.start, first = line.start * (n - 1);
    return first + (width == 1 ? part * (n - 1) / 2 : at * part * (n - 1) / (width - 1));
  }
  if (where == "pytorch_half_pixel" && width == 1) return -0.5;
  const double shift = where == "half_pixel_symmetric" ? n / 2 * (1 - static_cast<double>(line.m) / width) : 0;
  return shift + (at + 0.5) / line.scale - 0.5;
}

int64_t nearest_to(double place, const std::string& mode) {
  const double below = std::floor(place), part = place - below;
  const bool goes_up = mode == "ceil"                ? part > 0
                       : mode == "floor"             ? false
                       : mode == "round_prefer_ceil" ? part >= 0.5
                                                     : part > 0.5;
  return static_cast<int64_t>(below) + (goes_up ? 1 : 0);
}

// The weight of what lies x away, in steps of a kernel.
double weight_at(double x, bool is_cubic, double a) {
  x = std::fabs(x);
  if (!is_cubic) return std::max(1 - x, 0.0);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// The n weights of value i of a line; what lies beyond an end counts for the value there, or not at all.
std::vector<double> weights_of(const Reader& r, const Resizing& to, const Line& line, int64_t i) {
  const bool is_cubic = to.mode == "cubic", excludes = r.integer("exclude_outside", 0) != 0;
  const double a = r.number("cubic_coeff_a", -0.75F);
  const double step = r.integer("antialias", 0) != 0 ? std::min(line.scale, 1.0) : 1, reach = (is_cubic ? 2 : 1) / step;
  std::vector<double> weights(static_cast<size_t>(line.n), 0);
  const double place = place_on(line, to.where, i);
  if (to.where == "tf_crop_and_resize" && (place < 0 || place > static_cast<double>(line.n - 1))) return weights;
  double sum = 0;
  for (auto k = static_cast<int64_t>(std::floor(place - reach)); k <= static_cast<int64_t>(std::ceil(place + reach)); ++k) {
    const bool is_outside = k < 0 || k >= line.n;
    const double weight = is_outside && excludes ? 0 : weight_at((static_cast<double>(k) - place) * step, is_cubic, a);
    sum += weight;
    weights[static_cast<size_t>(std::clamp<int64_t>(k, 0, line.n - 1))] += weight;
  }
  if (sum != 0 && (excludes || step != 1))
    for (double& weight : weights) weight /= sum;
  return weights;
}

Result<ValueId> resized_line(Reader& r, ValueId x, int64_t dim, const Resizing& to, const Line& line) {
  if (to.mode == "nearest") {
    BITLAB_TRY(const Tensor places, r.folding.of_integers(ElementType::kInt64, {line.m}, [&](int64_t i) {
      return std::clamp<int64_t>(nearest_to(place_on(line, to.where, i), to.nearest), 0, line.n - 1);
    }));
    BITLAB_TRY(const ValueId indices, r.constant(places, r.node().outputs[0]));
    return r.emit(Op::take, {x, indices}, {{"dim", dim}});
  }
  std::vector<double> row;
  BITLAB_TRY(const Tensor matrix, r.folding.of_numbers(ElementType::kFloat, {line.m, line.n}, [&](int64_t i) {
    if (i % line.n == 0) row = weights_of(r, to, line, i / line.n);
    return row[static_cast<size_t>(i % line.n)];
  }));
  BITLAB_TRY(x, r.to_last(x, dim));
  BITLAB_TRY(x, linear(r, x, matrix, r.node().outputs[0]));
  return r.from_last(x, dim);
}

// Dimension by dimension.
Result<Operands> resized(Reader& r, const Shape& x, const Resizing& to) {
  constexpr std::string_view kPlaces[] = {"half_pixel",         "pytorch_half_pixel", "half_pixel_symmetric",
                                          "tf_crop_and_resize", "align_corners",      "asymmetric"};
  const bool is_crop = to.where == "tf_crop_and_resize";
  if (std::find(std::begin(kPlaces), std::end(kPlaces), to.where) == std::end(kPlaces))
    return r.refuse("a coordinate_transformation_mode that the program has, got {}", to.where);
  if (to.mode != "nearest" && to.mode != "linear" && to.mode != "cubic")
    return r.corrupt("a mode of nearest, linear, cubic, got {}", to.mode);
  const Tensor* region = is_crop ? r.tensor(1) : nullptr;
  if (is_crop && (region == nullptr || (region->count() != 2 * static_cast<int64_t>(to.axes.size())) ||
                  to.mode == "nearest" || r.number("extrapolation_value", 0) != 0))
    return r.refuse("a known region of the axes, in mode linear or cubic, 0 around it, got another");
  for (int64_t i = 0; region != nullptr && i < region->count(); ++i)
    if (!std::isfinite(region->number(i))) return r.corrupt("a region of numbers, got NaN or infinity");
  BITLAB_TRY(ValueId id, r.activation(0));
  for (size_t d = 0; d < x.size(); ++d) {
    const auto axis = static_cast<int64_t>(d);
    Line line{x[d].factor, to.sizes[d].factor, to.scales[d]};
    const auto given = std::find(to.axes.begin(), to.axes.end(), axis);
    if (is_crop && given != to.axes.end()) {
      const int64_t place = given - to.axes.begin();
      line.start = region->number(place), line.end = region->number(place + static_cast<int64_t>(to.axes.size()));
    }
    if (x[d] == to.sizes[d] && line.scale == 1 && line.start == 0 && line.end == 1) continue;
    if (!x[d].is_number() || !to.sizes[d].is_number())
      return r.refuse("sizes that are numbers for {} with {}, {}, got {} to {}", to.mode, to.where, to.nearest, r.show(x),
                      r.show(to.sizes));
    BITLAB_TRY(id, resized_line(r, id, axis, to, line));
  }
  return Operands{id};
}

}  // namespace

Result<Operands> read_resize(Reader& r) {
  const Shape x = r.shape(0);
  BITLAB_TRY(const Resizing to, resizing_of(r, x));
  const bool is_image = x.size() >= 3 && x.size() <= program::kMaxImageRank && r.type(0) == ElementType::kFloat;
  const std::string mode = is_image ? mode_of(r, to, x) : "";
  if (mode.empty()) return resized(r, x, to);
  BITLAB_TRY(ValueId id, r.activation(0));
  if (!x[1].is_number()) {  // such as masks of all samples as the channels of one
    Shape apart{x[0] * x[1], 1};
    apart.insert(apart.end(), x.begin() + 2, x.end());
    BITLAB_TRY(id, r.reshape(id, apart));
  }
  BITLAB_TRY(id, r.emit(Op::resample, {id},
                        {{"output_size", Shape(to.sizes.begin() + 2, to.sizes.end())},
                         {"mode", mode},
                         {"align_corners", int64_t{to.where == "align_corners" ? 1 : 0}}}));
  return single(r.reshape(id, to.sizes));
}

// --- grids

namespace {

// Places from -1 to 1 of n values: their middles, or with corners aligned from the first to the last.
double grid_place(int64_t i, int64_t n, bool aligned) {
  const auto at = static_cast<double>(i), size = static_cast<double>(n);
  return aligned ? (n == 1 ? 0 : 2 * at / (size - 1) - 1) : (2 * at + 1) / size - 1;
}

}  // namespace

// theta [batch, d, d + 1] by all places of an image (x, y, .., 1).
Result<Operands> read_affine_grid(Reader& r) {
  BITLAB_TRY(const Ints size, r.integers(1, "sizes"));
  const auto dims = static_cast<int64_t>(size.size()) - 2;
  const Shape theta = r.shape(0);
  if ((dims != 2 && dims != 3) || theta.size() != 3 || theta[1] != Dim(dims) || theta[2] != Dim(dims + 1))
    return r.corrupt("theta [batch, d, d + 1] and 2 + d sizes, got {} and {}", r.show(theta), program::to_string(size));
  const Ints image(size.begin() + 2, size.end());
  if (std::any_of(image.begin(), image.end(), [](int64_t n) { return n < 1; }) || elements_of(image) > program::kMaxElements)
    return r.corrupt("sizes from 1, got {}", program::to_string(size));
  const bool aligned = r.integer("align_corners", 0) != 0;
  const int64_t count = elements_of(image);
  BITLAB_TRY(const Tensor places, r.folding.of_numbers(ElementType::kFloat, {count, dims + 1}, [&](int64_t i) {
    int64_t at = i / (dims + 1);
    const int64_t wanted = i % (dims + 1);  // 0: along the last size
    if (wanted == dims) return 1.0;
    for (int64_t d = dims - 1; d > dims - 1 - wanted; --d) at /= image[static_cast<size_t>(d)];
    const int64_t n = image[static_cast<size_t>(dims - 1 - wanted)];
    return grid_place(at % n, n, aligned);
  }));
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, linear(r, id, places, r.node().outputs[0]));  // [batch, d, places]
  BITLAB_TRY(id, r.permute(id, {0, 2, 1}));
  Shape shape(image.begin(), image.end());
  shape.insert(shape.begin(), theta[0]);
  shape.emplace_back(dims);
  return single(r.reshape(id, shape));
}

// The middle of an image, or zeros around it.
Result<Operands> read_center_crop_pad(Reader& r) {
  BITLAB_TRY(const Ints wanted, r.integers(1, "a shape"));
  const Shape shape = r.shape(0);
  Ints axes(shape.size());
  std::iota(axes.begin(), axes.end(), int64_t{0});
  if (const auto given = r.list("axes")) axes = *given;
  if (axes.size() != wanted.size()) return r.corrupt("{} sizes, got {}", axes.size(), wanted.size());
  BITLAB_TRY(ValueId id, r.activation(0));
  Ints before(shape.size(), 0), behind = before;
  for (size_t i = 0; i < axes.size(); ++i) {
    BITLAB_TRY(const int64_t dim, r.axis(axes[i], shape.size()));
    const Dim& size = shape[static_cast<size_t>(dim)];
    if (!size.is_number() || wanted[i] < 1 || wanted[i] > program::kMaxElements)
      return r.refuse("sizes that are numbers from 1, got {} and {}", r.show({size}), wanted[i]);
    const int64_t more = wanted[i] - size.factor;
    if (more > 0) before[static_cast<size_t>(dim)] = more / 2, behind[static_cast<size_t>(dim)] = more - more / 2;
    if (more < 0) {
      BITLAB_TRY(id, r.slice(id, dim, -more / 2, wanted[i]));
    }
  }
  return single(r.padded(id, before, behind, 0));
}

// Blocks [batch, channels block, places] added where they lie in an image: a transposed convolution with a 1 for each value of a block.
Result<Operands> read_col_to_image(Reader& r) {
  BITLAB_TRY(const Ints image, r.integers(1, "sizes of the image"));
  BITLAB_TRY(const Ints block, r.integers(2, "sizes of a block"));
  const size_t dims = block.size();
  const Shape x = r.shape(0);
  Ints stride(dims, 1), dilation(dims, 1), pads(2 * dims, 0);
  if (const auto given = r.list("strides")) stride = *given;
  if (const auto given = r.list("dilations")) dilation = *given;
  if (const auto given = r.list("pads")) pads = *given;
  if (dims < 1 || dims > 3 || image.size() != dims || stride.size() != dims || dilation.size() != dims ||
      pads.size() != 2 * dims || x.size() != 3)
    return r.refuse("[batch, channels block, places] and 1 to 3 sizes, got {} and {}", r.show(x), program::to_string(block));
  Shape places;
  Ints rest(dims, 0), zeros(dims, 0);
  constexpr int64_t kMost = 1 << 20;
  for (size_t d = 0; d < dims; ++d) {
    for (const int64_t n : {image[d], block[d], stride[d], dilation[d], pads[d] + 1, pads[d + dims] + 1})
      if (n < 1 || n > kMost) return r.corrupt("sizes from 1 to 2^20, got {}", n);
    const int64_t room = image[d] + pads[d] + pads[d + dims] - dilation[d] * (block[d] - 1) - 1;
    if (room < 0) return r.corrupt("blocks inside the image, got {} in {}", block[d], image[d]);
    places.emplace_back(room / stride[d] + 1);
    rest[d] = room % stride[d];
  }
  const int64_t each = elements_of(block);
  const auto channels = divided(x[1], each);
  if (!channels || !channels->is_number() || x[2] != program::volume(places))
    return r.corrupt("channels in multiples of {} and {} places, got {}", each, program::volume(places).factor, r.show(x));
  Ints sizes{channels->factor};
  sizes.insert(sizes.end(), block.begin(), block.end());
  sizes.push_back(each);  // [rows, kernel..., channels / groups]
  BITLAB_TRY(const Tensor ones, r.folding.of_integers(ElementType::kFloat, sizes,
                                                      [&](int64_t i) { return i / each % each == i % each ? 1 : 0; }));
  BITLAB_TRY(const ValueId weight, r.constant(ones, r.node().outputs[0]));
  BITLAB_TRY(ValueId id, r.activation(0));
  places.insert(places.begin(), {x[0], x[1]});
  BITLAB_TRY(id, r.reshape(id, places));
  BITLAB_TRY(id, r.emit(Op::conv, {id, weight},
                        {{"stride", stride},
                         {"padding", zeros},
                         {"dilation", dilation},
                         {"transposed", int64_t{1}},
                         {"output_padding", zeros},
                         {"groups", channels->factor}}));
  for (size_t d = 0; d < dims; ++d) {
    const auto dim = static_cast<int64_t>(d) + 2;
    Ints none(dims + 2, 0), behind = none;
    behind[d + 2] = rest[d];
    BITLAB_TRY(id, r.padded(id, none, behind, 0));
    BITLAB_TRY(id, r.slice(id, dim, pads[d], image[d]));
  }
  return Operands{id};
}

Result<Operands> read_grid_sample(Reader& r) {
  std::string mode = r.text("mode", "linear");
  if (mode == "bilinear") mode = "linear";
  BITLAB_TRY(const ValueId x, r.activation(0));
  BITLAB_TRY(const ValueId grid, r.activation(1));
  return single(r.emit(
      Op::grid_sample, {x, grid},
      {{"mode", mode}, {"padding", r.text("padding_mode", "zeros")}, {"align_corners", r.integer("align_corners", 0)}}));
}

}  // namespace bitlab::format::onnx
