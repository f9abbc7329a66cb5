// A decoder found in a program, from its logits upwards.
#include <algorithm>
#include <cmath>
#include <set>

#include "bitlab/format/decoder/decoder.h"

namespace bitlab::format::decoder {
namespace {

using program::Node;
using program::Op;
using program::Program;
using program::Shape;
using program::ValueId;

class Matcher {
 public:
  Matcher(const Program& p, std::string_view where) : p_(p), where_(where), producers_(p.values.size(), nullptr) {
    for (const Node& node : p.nodes)
      for (const ValueId id : node.outputs) producers_[static_cast<size_t>(id)] = &node;
  }

  Result<Decoder> match() {
    if (p_.outputs.size() != 1 || p_.inputs.size() != 1)
      return unsupported("a decoder of one input and one output", "{}", to_string(p_.signature()));
    BITLAB_TRY(ValueId x, product(Part::kHead, p_.outputs.front().value));
    BITLAB_TRY(x, norm(Part::kNorm, x));
    while (!is(x, {Op::embedding, Op::ternary_embedding})) {
      layer_ = c_.layers++;
      BITLAB_TRY(x, feed_forward(x));
      BITLAB_TRY(x, attention(x));
    }
    if (c_.layers == 0) return unsupported("a decoder with layers", "none");
    BITLAB_RETURN_IF_ERROR(embedding(x));
    for (const Node& node : p_.nodes)
      if (!seen_.contains(&node)) return refused(node, "nothing beside a decoder");
    number_layers();
    BITLAB_RETURN_IF_ERROR(check(c_, where_));
    return Decoder{c_, std::move(parts_)};
  }

 private:
  template <class... Args>
  Error unsupported(std::string_view expectation, fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::kUnsupported, "[{}] {}, got {}", where_, expectation,
                      fmt::vformat(format, fmt::make_format_args(args...)));
  }
  Error refused(const Node& node, std::string_view expectation) const {
    return unsupported(expectation, "{} (node={})", program::name(node.op), node.name);
  }

  bool is(ValueId id, std::initializer_list<Op> ops) const {
    const Node* node = producers_[static_cast<size_t>(id)];
    return node != nullptr && std::find(ops.begin(), ops.end(), node->op) != ops.end();
  }
  // The node that makes a value, which must be one of these.
  Result<const Node*> producer(ValueId id, std::initializer_list<Op> ops, std::string_view what) {
    const Node* node = producers_[static_cast<size_t>(id)];
    if (node == nullptr) return unsupported(what, "a value that enters (value={})", p_.value(id).name);
    if (!is(id, ops)) return refused(*node, what);
    seen_.insert(node);
    return node;
  }
  const Shape& shape(ValueId id) const { return p_.value(id).shape; }

  // All layers must say the same of it.
  template <class T>
  Status agree(T& known, const T& found, const Node& node, std::string_view what) {
    if (known == T{}) known = found;
    if (known == found) return {};
    return unsupported(fmt::format("{} of {} in all layers", what, known), "{} (node={})", found, node.name);
  }
  void keep(Part part, const Found& found) { parts_[{part, info(part).is_of_layer() ? layer_ : 0}] = found; }

  // The x of a product.
  Result<ValueId> product(Part part, ValueId y) {
    BITLAB_TRY(const Node* node,
               producer(y, {Op::linear, Op::ternary_linear}, fmt::format("a product as {}", info(part).name)));
    if (node->op == Op::ternary_linear && node->attribute<std::string>("activation") != "int8")
      return unsupported("int8 activations by token", "{} (node={})", node->attribute<std::string>("activation"),
                         node->name);
    keep(part, {node->inputs[1], node->inputs[2]});
    return node->inputs[0];
  }
  Result<ValueId> norm(Part part, ValueId y) {
    BITLAB_TRY(const Node* node, producer(y, {Op::rms_norm}, fmt::format("an RMS norm as {}", info(part).name)));
    if (node->attribute<int64_t>("dims") != 1 || node->inputs[1] == program::kNone)
      return refused(*node, "a norm over one dimension, with weights");
    BITLAB_RETURN_IF_ERROR(agree(c_.norm_eps, node->attribute<double>("eps"), *node, "an epsilon"));
    keep(part, {node->inputs[1], program::kNone});
    return node->inputs[0];
  }
  // Of the sub-norms, which all layers have or none.
  Result<ValueId> sub_norm(Part part, ValueId y) {
    const bool found = is(y, {Op::rms_norm});
    if (!sub_norms_) sub_norms_ = found;
    if (found != *sub_norms_) return unsupported("sub-norms in all parts or none", "{}", found ? "one" : "none");
    c_.sub_norms = found;
    return found ? norm(part, y) : Result<ValueId>(y);
  }

  // What a product's result is added to. The sum's operands may stand in either order.
  Result<std::pair<ValueId, ValueId>> sum(ValueId y) {
    BITLAB_TRY(const Node* node, producer(y, {Op::add}, "a residual sum"));
    const bool swapped = is(node->inputs[0], {Op::linear, Op::ternary_linear});
    return std::pair(node->inputs[swapped ? 1 : 0], node->inputs[swapped ? 0 : 1]);
  }

  Result<ValueId> feed_forward(ValueId y) {
    BITLAB_TRY(const auto terms, sum(y));
    BITLAB_TRY(ValueId x, product(Part::kDown, terms.second));
    BITLAB_TRY(x, sub_norm(Part::kFeedForwardSubNorm, x));
    BITLAB_TRY(const Node* gated, producer(x, {Op::mul}, "a gated feed-forward part"));
    const bool swapped = is(gated->inputs[0], {Op::linear, Op::ternary_linear});
    BITLAB_TRY(const ValueId gate, activation(gated->inputs[swapped ? 1 : 0]));
    BITLAB_TRY(const ValueId n, product(Part::kGate, gate));
    BITLAB_TRY(const ValueId other, product(Part::kUp, gated->inputs[swapped ? 0 : 1]));
    if (n != other) return refused(*gated, "a gate and what it gates of the same values");
    BITLAB_TRY(x, norm(Part::kFeedForwardNorm, n));
    if (x != terms.first) return refused(*gated, "a sum with what the part's norm reads");
    return x;
  }
  Result<ValueId> activation(ValueId y) {
    Activation found = Activation::kSilu;
    BITLAB_TRY(const Node* node, producer(y, {Op::silu, Op::mul}, "SiLU or squared ReLU"));
    if (node->op == Op::mul) {
      found = Activation::kSquaredRelu;
      if (node->inputs[0] != node->inputs[1]) return refused(*node, "SiLU or squared ReLU");
      BITLAB_TRY(node, producer(node->inputs[0], {Op::relu}, "SiLU or squared ReLU"));
    }
    if (!activation_) activation_ = found;
    if (found != *activation_) return refused(*node, "one activation in all layers");
    c_.activation = found;
    return node->inputs[0];
  }

  // [batch, tokens, heads d] behind a product -> [batch, heads, tokens, d]
  Result<ValueId> heads(Part part, ValueId y, int64_t& count) {
    BITLAB_TRY(const Node* turned, producer(y, {Op::permute}, "tokens behind heads"));
    BITLAB_RETURN_IF_ERROR(check_turn(*turned));
    BITLAB_TRY(const Node* parts, producer(turned->inputs[0], {Op::reshape}, "heads as parts of a vector"));
    const Shape& found = shape(y);
    if (found.size() != 4 || !found[1].is_number() || !found[3].is_number())
      return refused(*parts, "[batch, heads, tokens, values]");
    BITLAB_RETURN_IF_ERROR(agree(count, found[1].factor, *parts, "a number of heads"));
    BITLAB_RETURN_IF_ERROR(agree(c_.head_dim, found[3].factor, *parts, "a size of heads"));
    return product(part, parts->inputs[0]);
  }
  Status check_turn(const Node& node) const {
    if (node.attribute<program::Sizes>("dims") != program::Sizes{0, 2, 1, 3})
      return refused(node, "tokens and heads in each other's place");
    return {};
  }
  Result<ValueId> unrotated(ValueId y) {
    BITLAB_TRY(const Node* node, producer(y, {Op::rotary}, "rotary embeddings"));
    BITLAB_RETURN_IF_ERROR(agree(c_.rope_theta, node->attribute<double>("theta"), *node, "a base"));
    BITLAB_TRY(const Node* at, producer(node->inputs[1], {Op::positions}, "positions of tokens"));
    static_cast<void>(at);
    return node->inputs[0];
  }

  Result<ValueId> attention(ValueId y) {
    BITLAB_TRY(const auto terms, sum(y));
    BITLAB_TRY(ValueId x, product(Part::kOutput, terms.second));
    BITLAB_TRY(x, sub_norm(Part::kAttentionSubNorm, x));
    BITLAB_TRY(const Node* joined, producer(x, {Op::reshape}, "heads side by side"));
    BITLAB_TRY(const Node* turned, producer(joined->inputs[0], {Op::permute}, "tokens in front of heads"));
    BITLAB_RETURN_IF_ERROR(check_turn(*turned));
    BITLAB_TRY(const Node* node, producer(turned->inputs[0], {Op::attention}, "attention"));
    if (node->attribute<int64_t>("causal") != 1 || node->inputs[3] != program::kNone)
      return refused(*node, "causal attention without a mask");
    BITLAB_TRY(const ValueId q, unrotated(node->inputs[0]));
    BITLAB_TRY(const ValueId k, unrotated(node->inputs[1]));
    BITLAB_TRY(const ValueId of_q, heads(Part::kQuery, q, c_.heads));
    BITLAB_TRY(const ValueId of_k, heads(Part::kKey, k, c_.kv_heads));
    BITLAB_TRY(const ValueId of_v, heads(Part::kValue, node->inputs[2], c_.kv_heads));
    const double scale = node->attribute<double>("scale"), expected = 1 / std::sqrt(static_cast<double>(c_.head_dim));
    if (std::abs(scale - expected) > 1e-6 * expected)
      return unsupported(fmt::format("a scale of {}", expected), "{} (node={})", scale, node->name);
    if (of_q != of_k || of_k != of_v) return refused(*node, "queries, keys and values of the same tokens");
    BITLAB_TRY(x, norm(Part::kAttentionNorm, of_q));
    if (x != terms.first) return refused(*node, "a sum with what the part's norm reads");
    return x;
  }

  Status embedding(ValueId x) {
    BITLAB_TRY(const Node* node, producer(x, {Op::embedding, Op::ternary_embedding}, "an embedding"));
    const ValueId ids = node->inputs[0];
    if (ids != p_.inputs.front() || shape(ids).size() != 2) return refused(*node, "an embedding of tokens [batch, tokens]");
    const Shape& table = shape(node->inputs[1]);
    c_.vocabulary = table[0].factor;
    c_.dim = table[1].factor;
    c_.hidden = shape(parts_.at({Part::kGate, 0}).weight)[0].factor;
    const auto symbol = program::single_symbol(shape(ids)[1]);
    constexpr int64_t kMostPositions = 1 << 24;  // that rotary embeddings take
    c_.context = std::min(kMostPositions, symbol ? p_.symbols[*symbol].max : shape(ids)[1].factor);
    keep(Part::kEmbedding, {node->inputs[1], program::kNone});
    return {};
  }

  // They were met from the last one on.
  void number_layers() {
    std::map<std::pair<Part, int64_t>, Found> numbered;
    for (const auto& [key, found] : parts_)
      numbered[{key.first, info(key.first).is_of_layer() ? c_.layers - 1 - key.second : 0}] = found;
    parts_ = std::move(numbered);
  }

  const Program& p_;
  std::string_view where_;
  std::vector<const Node*> producers_;
  std::set<const Node*> seen_;
  Config c_;
  std::optional<bool> sub_norms_;
  std::optional<Activation> activation_;
  std::map<std::pair<Part, int64_t>, Found> parts_;
  int64_t layer_ = 0;
};

}  // namespace

Result<Decoder> match(const Program& program, std::string_view where) { return Matcher(program, where).match(); }

}  // namespace bitlab::format::decoder
