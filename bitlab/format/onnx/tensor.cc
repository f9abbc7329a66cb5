#include "bitlab/format/onnx/internal/tensor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "bitlab/base/internal/half.h"

namespace bitlab::format::onnx {
namespace {

struct ElementInfo {
  ElementType type;
  std::string_view name;
  int64_t size;
  bool is_float, is_integer;
};
constexpr std::array kElements{ElementInfo{ElementType::kFloat, "float32", 4, true, false},
                               ElementInfo{ElementType::kUint8, "uint8", 1, false, true},
                               ElementInfo{ElementType::kInt8, "int8", 1, false, true},
                               ElementInfo{ElementType::kUint16, "uint16", 2, false, true},
                               ElementInfo{ElementType::kInt16, "int16", 2, false, true},
                               ElementInfo{ElementType::kInt32, "int32", 4, false, true},
                               ElementInfo{ElementType::kInt64, "int64", 8, false, true},
                               ElementInfo{ElementType::kString, "string", 0, false, false},
                               ElementInfo{ElementType::kBool, "bool", 1, false, false},
                               ElementInfo{ElementType::kFloat16, "float16", 2, true, false},
                               ElementInfo{ElementType::kDouble, "float64", 8, true, false},
                               ElementInfo{ElementType::kUint32, "uint32", 4, false, true},
                               ElementInfo{ElementType::kUint64, "uint64", 8, false, true},
                               ElementInfo{ElementType::kBFloat16, "bfloat16", 2, true, false},
                               ElementInfo{ElementType::kUint4, "uint4", 1, false, true},
                               ElementInfo{ElementType::kInt4, "int4", 1, false, true},
                               ElementInfo{ElementType::kUint2, "uint2", 1, false, true},
                               ElementInfo{ElementType::kInt2, "int2", 1, false, true}};

const ElementInfo* find(ElementType type) {
  const auto* const found = std::find_if(kElements.begin(), kElements.end(), [&](const auto& e) { return e.type == type; });
  return found == kElements.end() ? nullptr : found;
}

template <class T>
T load(const Tensor& x, int64_t i) {
  T value;
  std::memcpy(&value, x.bytes.data() + static_cast<size_t>(i) * sizeof value, sizeof value);
  return value;
}

template <class T>
void store(uint8_t* bytes, int64_t i, T value) {
  std::memcpy(bytes + static_cast<size_t>(i) * sizeof value, &value, sizeof value);
}

// Casts of what an integer does not hold are the largest or least one; of NaN 0.
int64_t truncated(double value) {
  constexpr double kPast = 0x1p63;
  if (std::isnan(value)) return 0;
  if (value >= kPast) return std::numeric_limits<int64_t>::max();
  if (value < -kPast) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(value);
}

void store_integer(uint8_t* bytes, ElementType type, int64_t i, int64_t value) {
  switch (size_of(type)) {
    case 1:
      return store(bytes, i, static_cast<uint8_t>(type == ElementType::kBool ? (value != 0 ? 1 : 0) : value));
    case 2:
      return store(bytes, i, static_cast<uint16_t>(value));
    case 4:
      return store(bytes, i, static_cast<uint32_t>(value));
    default:
      return store(bytes, i, value);
  }
}

void store_number(uint8_t* bytes, ElementType type, int64_t i, double value) {
  switch (type) {
    case ElementType::kFloat:
      return store(bytes, i, static_cast<float>(value));
    case ElementType::kDouble:
      return store(bytes, i, value);
    case ElementType::kFloat16:
      return store(bytes, i, float_to_half(static_cast<float>(value)));
    case ElementType::kBFloat16:
      return store(bytes, i, float_to_bfloat(static_cast<float>(value)));
    case ElementType::kBool:
      return store(bytes, i, static_cast<uint8_t>(value != 0 ? 1 : 0));
    default:
      return store_integer(bytes, type, i, truncated(value));
  }
}

Result<Tensor> named(Result<Tensor> tensor, std::string_view name) {
  if (tensor.ok()) tensor->name = name;
  return tensor;
}

}  // namespace

int64_t size_of(ElementType type) {
  const ElementInfo* info = find(type);
  return info == nullptr ? 0 : info->size;
}
std::string name_of(ElementType type) {
  const ElementInfo* info = find(type);
  return info == nullptr ? fmt::format("type {}", static_cast<int>(type)) : std::string(info->name);
}
bool is_float(ElementType type) { return find(type) != nullptr && find(type)->is_float; }
bool is_integer(ElementType type) { return find(type) != nullptr && find(type)->is_integer; }

int64_t Tensor::integer(int64_t i) const {
  switch (stored) {
    case ElementType::kInt64:
    case ElementType::kUint64:
      return load<int64_t>(*this, i);
    case ElementType::kInt32:
      return load<int32_t>(*this, i);
    case ElementType::kUint32:
      return load<uint32_t>(*this, i);
    case ElementType::kInt16:
      return load<int16_t>(*this, i);
    case ElementType::kUint16:
      return load<uint16_t>(*this, i);
    case ElementType::kInt8:
    case ElementType::kInt4:
    case ElementType::kInt2:
      return load<int8_t>(*this, i);
    case ElementType::kUint8:
    case ElementType::kUint4:
    case ElementType::kUint2:
    case ElementType::kBool:
      return load<uint8_t>(*this, i);
    default:
      return truncated(number(i));
  }
}

double Tensor::number(int64_t i) const {
  switch (stored) {
    case ElementType::kFloat:
      return load<float>(*this, i);
    case ElementType::kDouble:
      return load<double>(*this, i);
    case ElementType::kFloat16:
      return half_to_float(load<uint16_t>(*this, i));
    case ElementType::kBFloat16:
      return bfloat_to_float(load<uint16_t>(*this, i));
    default:
      return static_cast<double>(integer(i));
  }
}

std::vector<float> Tensor::floats() const {
  std::vector<float> values(static_cast<size_t>(count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(number(static_cast<int64_t>(i)));
  return values;
}

std::vector<int64_t> Tensor::integers() const {
  std::vector<int64_t> values(static_cast<size_t>(count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = integer(static_cast<int64_t>(i));
  return values;
}

int64_t elements_of(const Ints& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count = program::saturated_product(count, size);
  return count;
}

Result<Ints> broadcast_sizes(const Ints& a, const Ints& b) {
  Ints y(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < y.size(); ++i) {
    const int64_t left = i < a.size() ? a[a.size() - 1 - i] : 1, right = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (left != right && left != 1 && right != 1)
      return make_error(ErrorCode::kShapeMismatch, "[onnx] sizes that broadcast, got {} and {}", program::to_string(a),
                        program::to_string(b));
    y[y.size() - 1 - i] = left == 1 ? right : left;
  }
  return y;
}

Result<Folding::Filled> Folding::make(ElementType type, Ints sizes) {
  const int64_t bytes = program::saturated_product(elements_of(sizes), size_of(type));
  if (size_of(type) == 0) return make_error(ErrorCode::kUnsupported, "[onnx] numbers, got {}", name_of(type));
  if (bytes > left_)
    return make_error(ErrorCode::kUnsupported, "[onnx] constants that are computed of at most {} more bytes, got {}", left_,
                      bytes);
  left_ -= bytes;
  auto owned = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(bytes));
  uint8_t* const data = owned->data();
  const std::span<const uint8_t> view(*owned);
  return Filled{{type, type, std::move(sizes), view, std::move(owned)}, data};
}

Result<Tensor> Folding::of_numbers(ElementType type, Ints sizes, const std::function<double(int64_t)>& number) {
  BITLAB_TRY(Filled filled, make(type, std::move(sizes)));
  const int64_t count = filled.tensor.count();
  for (int64_t i = 0; i < count; ++i) store_number(filled.bytes, type, i, number(i));
  return filled.tensor;
}

Result<Tensor> Folding::of_integers(ElementType type, Ints sizes, const std::function<int64_t(int64_t)>& number) {
  BITLAB_TRY(Filled filled, make(type, std::move(sizes)));
  const int64_t count = filled.tensor.count();
  for (int64_t i = 0; i < count; ++i) {
    if (is_float(type)) {
      store_number(filled.bytes, type, i, static_cast<double>(number(i)));
    } else {
      store_integer(filled.bytes, type, i, number(i));
    }
  }
  return filled.tensor;
}

Result<Tensor> Folding::picked(const Tensor& x, Ints sizes, const std::function<int64_t(int64_t)>& from) {
  BITLAB_TRY(Filled filled, make(x.stored, std::move(sizes)));
  filled.tensor.type = x.type, filled.tensor.name = x.name;
  const auto size = static_cast<size_t>(size_of(x.stored));
  const int64_t count = filled.tensor.count();
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(filled.bytes + static_cast<size_t>(i) * size, x.bytes.data() + static_cast<size_t>(from(i)) * size, size);
  return filled.tensor;
}

Result<Tensor> Folding::strided(const Tensor& x, const program::StridedView& view) {
  Ints at(view.sizes.size(), 0);
  int64_t place = view.offset;
  return picked(x, view.sizes, [&](int64_t) {
    const int64_t from = place;
    for (size_t d = view.sizes.size(); d-- > 0;) {
      place += view.strides[d];
      if (++at[d] < view.sizes[d]) break;
      place -= view.strides[d] * view.sizes[d];
      at[d] = 0;
    }
    return from;
  });
}

Result<Tensor> Folding::permuted(const Tensor& x, const Ints& dims) {
  return strided(x, program::StridedView(x.sizes).permuted(dims));
}

Result<Tensor> Folding::broadcast(const Tensor& x, const Ints& sizes) {
  if (x.sizes == sizes) return x;
  return strided(x, program::StridedView(x.sizes).broadcast(sizes));
}

Result<Tensor> Folding::cast(const Tensor& x, ElementType type) {
  if (x.type == type) return x;
  const bool is_half = x.type == ElementType::kFloat16 || x.type == ElementType::kBFloat16;
  if (is_half && type == ElementType::kFloat) {
    Tensor widened = x;
    widened.type = type;
    return widened;
  }
  return named(is_float(x.type) ? of_numbers(type, x.sizes, [&](int64_t i) { return x.number(i); })
                                : of_integers(type, x.sizes, [&](int64_t i) { return x.integer(i); }),
               x.name);
}

Result<Tensor> Folding::unpacked(const Tensor& x) {
  if (x.stored == x.type) return x;
  return named(of_numbers(x.type, x.sizes, [&](int64_t i) { return x.number(i); }), x.name);
}

Result<Tensor> Folding::binary(const Tensor& a, const Tensor& b, ElementType type,
                               const std::function<double(double, double)>& f,
                               const std::function<int64_t(int64_t, int64_t)>& g) {
  BITLAB_TRY(const Ints sizes, broadcast_sizes(a.sizes, b.sizes));
  BITLAB_TRY(const Tensor left, broadcast(a, sizes));
  BITLAB_TRY(const Tensor right, broadcast(b, sizes));
  const bool has_floats = is_float(a.type) || is_float(b.type);
  if (has_floats && f == nullptr)
    return make_error(ErrorCode::kCorrupt, "[onnx] integers for an operator of integers, got {} and {}", name_of(a.type),
                      name_of(b.type));
  if (!has_floats && g != nullptr)
    return named(of_integers(type, sizes, [&](int64_t i) { return g(left.integer(i), right.integer(i)); }), a.name);
  return named(of_numbers(type, sizes, [&](int64_t i) { return f(left.number(i), right.number(i)); }), a.name);
}

}  // namespace bitlab::format::onnx
