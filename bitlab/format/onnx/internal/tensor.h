// Tensors whose elements are known while a model is read, and what can be computed of them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bitlab/format/onnx/internal/graph.h"
#include "bitlab/program/strided_view.h"

namespace bitlab::format::onnx {

// What a TensorProto.DataType is; those of fewer than eight bits are unpacked into bytes where a tensor is read.
int64_t size_of(ElementType type);  // bytes of an element; 0: a type that is not read
std::string name_of(ElementType type);
bool is_float(ElementType type);
bool is_integer(ElementType type);  // without bool

// Row-major elements. Models in 16 bits are computed in float32: what is read as float16 or bfloat16 is kFloat that is stored so.
struct Tensor {
  ElementType type = ElementType::kFloat;
  ElementType stored = ElementType::kFloat;  // of floats that are kept in 16 bits: kFloat16 or kBFloat16; else `type`
  Ints sizes;
  std::span<const uint8_t> bytes;
  std::shared_ptr<const void> owner = nullptr;  // null: the file's
  std::string_view name{};                      // of the initializer that it was made of

  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): no tensor is of a type that is not read
  int64_t count() const { return static_cast<int64_t>(bytes.size()) / size_of(stored); }
  double number(int64_t i) const;    // of any type
  int64_t integer(int64_t i) const;  // of integers and bool
  std::vector<float> floats() const;
  std::vector<int64_t> integers() const;
};

int64_t elements_of(const Ints& sizes);  // saturates at program::kManyElements

// How much folding may allocate: what the file's size warrants.
class Folding {
 public:
  explicit Folding(size_t file_bytes) : left_(static_cast<int64_t>(file_bytes) * 16 + (int64_t{8} << 20)) {}
  // A tensor to be filled; null where that is too much.
  struct Filled {
    Tensor tensor;
    uint8_t* bytes = nullptr;
  };
  Result<Filled> make(ElementType type, Ints sizes);

  Result<Tensor> of_numbers(ElementType type, Ints sizes, const std::function<double(int64_t)>& number);
  Result<Tensor> of_integers(ElementType type, Ints sizes, const std::function<int64_t(int64_t)>& number);
  // Element i of the result is from(i) of x.
  Result<Tensor> picked(const Tensor& x, Ints sizes, const std::function<int64_t(int64_t)>& from);
  // The elements of x that a view of its sizes has, in their order.
  Result<Tensor> strided(const Tensor& x, const program::StridedView& view);
  Result<Tensor> permuted(const Tensor& x, const Ints& dims);
  Result<Tensor> broadcast(const Tensor& x, const Ints& sizes);  // x must broadcast
  Result<Tensor> cast(const Tensor& x, ElementType type);
  Result<Tensor> unpacked(const Tensor& x);  // stored as its type says
  // f of elements that broadcast, as doubles or, where both are integers or bool, as int64.
  Result<Tensor> binary(const Tensor& a, const Tensor& b, ElementType type, const std::function<double(double, double)>& f,
                        const std::function<int64_t(int64_t, int64_t)>& g);

 private:
  int64_t left_;
};
// NumPy's rule. Error: ShapeMismatch.
Result<Ints> broadcast_sizes(const Ints& a, const Ints& b);
inline Tensor reshaped(Tensor x, Ints sizes) {
  x.sizes = std::move(sizes);
  return x;
}

}  // namespace bitlab::format::onnx
