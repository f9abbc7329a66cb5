// Readers of control flow: branches, and loops whose number of steps is known, step by step.
#include <algorithm>
#include <limits>

#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr int64_t kMostSteps = 1024;

Result<const ModelGraph*> body_of(const Reader& r, std::string_view attribute) {
  const ModelAttribute* found = r.node().find(attribute);
  if (found == nullptr || found->graph == nullptr) return r.corrupt("a graph as {}, got none", attribute);
  return found->graph.get();
}

InnerGraph inner_of(const ModelGraph& graph) {
  InnerGraph inner{&graph.nodes, &graph.tensors, {}, {}, nullptr};
  for (const ModelPort& port : graph.outputs) inner.outputs.push_back(port.name);
  return inner;
}

// Both branches, and for each result the one that the condition says.
Result<Operands> chosen(Reader& r, const ModelGraph& then, const ModelGraph& otherwise) {
  BITLAB_TRY(const Operands a, r.inner(inner_of(then)));
  BITLAB_TRY(const Operands b, r.inner(inner_of(otherwise)));
  if (a.size() != b.size()) return r.corrupt("branches of as many outputs, got {} and {}", a.size(), b.size());
  BITLAB_TRY(const ValueId condition, r.activation(0));
  if (program::volume(r.shape_of(condition)) != program::Dim(1))
    return r.corrupt("one condition, got {}", r.show(r.shape_of(condition)));
  BITLAB_TRY(const ValueId scalar, r.reshape(condition, {}));
  Operands results;
  for (size_t i = 0; i < a.size(); ++i) {
    BITLAB_TRY(const ValueId left, r.computed(a[i]));
    BITLAB_TRY(const ValueId right, r.computed(b[i]));
    if (r.shape_of(left) != r.shape_of(right) || r.of(left).dtype != r.of(right).dtype)
      return r.refuse("branches of one shape where the condition is computed, got {} and {}", r.show(r.shape_of(left)),
                      r.show(r.shape_of(right)));
    BITLAB_TRY(results.emplace_back(), r.emit(Op::where, {scalar, left, right}));
  }
  return results;
}

}  // namespace

Result<Operands> read_if(Reader& r) {
  BITLAB_TRY(const ModelGraph* const then, body_of(r, "then_branch"));
  BITLAB_TRY(const ModelGraph* const otherwise, body_of(r, "else_branch"));
  const Tensor* condition = r.tensor(0);
  if (condition == nullptr) return chosen(r, *then, *otherwise);
  if (condition->count() != 1) return r.corrupt("one condition, got {}", condition->count());
  return r.inner(inner_of(condition->integer(0) != 0 ? *then : *otherwise));
}

// --- loops

namespace {

struct Steps {
  Operands states;
  std::vector<std::vector<ValueId>> shown;  // of each output that is collected, step by step
  bool goes_on = true;
};

// Whether a loop goes on. Error: Unsupported, where that depends on values.
Result<bool> is_true(const Reader& r, const Operand& condition) {
  const Tensor* known = std::get_if<Tensor>(&condition);
  if (known == nullptr || known->count() != 1) return r.refuse("a loop whose number of steps is known, got a condition");
  return known->integer(0) != 0;
}

// One step: results of the body behind `first` are states, the others are collected.
Status step(Reader& r, const ModelGraph& body, Operands inputs, size_t first, Steps& steps) {
  InnerGraph graph = inner_of(body);
  if (body.inputs.size() != inputs.size() || body.outputs.size() < first + steps.states.size())
    return r.corrupt("a body of {} inputs, got {} and {} outputs", inputs.size(), body.inputs.size(), body.outputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) graph.inputs.emplace_back(body.inputs[i].name, std::move(inputs[i]));
  BITLAB_TRY(Operands results, r.inner(graph));
  if (first == 1) {
    BITLAB_TRY(steps.goes_on, is_true(r, results[0]));
  }
  const size_t states = steps.states.size();
  for (size_t i = 0; i < states; ++i) steps.states[i] = std::move(results[first + i]);
  steps.shown.resize(results.size() - first - states);
  for (size_t i = 0; i < steps.shown.size(); ++i) {
    BITLAB_TRY(steps.shown[i].emplace_back(), r.computed(results[first + states + i]));
  }
  return {};
}

}  // namespace

Result<Operands> read_loop(Reader& r) {
  BITLAB_TRY(const ModelGraph* const body, body_of(r, "body"));
  int64_t count = std::numeric_limits<int64_t>::max();
  if (r.has(0)) {
    BITLAB_TRY(const Tensor given, r.known(0, "numbers of steps"));
    if (given.count() != 1 || !is_integer(given.type)) return r.corrupt("a number of steps, got {} values", given.count());
    count = given.integer(0);
  }
  BITLAB_TRY(const Tensor truth, r.folding.of_integers(ElementType::kBool, {}, [](int64_t) { return 1; }));
  Steps steps;
  for (size_t i = 2; i < r.node().inputs.size(); ++i) steps.states.push_back(r.operand(i));
  if (r.has(1)) {
    BITLAB_TRY(steps.goes_on, is_true(r, r.operand(1)));
  }
  int64_t i = 0;
  for (; steps.goes_on && i < count; ++i) {
    if (i == kMostSteps) return r.refuse("up to {} steps, got more", kMostSteps);
    Operands inputs{tensor_of({i}, true), truth};
    inputs.insert(inputs.end(), steps.states.begin(), steps.states.end());
    BITLAB_RETURN_IF_ERROR(step(r, *body, std::move(inputs), 1, steps));
  }
  if (i == 0 && body->outputs.size() > 1 + steps.states.size()) return r.refuse("a loop that begins, got one that does not");
  Operands results = steps.states;
  for (const std::vector<ValueId>& shown : steps.shown) {
    BITLAB_TRY(results.emplace_back(), r.stack(shown, 0));
  }
  return results;
}

namespace {

// What a Scan of opset 9 or later says of its inputs and outputs.
struct Scan {
  const ModelGraph* body = nullptr;
  size_t states = 0, scanned = 0, shown = 0;
  Ints input_axes, input_directions, output_axes, output_directions;
};

Result<Scan> scan_of(const Reader& r) {
  constexpr int64_t kWithoutBatch = 9;  // before, all had a batch in front
  if (r.opset() < kWithoutBatch) return r.refuse("Scan of opset {} or later, got {}", kWithoutBatch, r.opset());
  Scan scan;
  BITLAB_TRY(scan.body, body_of(r, "body"));
  const int64_t scanned = r.integer("num_scan_inputs", 0);
  const size_t inputs = r.node().inputs.size();
  if (scanned < 1 || scanned > static_cast<int64_t>(inputs)) return r.corrupt("inputs that are scanned, got {}", scanned);
  scan.scanned = static_cast<size_t>(scanned), scan.states = inputs - scan.scanned;
  if (scan.body->outputs.size() < scan.states)
    return r.corrupt("a body of at least {} outputs, got {}", scan.states, scan.body->outputs.size());
  scan.shown = scan.body->outputs.size() - scan.states;
  for (const auto& [to, key, count] : {std::tuple{&scan.input_axes, "scan_input_axes", scan.scanned},
                                       std::tuple{&scan.input_directions, "scan_input_directions", scan.scanned},
                                       std::tuple{&scan.output_axes, "scan_output_axes", scan.shown},
                                       std::tuple{&scan.output_directions, "scan_output_directions", scan.shown}}) {
    const auto given = r.list(key);
    *to = given && !given->empty() ? *given : Ints(count, 0);
    if (to->size() != count) return r.corrupt("{} numbers as {}, got {}", count, key, to->size());
  }
  return scan;
}

}  // namespace

Result<Operands> read_scan(Reader& r) {
  BITLAB_TRY(Scan scan, scan_of(r));
  Steps steps;
  for (size_t i = 0; i < scan.states; ++i) steps.states.push_back(r.operand(i));
  std::vector<ValueId> scanned;
  program::Dim count = 0;
  for (size_t i = 0; i < scan.scanned; ++i) {
    const Shape shape = r.shape(scan.states + i);
    BITLAB_TRY(scan.input_axes[i], r.axis(scan.input_axes[i], shape.size()));
    BITLAB_TRY(scanned.emplace_back(), r.activation(scan.states + i));
    const program::Dim& own = shape[static_cast<size_t>(scan.input_axes[i])];
    if (i > 0 && own != count) return r.corrupt("inputs of as many steps, got {} and {}", r.show({count}), r.show({own}));
    count = own;
  }
  if (!count.is_number() || count.factor > kMostSteps)
    return r.refuse("a number of steps that is known, up to {}, got {}", kMostSteps, r.show({count}));
  for (int64_t i = 0; i < count.factor; ++i) {
    Operands inputs = steps.states;
    for (size_t k = 0; k < scan.scanned; ++k) {
      const int64_t at = scan.input_directions[k] != 0 ? count.factor - 1 - i : i, dim = scan.input_axes[k];
      BITLAB_TRY(const ValueId part, r.slice(scanned[k], dim, at, 1));
      Shape shape = r.shape_of(part);
      shape.erase(shape.begin() + dim);
      BITLAB_TRY(inputs.emplace_back(), r.reshape(part, shape));
    }
    BITLAB_RETURN_IF_ERROR(step(r, *scan.body, std::move(inputs), 0, steps));
  }
  Operands results = steps.states;
  for (size_t k = 0; k < scan.shown; ++k) {
    std::vector<ValueId>& shown = steps.shown[k];
    if (scan.output_directions[k] != 0) std::reverse(shown.begin(), shown.end());
    BITLAB_TRY(const int64_t dim, r.axis(scan.output_axes[k], r.shape_of(shown[0]).size() + 1));
    BITLAB_TRY(results.emplace_back(), r.stack(shown, dim));
  }
  return results;
}

}  // namespace bitlab::format::onnx
