// A ModelProto as it lies in a file: what onnx.proto calls its fields. Names and texts point into the file.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "bitlab/format/onnx/internal/tensor.h"

namespace bitlab::format::onnx {

// The bytes of a file beside the model's that tensors lie in. Error: Unsupported, where models of no folder are read.
using Beside = std::function<Result<Tensor>(std::string_view location)>;

struct ModelGraph;

struct ModelAttribute {
  std::string_view name;
  int64_t type = 0;  // AttributeProto.AttributeType; 0: none was given
  int64_t integer = 0;
  float number = 0;
  std::string_view text;
  Ints integers{};
  std::vector<float> numbers{};
  std::vector<std::string_view> texts{};
  std::optional<Tensor> tensor{};
  std::shared_ptr<const ModelGraph> graph = nullptr;
  std::string_view reference{};  // in a function: the attribute of its call that this one is
};

struct ModelNode {
  std::string_view name, type, domain;
  std::vector<std::string_view> inputs, outputs;  // empty: left out
  std::vector<ModelAttribute> attributes;

  const ModelAttribute* find(std::string_view key) const;
};

struct ModelPort {
  using Size = std::variant<std::monostate, int64_t, std::string_view>;  // unknown, a number, a name
  std::string_view name;
  ElementType type{};
  bool has_shape = false;
  std::vector<Size> shape;
};

struct NamedTensor {
  std::string_view name;
  Tensor tensor;
};

struct ModelGraph {
  std::vector<ModelNode> nodes;
  std::vector<NamedTensor> tensors;
  std::vector<ModelPort> inputs, outputs;
};

// An operator that the model defines by nodes.
struct ModelFunction {
  std::string_view name, domain;
  int64_t opset = 0;  // of ONNX's own operators; 0: the model's
  std::vector<std::string_view> inputs, outputs;
  std::vector<ModelAttribute> defaults;  // of attributes that a call may leave out
  std::vector<ModelNode> nodes;
};

struct ModelFile : ModelGraph {
  int64_t opset = 0;  // of ONNX's own operators
  std::vector<ModelFunction> functions;
  std::vector<std::pair<std::string_view, std::string_view>> metadata;
};

// Errors: Corrupt, naming the message and the byte in it; Unsupported for what is not read.
Result<ModelFile> read_model(std::span<const uint8_t> bytes, const Beside& beside);

}  // namespace bitlab::format::onnx
