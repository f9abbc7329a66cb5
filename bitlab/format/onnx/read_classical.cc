// Readers of ai.onnx.ml: the linear models that scikit-learn's networks stand beside.
#include "bitlab/format/onnx/internal/expansion.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Shape;

namespace {

constexpr auto kFloats = static_cast<int64_t>(ElementType::kFloat);

Result<Tensor> attribute_numbers(Reader& r, std::string_view attribute, Ints sizes) {
  const ModelAttribute* found = r.node().find(attribute);
  const size_t count = found == nullptr ? 0 : found->numbers.size();
  if (static_cast<int64_t>(count) != elements_of(sizes))
    return r.corrupt("{} numbers as {}, got {}", elements_of(sizes), attribute, count);
  return r.folding.of_numbers(ElementType::kFloat, std::move(sizes),
                              [&](int64_t i) { return found->numbers[static_cast<size_t>(i)]; });
}

// How many numbers a row of the input has.
Result<int64_t> features_of(const Reader& r) {
  const Shape x = r.shape(0);
  if (x.size() == 2 && x[1].is_number()) return x[1].factor;
  return r.refuse("rows of a number of values that is known, got {}", r.show(x));
}

// Products of rows with those of the coefficients, of which there are as many as results, and what is added.
Result<std::string_view> scores(Reader& r, Expansion& e, int64_t results) {
  BITLAB_TRY(const int64_t features, features_of(r));
  BITLAB_TRY(Tensor weights, attribute_numbers(r, "coefficients", {results, features}));
  std::vector<std::string_view> inputs{e.node("Cast", {e.input(0)}, {with_integer("to", kFloats)}), e.given(weights)};
  if (r.node().find("intercepts") != nullptr) {
    BITLAB_TRY(Tensor bias, attribute_numbers(r, "intercepts", {results}));
    inputs.push_back(e.given(bias));
  }
  return e.node("Gemm", inputs, {with_integer("transB", 1)});
}

}  // namespace

Result<Operands> read_scaler(Reader& r) {
  BITLAB_TRY(const int64_t features, features_of(r));
  Expansion e(r);
  std::string_view y = e.node("Cast", {e.input(0)}, {with_integer("to", kFloats)});
  for (const auto& [key, type] : {std::pair{"offset", "Sub"}, std::pair{"scale", "Mul"}}) {
    const ModelAttribute* found = r.node().find(key);
    if (found == nullptr) continue;
    BITLAB_TRY(Tensor by, attribute_numbers(r, key, {found->numbers.size() == 1 ? 1 : features}));
    y = e.node(type, {y, e.given(by)});
  }
  return e.results({y});
}

Result<Operands> read_linear_regressor(Reader& r) {
  if (r.text("post_transform", "NONE") != "NONE") return r.refuse("no post_transform, got one");
  const int64_t targets = r.integer("targets", 1);
  if (targets < 1 || targets > program::kMaxElements) return r.corrupt("targets from 1, got {}", targets);
  Expansion e(r);
  BITLAB_TRY(const std::string_view y, scores(r, e, targets));
  return e.results({y});
}

// The label of the largest score, and the scores.
Result<Operands> read_linear_classifier(Reader& r) {
  const auto labels = r.list("classlabels_ints");
  if (!labels || labels->size() < 2) return r.refuse("labels that are integers, got others");
  const std::string transform = r.text("post_transform", "NONE");
  const ModelAttribute* intercepts = r.node().find("intercepts");
  const bool has_one = intercepts != nullptr && intercepts->numbers.size() < labels->size();  // of the second of two labels
  if (has_one || (transform != "NONE" && transform != "SOFTMAX" && transform != "LOGISTIC"))
    return r.refuse("a score for each label, as it is or by SOFTMAX or LOGISTIC, got {}", transform);
  Expansion e(r);
  BITLAB_TRY(std::string_view y, scores(r, e, static_cast<int64_t>(labels->size())));
  const std::string_view most = e.node("ArgMax", {y}, {with_integer("axis", 1), with_integer("keepdims", 0)});
  const std::string_view label = e.node("Gather", {e.given(tensor_of(*labels)), most});
  if (transform == "SOFTMAX") y = e.node("Softmax", {y}, {with_integer("axis", 1)});
  if (transform == "LOGISTIC") y = e.node("Sigmoid", {y});
  return e.results({label, y});
}

// Places of the last dimension; of a vector, as a row.
Result<Operands> read_array_feature_extractor(Reader& r) {
  const Shape x = r.shape(0);
  if (x.empty()) return r.corrupt("values to choose of, got a number");
  Expansion e(r);
  const std::string_view places = e.node("Reshape", {e.input(1), e.given(tensor_of({-1}))});
  const std::string_view y =
      e.node("Gather", {e.input(0), places}, {with_integer("axis", static_cast<int64_t>(x.size()) - 1)});
  return e.results({x.size() > 1 ? y : e.node("Unsqueeze", {y, e.given(tensor_of({0}))})});
}

Result<Operands> read_normalizer(Reader& r) {
  const std::string norm = r.text("norm", "MAX");
  if (norm != "L1" && norm != "L2") return r.refuse("a norm of L1 or L2, got {}", norm);
  Expansion e(r);
  const std::string_view x = e.node("Cast", {e.input(0)}, {with_integer("to", kFloats)});
  return e.results({e.node("LpNormalization", {x}, {with_integer("p", norm == "L1" ? 1 : 2)})});
}

}  // namespace bitlab::format::onnx
