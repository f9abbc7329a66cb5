#include "bitlab/format/onnx/internal/pasts.h"

#include <algorithm>
#include <map>
#include <string>

namespace bitlab::format::onnx {
namespace {

// The inputs of an operator that are pasts, and which of its outputs continue them.
struct Slot {
  std::string_view type;
  size_t input, output;
};
constexpr Slot kSlots[] = {
    {"Concat", 0, 0},    {"GroupQueryAttention", 3, 1}, {"GroupQueryAttention", 4, 2}, {"Attention", 4, 1},
    {"Attention", 5, 2}, {"MultiHeadAttention", 6, 1},  {"MultiHeadAttention", 7, 2}};

const ModelPort* port_of(const std::vector<ModelPort>& ports, std::string_view name) {
  const auto found = std::find_if(ports.begin(), ports.end(), [&](const ModelPort& port) { return port.name == name; });
  return found == ports.end() ? nullptr : &*found;
}

bool has_word(std::string_view name, std::string_view word) { return name.find(word) != std::string_view::npos; }

bool counts(ElementType type) { return type == ElementType::kInt64 || type == ElementType::kInt32; }

class Search {
 public:
  explicit Search(const ModelFile& model) : model_(model) {}

  Pasts run() {
    for (const ModelPort& port : model_.outputs) outputs_[port.name] = port.name;
    walk(model_, 0);
    if (!pasts_.all.empty()) name_others();
    return std::move(pasts_);
  }

 private:
  // Outputs of branches are those of the node.
  void walk(const ModelGraph& graph, int depth) {
    constexpr int kMost = 8;
    if (depth > kMost) return;
    for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
      const bool is_copy = (node->type == "Identity" || node->type == "Cast") && node->inputs.size() == 1;
      if (is_copy && outputs_.contains(node->outputs[0])) outputs_.try_emplace(node->inputs[0], outputs_[node->outputs[0]]);
      if (node->type == "If") look_inside(*node, depth);
      for (const Slot& slot : kSlots)
        if (slot.type == node->type) look_at(*node, slot);
    }
  }

  void look_inside(const ModelNode& node, int depth) {
    if (const ModelPort* port = port_of(model_.inputs, node.inputs[0]); port != nullptr && port->type == ElementType::kBool)
      switches_.push_back(port->name);
    for (const ModelAttribute& attribute : node.attributes) {
      if (attribute.graph == nullptr) continue;
      const auto& own = attribute.graph->outputs;
      for (size_t i = 0; i < std::min(own.size(), node.outputs.size()); ++i)
        if (const auto found = outputs_.find(node.outputs[i]); found != outputs_.end())
          outputs_.try_emplace(own[i].name, found->second);
      walk(*attribute.graph, depth + 1);
    }
  }

  void look_at(const ModelNode& node, const Slot& slot) {
    const bool is_concat = slot.type == "Concat";
    if (node.inputs.size() <= slot.input || node.outputs.size() <= slot.output || (is_concat && node.inputs.size() != 2))
      return;
    const ModelPort* port = port_of(model_.inputs, node.inputs[slot.input]);
    const auto output = outputs_.find(node.outputs[slot.output]);
    if (port == nullptr || output == outputs_.end() || pasts_.find(port->name) != nullptr) return;
    const auto rank = static_cast<int64_t>(port->shape.size());
    int64_t axis = 2;
    if (is_concat) axis = node.find("axis") == nullptr ? 0 : node.find("axis")->integer;
    if (axis < 0) axis += rank;
    const bool is_open =
        rank >= 3 && axis > 0 && axis < rank && !std::holds_alternative<int64_t>(port->shape[static_cast<size_t>(axis)]);
    if (is_open) pasts_.all.push_back({port->name, output->second, static_cast<size_t>(axis)});
  }

  // Whether no other input has the last size of a mask: that of something else, an encoder's say, is one that is given.
  bool has_own_size(const ModelPort& mask) const {
    const auto* size = std::get_if<std::string_view>(&mask.shape.back());
    if (size == nullptr) return !std::holds_alternative<int64_t>(mask.shape.back());
    return std::none_of(model_.inputs.begin(), model_.inputs.end(), [&](const ModelPort& port) {
      return !has_word(port.name, "mask") &&
             std::find(port.shape.begin(), port.shape.end(), mask.shape.back()) != port.shape.end();
    });
  }

  void name_others() {
    for (const ModelPort& port : model_.inputs) {
      if (pasts_.find(port.name) != nullptr) continue;
      const bool is_mask = has_word(port.name, "mask") && port.shape.size() == 2 && has_own_size(port);
      if (is_mask) {
        pasts_.masks.push_back(port.name);
      } else if (has_word(port.name, "position") && counts(port.type)) {
        pasts_.positions.push_back(port.name);
      } else if (pasts_.tokens.empty() && port.shape.size() >= 2 && !has_word(port.name, "mask")) {
        pasts_.tokens = port.name;
      }
    }
    pasts_.switches = switches_;
  }

  const ModelFile& model_;
  std::map<std::string_view, std::string_view> outputs_;  // names of values: the output of the model that each is
  std::vector<std::string_view> switches_;
  Pasts pasts_;
};

}  // namespace

const Past* Pasts::find(std::string_view input) const {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Past& past) { return past.input == input; });
  return found == all.end() ? nullptr : &*found;
}

bool Pasts::has(std::string_view input) const {
  if (find(input) != nullptr) return true;
  const auto names = {&masks, &positions, &switches};
  return std::any_of(names.begin(), names.end(),
                     [&](const auto* list) { return std::find(list->begin(), list->end(), input) != list->end(); });
}

bool Pasts::continues_into(std::string_view output) const {
  return std::any_of(all.begin(), all.end(), [&](const Past& past) { return past.output == output; });
}

Pasts pasts_of(const ModelFile& model) { return Search(model).run(); }

}  // namespace bitlab::format::onnx
