// Readers of quantized values, and of products of them.
#include <algorithm>
#include <array>
#include <cmath>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/onnx/internal/expansion.h"
#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// A scale or zero point beside x: one number, one for each place of an axis, or one for each block of it.
Result<Tensor> beside(Reader& r, const Tensor& scale, const Ints& x, int64_t axis, int64_t block) {
  if (scale.count() == 1) return reshaped(scale, {});
  BITLAB_TRY(const int64_t dim, r.axis(axis, x.size()));
  const auto at = static_cast<size_t>(dim);
  if (block == 0) {
    Ints sizes(x.size(), 1);
    sizes[at] = x[at];
    if (scale.count() != x[at]) return r.corrupt("{} scales, got {}", x[at], scale.count());
    return reshaped(scale, sizes);
  }
  Ints expected = x;
  if (block > 0) expected[at] = ceil_div(x[at], block);
  if (block < 0 || scale.sizes != expected)
    return r.corrupt("scales {}, got {}", program::to_string(expected), program::to_string(scale.sizes));
  const Ints strides = program::StridedView(scale.sizes).strides;
  return r.folding.picked(scale, x, [&](int64_t i) {
    int64_t from = 0;
    for (size_t d = x.size(); d-- > 0; i /= x[d]) from += (d == at ? i % x[d] / block : i % x[d]) * strides[d];
    return from;
  });
}

struct Quantization {
  Tensor scale;
  std::optional<Tensor> zero;  // nothing: 0
  ElementType type = ElementType::kUint8;
};

Result<Quantization> quantization_of(Reader& r, const Shape& shape) {
  const int64_t axis = r.integer("axis", 1), block = r.integer("block_size", 0);
  const Ints sizes = shape_at(shape, program::kOnes);
  if (block != 0 && !program::is_fixed(shape)) return r.refuse("blocks of constants, got {}", r.show(shape));
  Quantization q;
  BITLAB_TRY(const Tensor scale, r.known(1, "scales"));
  BITLAB_TRY(q.scale, beside(r, scale, sizes, axis, block));
  if (r.has(2)) {
    BITLAB_TRY(const Tensor zero, r.known(2, "zero points"));
    q.type = zero.type;
    bool is_zero = true;
    for (int64_t i = 0; i < zero.count(); ++i) is_zero = is_zero && zero.number(i) == 0;
    if (!is_zero) {
      BITLAB_TRY(q.zero, beside(r, zero, sizes, axis, block));
    }
  }
  if (const int64_t type = r.integer("output_dtype", 0); type != 0) q.type = static_cast<ElementType>(type);
  return q;
}

Result<Term> floats_of(Reader& r, const Tensor& tensor) {
  BITLAB_TRY(const Tensor floats, r.folding.cast(tensor, ElementType::kFloat));
  return Term(r, r.constant(floats));
}

bool is_one(const Tensor& scale) { return scale.count() == 1 && scale.number(0) == 1; }

std::optional<std::pair<double, double>> range_of(ElementType type) {
  if (type == ElementType::kInt8) return std::pair{-128.0, 127.0};
  if (type == ElementType::kUint8) return std::pair{0.0, 255.0};
  if (type == ElementType::kInt16) return std::pair{-32768.0, 32767.0};
  if (type == ElementType::kUint16) return std::pair{0.0, 65535.0};
  return std::nullopt;
}

// In steps of a quantizer, as integers of the type behind it.
Result<Operands> rounded(Reader& r, Term y, const std::optional<Tensor>& zero, ElementType type) {
  const auto range = range_of(type);
  if (!range) return r.refuse("int8, uint8, int16 or uint16, got {}", name_of(type));
  y = y.of(Op::round);
  if (zero) {
    BITLAB_TRY(const Term shift, floats_of(r, *zero));
    y = y + shift;
  }
  BITLAB_TRY(const ValueId id, min(max(y, range->first), range->second).id());
  r.keep_as(id, type);
  return Operands{id};
}

}  // namespace

Result<Operands> read_quantize(Reader& r) {
  BITLAB_TRY(const Quantization q, quantization_of(r, r.shape(0)));
  if (const Tensor* x = r.tensor(0)) {
    const auto range = range_of(q.type);
    if (!range) return r.refuse("int8, uint8, int16 or uint16, got {}", name_of(q.type));
    BITLAB_TRY(const Tensor ratio,
               r.folding.binary(
                   *x, q.scale, ElementType::kFloat,
                   [](double a, double b) { return std::nearbyint(static_cast<float>(a / b)); }, nullptr));
    BITLAB_TRY(const Tensor zero,
               q.zero ? Result<Tensor>(*q.zero) : r.folding.of_integers(q.type, {}, [](int64_t) { return 0; }));
    return single(r.folding.binary(
        ratio, zero, q.type, [&](double a, double b) { return std::clamp(a + b, range->first, range->second); }, nullptr));
  }
  Term y = computed_input(r, 0);
  if (!is_one(q.scale)) {
    BITLAB_TRY(const Term scale, floats_of(r, q.scale));
    y = y / scale;
  }
  return rounded(r, y, q.zero, q.type);
}

Result<Operands> read_dequantize(Reader& r) {
  BITLAB_TRY(const Quantization q, quantization_of(r, r.shape(0)));
  if (q.scale.type != ElementType::kFloat) return r.refuse("float32 scales, got {}", name_of(q.scale.type));
  if (const Tensor* x = r.tensor(0)) {
    Tensor t = *x;
    if (q.zero) {
      BITLAB_TRY(t, r.folding.binary(t, *q.zero, ElementType::kInt32, nullptr, [](int64_t a, int64_t b) { return a - b; }));
    }
    return single(r.folding.binary(
        t, q.scale, ElementType::kFloat, [](double a, double b) { return a * b; }, nullptr));
  }
  BITLAB_TRY(const ValueId x, r.activation(0));
  Term y(r, x);
  if (r.of(x).dtype != program::DType::kFloat32) y = y.cast(program::DType::kFloat32);
  if (q.zero) {
    BITLAB_TRY(const Term zero, floats_of(r, *q.zero));
    y = y - zero;
  }
  if (!is_one(q.scale)) {
    BITLAB_TRY(const Term scale, floats_of(r, q.scale));
    y = y * scale;
  }
  // The same value without the mark of eight bits.
  BITLAB_TRY(const ValueId id, y.id());
  return id == x ? single(r.unmarked(x)) : Result<Operands>(Operands{id});
}

// --- products of integers

namespace {

// Integers of eight bits without their zero point, as floats: a constant, or what is computed.
struct Shifted {
  std::optional<Tensor> known;
  ValueId id = program::kNone;
};
Result<Shifted> shifted(Reader& r, size_t x_input, size_t zero_input, int64_t axis) {
  const ElementType type = r.type(x_input);
  if (!range_of(type) || size_of(type) != 1) return r.refuse("int8 or uint8 as input {}, got {}", x_input, name_of(type));
  std::optional<Tensor> zero;
  if (const Tensor* known = r.tensor(zero_input)) {
    BITLAB_TRY(zero, beside(r, *known, shape_at(r.shape(x_input), program::kOnes), axis, 0));
  }
  if (const Tensor* x = r.tensor(x_input); x != nullptr && (zero || !r.has(zero_input))) {
    BITLAB_TRY(Tensor floats, r.folding.cast(*x, ElementType::kFloat));
    if (zero) {
      BITLAB_TRY(floats,
                 r.folding.binary(*x, *zero, ElementType::kFloat, nullptr, [](int64_t a, int64_t b) { return a - b; }));
    }
    floats.name = x->name;
    return Shifted{std::move(floats), program::kNone};
  }
  BITLAB_TRY(ValueId id, r.activation(x_input));
  BITLAB_TRY(id, r.unmarked(id));
  if (!r.has(zero_input)) return Shifted{std::nullopt, id};
  const bool is_zero = zero && std::all_of(zero->bytes.begin(), zero->bytes.end(), [](uint8_t b) { return b == 0; });
  if (is_zero) return Shifted{std::nullopt, id};
  Term shift = input(r, zero_input);
  if (zero) {
    BITLAB_TRY(shift, floats_of(r, *zero));
  } else if (program::volume(r.shape(zero_input)) != program::Dim(1)) {
    return r.refuse("one zero point where it is computed, got {}", r.show(r.shape(zero_input)));
  }
  BITLAB_TRY(id, (Term(r, id) - shift).id());
  return Shifted{std::nullopt, id};
}

Result<ValueId> value_of(Reader& r, const Shifted& x) { return x.known ? r.constant(*x.known) : Result<ValueId>(x.id); }
Result<ValueId> computed_of(Reader& r, const Shifted& x) {
  BITLAB_TRY(const ValueId id, value_of(r, x));
  return r.as_activation(id);
}

// a [..., k] by b [k, n], or [n, k].
Result<ValueId> integer_product(Reader& r, const Shifted& a, const Shifted& b, bool turns_b = false) {
  BITLAB_TRY(const ValueId x, computed_of(r, a));
  if (b.known && b.known->sizes.size() == 2 && !r.shape_of(x).empty()) {
    BITLAB_TRY(const Tensor rows, turns_b ? Result<Tensor>(*b.known) : r.folding.permuted(*b.known, {1, 0}));
    return linear(r, x, rows, r.node().outputs[0]);
  }
  BITLAB_TRY(ValueId y, value_of(r, b));
  if (turns_b) {
    BITLAB_TRY(y, r.permute(y, {1, 0}));
  }
  return vectors_product(r, x, y);
}

Result<Operands> as_sums(Reader& r, const Result<ValueId>& sums) {
  if (!sums.ok()) return sums.error();
  r.keep_as(*sums, ElementType::kInt32);
  return Operands{*sums};
}

// a b / c, one or one for each place of an axis of something with `rank` dimensions.
Result<Tensor> ratio_of(Reader& r, size_t a, size_t b, size_t c, int64_t axis, size_t rank) {
  std::array<Tensor, 3> scales;
  for (size_t i = 0; i < 3; ++i) {
    BITLAB_TRY(scales[i], r.known(i == 0 ? a : i == 1 ? b : c, "scales"));
    if (scales[i].type != ElementType::kFloat || (i != 1 && scales[i].count() != 1) || scales[i].count() < 1)
      return r.refuse("float32 scales, one but for weights, got {}{}", name_of(scales[i].type),
                      program::to_string(scales[i].sizes));
  }
  const int64_t count = scales[1].count();
  Ints sizes;
  if (count > 1) sizes.assign(rank, 1), sizes[static_cast<size_t>(axis)] = count;
  return r.folding.of_numbers(ElementType::kFloat, sizes, [&](int64_t i) {
    const auto both = static_cast<float>(scales[0].number(0) * scales[1].number(i));
    return both / static_cast<float>(scales[2].number(0));
  });
}

// Sums as integers of eight bits again. `zero_input` says in which type.
Result<Operands> requantized(Reader& r, ValueId sums, const Tensor& ratio, size_t zero_input) {
  std::optional<Tensor> zero;
  ElementType type = ElementType::kUint8;
  if (r.has(zero_input)) {
    BITLAB_TRY(zero, r.known(zero_input, "zero points"));
    if (zero->count() != 1) return r.refuse("one zero point, got {}", zero->count());
    zero = reshaped(*zero, {});
    type = zero->type;
    if (zero->number(0) == 0) zero.reset();
  }
  BITLAB_TRY(const Term scale, floats_of(r, ratio));
  return rounded(r, Term(r, sums) * scale, zero, type);
}

// An int32 bias, as floats.
Result<std::optional<ValueId>> sum_bias(Reader& r, size_t input) {
  if (!r.has(input)) return std::optional<ValueId>();
  BITLAB_TRY(const Tensor given, r.known(input, "a bias"));
  BITLAB_TRY(const Tensor floats, r.folding.cast(given, ElementType::kFloat));
  BITLAB_TRY(const ValueId id, r.constant(floats, r.input_name(input)));
  return std::optional(id);
}

}  // namespace

Result<Operands> read_matmul_integer(Reader& r) {
  BITLAB_TRY(const Shifted a, shifted(r, 0, 2, static_cast<int64_t>(r.shape(0).size()) - 2));
  BITLAB_TRY(const Shifted b, shifted(r, 1, 3, static_cast<int64_t>(r.shape(1).size()) - 1));
  return as_sums(r, integer_product(r, a, b));
}

namespace {

// Sums of integers in steps of two scales, and a bias.
std::string_view scaled_sums(Expansion& e, std::string_view sums, std::string_view scale, std::string_view other,
                             std::string_view bias) {
  const std::string_view floats = e.node("Cast", {sums}, {with_integer("to", static_cast<int64_t>(ElementType::kFloat))});
  const std::string_view y = e.node("Mul", {floats, e.node("Mul", {scale, other})});
  return bias.empty() ? y : e.node("Add", {y, bias});
}

}  // namespace

Result<Operands> read_matmul_integer_to_float(Reader& r) {
  Expansion e(r);
  const std::string_view sums = e.node("MatMulInteger", {e.input(0), e.input(1), e.input(4), e.input(5)});
  return e.results({scaled_sums(e, sums, e.input(2), e.input(3), e.input(6))});
}

Result<Operands> read_dynamic_quantize_matmul(Reader& r) {
  Expansion e(r);
  const auto a = e.nodes("DynamicQuantizeLinear", {e.input(0)}, 3);
  const std::string_view sums = e.node("MatMulInteger", {a[0], e.input(1), a[2], e.input(3)});
  return e.results({scaled_sums(e, sums, a[1], e.input(2), e.input(4))});
}

Result<Operands> read_conv_integer(Reader& r) {
  BITLAB_TRY(const Shifted x, shifted(r, 0, 2, 1));
  BITLAB_TRY(const Shifted w, shifted(r, 1, 3, 0));
  if (!w.known) return r.refuse("weights of convolutions as constants, got '{}'", r.input_name(1));
  BITLAB_TRY(const ValueId id, computed_of(r, x));
  return as_sums(r, convolved(r, id, *w.known, std::nullopt, false));
}

Result<Operands> read_qlinear_matmul(Reader& r) {
  const size_t rank = r.shape(3).size();
  BITLAB_TRY(const Shifted a, shifted(r, 0, 2, static_cast<int64_t>(r.shape(0).size()) - 2));
  BITLAB_TRY(const Shifted b, shifted(r, 3, 5, static_cast<int64_t>(rank) - 1));
  BITLAB_TRY(const ValueId sums, integer_product(r, a, b));
  BITLAB_TRY(const Tensor ratio, ratio_of(r, 1, 4, 6, 0, 1));
  return requantized(r, sums, ratio, 7);
}

Result<Operands> read_qlinear_conv(Reader& r) {
  const size_t rank = r.shape(0).size();
  if (rank < 3) return r.corrupt("an image, got {}", r.show(r.shape(0)));
  BITLAB_TRY(const Shifted x, shifted(r, 0, 2, 1));
  BITLAB_TRY(const Shifted w, shifted(r, 3, 5, 0));
  if (!w.known) return r.refuse("weights of convolutions as constants, got '{}'", r.input_name(3));
  BITLAB_TRY(const ValueId id, computed_of(r, x));
  BITLAB_TRY(const auto bias, sum_bias(r, 8));
  BITLAB_TRY(const ValueId sums, convolved(r, id, *w.known, bias, false));
  BITLAB_TRY(const Tensor ratio, ratio_of(r, 1, 4, 6, 1, rank));
  return requantized(r, sums, ratio, 7);
}

// com.microsoft: a Gemm of integers, with a bias in steps of both scales; without a scale of the output, float32.
Result<Operands> read_qgemm(Reader& r) {
  const bool turns_b = r.integer("transB", 0) != 0;
  if (r.number("alpha", 1) != 1) return r.refuse("an alpha of 1, got another");
  if (r.integer("transA", 0) != 0) return r.refuse("rows of inputs, got transA");
  BITLAB_TRY(const Shifted a, shifted(r, 0, 2, 0));
  BITLAB_TRY(const Shifted b, shifted(r, 3, 5, turns_b ? 0 : 1));
  BITLAB_TRY(ValueId sums, integer_product(r, a, b, turns_b));
  BITLAB_TRY(const auto bias, sum_bias(r, 6));
  if (bias) {
    BITLAB_TRY(sums, r.emit(Op::add, {sums, *bias}));
  }
  if (!r.has(7)) return r.refuse("a scale of the output, got none");
  BITLAB_TRY(const Tensor ratio, ratio_of(r, 1, 4, 7, 0, 1));
  return requantized(r, sums, ratio, 8);
}

// Of all values together: 255 steps from the least to the largest, with 0 among them.
Result<Operands> read_dynamic_quantize(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Shape shape = r.shape(0);
  BITLAB_TRY(const ValueId x, r.activation(0));
  BITLAB_TRY(const ValueId row, r.reshape(x, {1, program::volume(shape)}));
  const auto most = [&](Op op) -> Term {
    const Term found = Term(r, row).of(op);
    if (!found.id().ok()) return found;
    return {r, r.reshape(*found.id(), {})};
  };
  constexpr double kSteps = 255;
  const Term least = min(most(Op::min), 0), range = max(most(Op::max), 0) - least;
  const Term scale = range.with(Op::equal, 0.0).choose(1, range / kSteps);
  const Term zero = min(max((least * -1.0 / scale).of(Op::round), 0), kSteps);
  const Term y = min(max((Term(r, x) / scale).of(Op::round) + zero, 0), kSteps);
  Operands results;
  for (const Term* term : {&y, &scale, &zero}) {
    BITLAB_TRY(const ValueId id, term->id());
    results.emplace_back(id);
    if (term != &scale) r.keep_as(id, ElementType::kUint8);
  }
  return results;
}

// --- operators of floats on quantized values (com.microsoft)

namespace {

struct FloatForm {
  std::string_view type, of_floats;
  std::vector<size_t> values;  // places of quantized inputs: the value, behind it scale and zero point
  size_t output;               // place of the output's scale
};

// Every quantized input dequantized, the operator of floats with the node's attributes, and its output quantized.
Result<Operands> by_floats(Reader& r, const FloatForm& form) {
  Expansion e(r);
  std::vector<std::string_view> floats;
  if (form.of_floats == "Where") floats.push_back(e.input(0));
  for (const size_t at : form.values)
    floats.push_back(e.node("DequantizeLinear", {e.input(at), e.input(at + 1), e.input(at + 2)}));
  const std::string_view y = e.node(form.of_floats, std::move(floats), r.node().attributes);
  return e.results({e.node("QuantizeLinear", {y, e.input(form.output), e.input(form.output + 1)})});
}

}  // namespace

Result<Operands> read_qlinear(Reader& r) {
  const FloatForm kForms[] = {
      {"QLinearAdd", "Add", {0, 3}, 6},
      {"QLinearMul", "Mul", {0, 3}, 6},
      {"QLinearSigmoid", "Sigmoid", {0}, 3},
      {"QLinearLeakyRelu", "LeakyRelu", {0}, 3},
      {"QLinearSoftmax", "Softmax", {0}, 3},
      {"QLinearAveragePool", "AveragePool", {0}, 3},
      {"QLinearGlobalAveragePool", "GlobalAveragePool", {0}, 3},
      {"QLinearReduceMean", "ReduceMean", {0}, 3},
      {"QLinearWhere", "Where", {1, 4}, 7},
  };
  if (r.integer("channels_last", 0) != 0) return r.refuse("channels in front of sizes, got channels_last");
  for (const FloatForm& form : kForms)
    if (form.type == r.node().type) return by_floats(r, form);
  FloatForm concat{"QLinearConcat", "Concat", {}, 0};
  for (size_t at = 2; at + 2 < r.node().inputs.size(); at += 3) concat.values.push_back(at);
  if (concat.values.empty()) return r.corrupt("parts, got {} inputs", r.node().inputs.size());
  return by_floats(r, concat);
}

// --- packed weights (com.microsoft)

// Codes of `bits` bits in blocks of a row, with a scale and a zero point each (com.microsoft).
Result<Operands> read_matmul_nbits(Reader& r) {
  const int64_t k = r.integer("K", 0), n = r.integer("N", 0), bits = r.integer("bits", 4),
                block = r.integer("block_size", 0);
  const bool is_valid = k > 0 && n > 0 && block > 0 && k <= program::kMaxElements && n <= program::kMaxElements &&
                        block <= program::kMaxElements && (bits == 2 || bits == 4 || bits == 8);
  if (!is_valid) return r.corrupt("K, N, block_size and bits of 2, 4, 8, got {}, {}, {}, {}", k, n, block, bits);
  if (r.has(4)) return r.refuse("blocks in their order, got g_idx");
  BITLAB_TRY(const Tensor codes, r.known(1, "weights"));
  BITLAB_TRY(const Tensor scales, r.known(2, "scales"));
  const int64_t blocks = ceil_div(k, block), in_byte = 8 / bits, row = blocks * block / in_byte;
  if (codes.stored != ElementType::kUint8 || codes.count() != program::saturated_product(n, row) ||
      scales.count() != n * blocks)
    return r.corrupt("{} bytes of codes and {} scales, got {} and {}", program::saturated_product(n, row), n * blocks,
                     codes.count(), scales.count());
  std::optional<Tensor> zeros;
  const int64_t zero_row = ceil_div(blocks, in_byte);
  if (r.has(3)) {
    BITLAB_TRY(zeros, r.known(3, "zero points"));
    if (zeros->stored != ElementType::kUint8 || zeros->count() != n * zero_row)
      return r.corrupt("{} bytes of zero points, got {}", n * zero_row, zeros->count());
  }
  const int64_t mask = (int64_t{1} << bits) - 1;
  const auto code = [&](const Tensor& from, int64_t start, int64_t i) {
    return from.integer(start + i / in_byte) >> (bits * (i % in_byte)) & mask;
  };
  BITLAB_TRY(Tensor w, r.folding.of_numbers(ElementType::kFloat, {n, k}, [&](int64_t i) {
    const int64_t at = i / k, column = i % k, b = column / block;
    const int64_t zero = zeros ? code(*zeros, at * zero_row, b) : int64_t{1} << (bits - 1);
    return static_cast<double>(code(codes, at * row, column) - zero) * scales.number(at * blocks + b);
  }));
  w.name = codes.name;
  BITLAB_TRY(const ValueId x, r.activation(0));
  std::optional<ValueId> bias;
  if (r.has(5)) {
    BITLAB_TRY(const Tensor given, r.known(5, "a bias"));
    BITLAB_TRY(bias, r.constant(given, r.input_name(5)));
  }
  return single(linear(r, x, w, r.input_name(1), bias));
}

namespace {

// Integers of few bits, those of a byte along the last size.
struct Packed {
  const Tensor& tensor;
  int64_t bits = 8;

  int64_t in_byte() const { return 8 / bits; }
  int64_t integer(int64_t row, int64_t column, int64_t columns) const {
    const int64_t bytes = ceil_div(columns, in_byte());
    const int64_t byte = tensor.integer(row * bytes + column / in_byte());
    return bits == 8 ? byte : byte >> (bits * (column % in_byte())) & ((1 << bits) - 1);
  }
};

}  // namespace

// Rows of a table of few bits, with a scale and a zero point for each block of a row.
Result<Operands> read_gather_block_quantized(Reader& r) {
  enum : size_t { kTable, kIndices, kScales, kZeros };
  BITLAB_TRY(const Tensor table, r.known(kTable, "a table"));
  BITLAB_TRY(const Tensor scales, r.known(kScales, "scales"));
  const int64_t given = r.integer("bits", 4), block = r.integer("block_size", 128);
  if (given != 2 && given != 4 && given != 8) return r.corrupt("2, 4 or 8 bits, got {}", given);
  const bool is_packed = table.type == ElementType::kUint8 && given < 8;
  const Packed codes{table, is_packed ? given : 8};
  const bool is_plain = table.sizes.size() == 2 && is_integer(table.type) && r.integer("gather_axis", 0) == 0 &&
                        (r.integer("quantize_axis", 1) == 1 || r.integer("quantize_axis", 1) == -1);
  if (!is_plain || block < 1) return r.refuse("rows of a table in blocks, got {}", program::to_string(table.sizes));
  const int64_t rows = table.sizes[0], columns = program::saturated_product(table.sizes[1], codes.in_byte());
  const int64_t blocks = ceil_div(columns, block);
  if (scales.sizes != Ints{rows, blocks} || !is_float(scales.type))
    return r.corrupt("scales [{}, {}], got {}", rows, blocks, program::to_string(scales.sizes));
  std::optional<Tensor> zeros;
  if (r.has(kZeros)) {
    BITLAB_TRY(zeros, r.known(kZeros, "zero points"));
    if (!is_integer(zeros->type) || zeros->sizes != Ints{rows, ceil_div(blocks, codes.in_byte())})
      return r.corrupt("zero points of {} blocks, got {}", blocks, program::to_string(zeros->sizes));
  }
  const int64_t middle = table.type == ElementType::kUint8 ? int64_t{1} << (given - 1) : 0;
  BITLAB_TRY(const Tensor floats, r.folding.of_numbers(ElementType::kFloat, {rows, columns}, [&](int64_t i) {
    const int64_t row = i / columns, column = i % columns, at = column / block;
    const int64_t zero = zeros ? Packed{*zeros, codes.bits}.integer(row, at, blocks) : middle;
    return static_cast<double>(codes.integer(row, column, columns) - zero) * scales.number(row * blocks + at);
  }));
  Expansion e(r);
  return e.results({e.node("Gather", {e.given(floats), e.input(kIndices)})});
}

}  // namespace bitlab::format::onnx
