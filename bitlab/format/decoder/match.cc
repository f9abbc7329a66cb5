// A decoder or an encoder found in a program, from its output upwards.
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

  Result<Decoder> match_decoder() {
    BITLAB_RETURN_IF_ERROR(check_signature("decoder"));
    BITLAB_TRY(ValueId x, product(Part::kHead, p_.outputs.front().value));
    BITLAB_TRY(x, norm(Part::kNorm, x));
    while (!is(x, {Op::embedding, Op::ternary_embedding})) {
      layer_ = c_.layers++;
      BITLAB_TRY(x, feed_forward(x));
      BITLAB_TRY(x, attention(x));
    }
    if (c_.layers == 0) return unsupported("a decoder with layers", "none");
    BITLAB_RETURN_IF_ERROR(embedding(x));
    c_.hidden = shape(parts_.at({Part::kGate, 0}).weight)[0].factor;
    const auto symbol = program::single_symbol(shape(p_.inputs.front())[1]);
    constexpr int64_t kMostPositions = 1 << 24;  // that rotary embeddings take
    c_.context = std::min(kMostPositions, symbol ? p_.symbols[*symbol].max : shape(p_.inputs.front())[1].factor);
    return finish("decoder");
  }

  Result<Decoder> match_encoder() {
    c_.kind = Kind::kEncoder;
    BITLAB_RETURN_IF_ERROR(check_signature("encoder"));
    BITLAB_TRY(ValueId x, pooled(p_.outputs.front().value));
    BITLAB_TRY(bool is_layer, ends_layer(x));
    for (; is_layer; ++c_.layers) {
      layer_ = c_.layers;
      BITLAB_TRY(x, encoder_feed_forward(x));
      BITLAB_TRY(x, encoder_attention(x));
      BITLAB_TRY(is_layer, ends_layer(x));
    }
    if (c_.layers == 0) return unsupported("an encoder with layers", "none");
    BITLAB_RETURN_IF_ERROR(embeddings(x));
    c_.hidden = shape(parts_.at({Part::kUp, 0}).weight)[0].factor;
    return finish("encoder");
  }

 private:
  Status check_signature(std::string_view what) const {
    if (p_.outputs.size() == 1 && p_.inputs.size() == 1) return {};
    return unsupported(fmt::format("a{} {} of one input and one output", what.front() == 'e' ? "n" : "", what), "{}",
                       to_string(p_.signature()));
  }

  Result<Decoder> finish(std::string_view what) {
    for (const Node& node : p_.nodes)
      if (!seen_.contains(&node))
        return refused(node, fmt::format("nothing beside a{} {}", what.front() == 'e' ? "n" : "", what));
    number_layers();
    BITLAB_RETURN_IF_ERROR(check(c_, where_));
    return Decoder{c_, std::move(parts_)};
  }

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
    const bool is_encoder = c_.kind == Kind::kEncoder;
    BITLAB_TRY(const Node* node, producer(y, {is_encoder ? Op::layer_norm : Op::rms_norm},
                                          fmt::format("{} norm as {}", is_encoder ? "a layer" : "an RMS", info(part).name)));
    if (node->attribute<int64_t>("dims") != 1 || node->inputs[1] == program::kNone)
      return refused(*node, "a norm over one dimension, with weights");
    BITLAB_RETURN_IF_ERROR(agree(c_.norm_eps, node->attribute<double>("eps"), *node, "an epsilon"));
    keep(part, {node->inputs[1], is_encoder ? node->inputs[2] : program::kNone});
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
    BITLAB_RETURN_IF_ERROR(agree(found, *node));
    return node->inputs[0];
  }
  Status agree(Activation found, const Node& node) {
    if (!activation_) activation_ = found;
    if (found != *activation_) return refused(node, "one activation in all layers");
    c_.activation = found;
    return {};
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

  // Heads that stand side by side in each token -> [batch, heads, tokens, d]
  Result<ValueId> separate(ValueId y) {
    BITLAB_TRY(const Node* joined, producer(y, {Op::reshape}, "heads side by side"));
    BITLAB_TRY(const Node* turned, producer(joined->inputs[0], {Op::permute}, "tokens in front of heads"));
    BITLAB_RETURN_IF_ERROR(check_turn(*turned));
    return turned->inputs[0];
  }
  Status check_scale(double scale, const Node& node) const {
    const double expected = 1 / std::sqrt(static_cast<double>(c_.head_dim));
    if (std::abs(scale - expected) <= 1e-6 * expected) return {};
    return unsupported(fmt::format("a scale of {}", expected), "{} (node={})", scale, node.name);
  }

  Result<ValueId> attention(ValueId y) {
    BITLAB_TRY(const auto terms, sum(y));
    BITLAB_TRY(ValueId x, product(Part::kOutput, terms.second));
    BITLAB_TRY(x, sub_norm(Part::kAttentionSubNorm, x));
    BITLAB_TRY(x, separate(x));
    BITLAB_TRY(const Node* node, producer(x, {Op::attention}, "attention"));
    if (node->attribute<int64_t>("causal") != 1 || node->inputs[3] != program::kNone)
      return refused(*node, "causal attention without a mask");
    BITLAB_TRY(const ValueId q, unrotated(node->inputs[0]));
    BITLAB_TRY(const ValueId k, unrotated(node->inputs[1]));
    BITLAB_TRY(const ValueId of_q, heads(Part::kQuery, q, c_.heads));
    BITLAB_TRY(const ValueId of_k, heads(Part::kKey, k, c_.kv_heads));
    BITLAB_TRY(const ValueId of_v, heads(Part::kValue, node->inputs[2], c_.kv_heads));
    BITLAB_RETURN_IF_ERROR(check_scale(node->attribute<double>("scale"), *node));
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
    keep(Part::kEmbedding, {node->inputs[1], program::kNone});
    return {};
  }

  // --- encoders

  // What is pooled.
  Result<ValueId> pooled(ValueId y) {
    if (is(y, {Op::linear, Op::ternary_linear})) {
      c_.pooling = Pooling::kClassifier;
      BITLAB_TRY(const ValueId hidden, product(Part::kClassifier, y));
      BITLAB_TRY(const Node* bounded, producer(hidden, {Op::tanh}, "tanh in front of a classifier"));
      BITLAB_TRY(const ValueId first, product(Part::kPooler, bounded->inputs[0]));
      c_.classes = shape(parts_.at({Part::kClassifier, 0}).weight)[0].factor;
      return first_token(first);
    }
    if (is(y, {Op::mean})) {
      c_.pooling = Pooling::kMean;
      BITLAB_TRY(const Node* mean, producer(y, {Op::mean}, "a mean"));
      BITLAB_TRY(const Node* turned, producer(mean->inputs[0], {Op::permute}, "a mean over tokens"));
      if (turned->attribute<program::Sizes>("dims") != program::Sizes{0, 2, 1})
        return refused(*turned, "a mean over tokens");
      return turned->inputs[0];
    }
    if (!is(y, {Op::reshape})) return y;
    c_.pooling = Pooling::kFirst;
    return first_token(y);
  }
  Result<ValueId> first_token(ValueId y) {
    BITLAB_TRY(const Node* flat, producer(y, {Op::reshape}, "the first token"));
    BITLAB_TRY(const Node* first, producer(flat->inputs[0], {Op::slice}, "the first token"));
    if (first->attribute<int64_t>("dim") != 1 || first->attribute<int64_t>("start") != 0 ||
        first->attribute<Shape>("length") != Shape{1} || shape(y).size() != 2)
      return refused(*first, "the first token");
    return first->inputs[0];
  }

  // Whether a norm is behind a layer: behind a sum with a product.
  Result<bool> ends_layer(ValueId y) {
    BITLAB_TRY(const Node* node, producer(y, {Op::layer_norm}, "a layer norm behind a sum"));
    BITLAB_TRY(const Node* terms, producer(node->inputs[0], {Op::add}, "a sum in front of a layer norm"));
    return is(terms->inputs[0], {Op::linear, Op::ternary_linear}) || is(terms->inputs[1], {Op::linear, Op::ternary_linear});
  }

  Result<ValueId> encoder_feed_forward(ValueId y) {
    BITLAB_TRY(ValueId x, norm(Part::kLayerOutputNorm, y));
    BITLAB_TRY(const auto terms, sum(x));
    BITLAB_TRY(x, product(Part::kDown, terms.second));
    BITLAB_TRY(const Node* node, producer(x, {Op::gelu, Op::gelu_tanh}, "GELU"));
    BITLAB_RETURN_IF_ERROR(agree(node->op == Op::gelu ? Activation::kGelu : Activation::kGeluTanh, *node));
    BITLAB_TRY(x, product(Part::kUp, node->inputs[0]));
    if (x != terms.first) return refused(*node, "a sum with what the part reads");
    return x;
  }

  Result<ValueId> encoder_attention(ValueId y) {
    BITLAB_TRY(ValueId x, norm(Part::kAttentionOutputNorm, y));
    BITLAB_TRY(const auto terms, sum(x));
    BITLAB_TRY(x, product(Part::kOutput, terms.second));
    BITLAB_TRY(x, separate(x));
    BITLAB_TRY(const Attended found, attended(x));
    BITLAB_TRY(const ValueId of_q, heads(Part::kQuery, found.q, c_.heads));
    BITLAB_TRY(const ValueId of_k, heads(Part::kKey, found.k, c_.kv_heads));
    BITLAB_TRY(const ValueId of_v, heads(Part::kValue, found.v, c_.kv_heads));
    BITLAB_RETURN_IF_ERROR(check_scale(found.scale, *found.node));
    if (of_q != of_k || of_k != of_v || of_q != terms.first)
      return refused(*found.node, "queries, keys and values of the tokens that they are added to");
    return terms.first;
  }

  struct Attended {
    ValueId q, k, v;
    double scale;
    const Node* node;
  };
  Result<Attended> attended(ValueId y) {
    BITLAB_TRY(const Node* node, producer(y, {Op::attention, Op::matmul}, "attention"));
    if (node->op == Op::attention) {
      if (node->attribute<int64_t>("causal") != 0 || node->inputs[3] != program::kNone)
        return refused(*node, "attention to all tokens, without a mask");
      return Attended{node->inputs[0], node->inputs[1], node->inputs[2], node->attribute<double>("scale"), node};
    }
    BITLAB_TRY(const Node* shares, producer(node->inputs[0], {Op::softmax}, "a softmax over keys"));
    BITLAB_TRY(const Node* scaled, producer(shares->inputs[0], {Op::mul, Op::div}, "scaled products of queries and keys"));
    const std::optional<float> factor = single_float(scaled->inputs[1]);
    if (!factor || shape(y).size() != 4) return refused(*scaled, "a scale that is one number");
    BITLAB_TRY(const Node* products, producer(scaled->inputs[0], {Op::matmul}, "products of queries and keys"));
    BITLAB_TRY(const Node* turned, producer(products->inputs[1], {Op::permute}, "keys behind their values"));
    if (turned->attribute<program::Sizes>("dims") != program::Sizes{0, 1, 3, 2})
      return refused(*turned, "keys behind their values");
    return Attended{products->inputs[0], turned->inputs[0], node->inputs[1],
                    scaled->op == Op::mul ? static_cast<double>(*factor) : 1 / static_cast<double>(*factor), node};
  }
  std::optional<float> single_float(ValueId id) const {
    const program::Constant* constant = p_.constant(id);
    const auto* floats = constant == nullptr ? nullptr : std::get_if<program::FloatData>(&constant->data);
    return floats != nullptr && floats->size() == 1 ? std::optional(floats->front()) : std::nullopt;
  }

  // A sum of a token's vector, that of its position, and one that all tokens share.
  Status embeddings(ValueId y) {
    BITLAB_TRY(const ValueId x, norm(Part::kEmbeddingNorm, y));
    std::vector<ValueId> terms{x};
    for (size_t i = 0; i < terms.size();) {
      if (!is(terms[i], {Op::add, Op::expand})) {
        ++i;
        continue;
      }
      BITLAB_TRY(const Node* node, producer(terms[i], {Op::add, Op::expand}, "a sum of embeddings"));
      terms[i] = node->inputs[0];
      if (node->op == Op::add) terms.push_back(node->inputs[1]);
    }
    for (const ValueId term : terms) BITLAB_RETURN_IF_ERROR(embedding_of(term));
    if (!parts_.contains({Part::kEmbedding, 0}) || !parts_.contains({Part::kPositionEmbedding, 0}))
      return unsupported("vectors of tokens and of positions", "{} terms (value={})", terms.size(), p_.value(x).name);
    for (const Part part : {Part::kPositionEmbedding, Part::kTypeEmbedding})
      if (const auto found = parts_.find({part, 0}); found != parts_.end() && !is_vectors(found->second.weight))
        return unsupported(fmt::format("vectors of {} values", c_.dim), "{} (value={})",
                           p_.show(shape(found->second.weight)), p_.value(found->second.weight).name);
    const Shape& positions = shape(parts_.at({Part::kPositionEmbedding, 0}).weight);
    c_.context = positions[positions.size() - 2].factor;
    return {};
  }
  // [..., dim] with at least one size in front of it, and none but the last two above 1; a type may have one size.
  bool is_vectors(ValueId id) const {
    const Shape& sizes = shape(id);
    for (size_t i = 0; i + 2 < sizes.size(); ++i)
      if (sizes[i] != program::Dim(1)) return false;
    return !sizes.empty() && sizes.back() == program::Dim(c_.dim);
  }
  Status embedding_of(ValueId term) {
    const auto add = [&](Part part, ValueId table) -> Status {
      if (p_.constant(table) == nullptr)
        return unsupported("a table of embeddings", "another value (value={})", p_.value(table).name);
      if (!parts_.emplace(std::pair(part, 0), Found{table, program::kNone}).second)
        return unsupported(fmt::format("one {}", info(part).name), "two (value={})", p_.value(table).name);
      return {};
    };
    if (p_.constant(term) != nullptr) {
      const Shape& sizes = shape(term);
      const bool is_one = sizes.size() < 2 || sizes[sizes.size() - 2] == program::Dim(1);
      c_.has_types = c_.has_types || is_one;
      return add(is_one ? Part::kTypeEmbedding : Part::kPositionEmbedding, term);
    }
    if (is(term, {Op::slice})) {
      BITLAB_TRY(const Node* node, producer(term, {Op::slice}, "positions"));
      if (node->attribute<int64_t>("start") != 0 || node->attribute<int64_t>("step") != 1 ||
          node->attribute<int64_t>("dim") + 2 != static_cast<int64_t>(shape(term).size()))
        return refused(*node, "positions from 0 on");
      return add(Part::kPositionEmbedding, node->inputs[0]);
    }
    if (is(term, {Op::embedding}) && is(producers_[static_cast<size_t>(term)]->inputs[0], {Op::positions})) {
      BITLAB_TRY(const Node* node, producer(term, {Op::embedding}, "an embedding of positions"));
      BITLAB_TRY(const Node* places, producer(node->inputs[0], {Op::positions}, "positions"));
      static_cast<void>(places);
      return add(Part::kPositionEmbedding, node->inputs[1]);
    }
    if (parts_.contains({Part::kEmbedding, 0}))
      return unsupported("one embedding of tokens", "two (value={})", p_.value(term).name);
    return embedding(term);
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

Result<Decoder> match(const Program& program, std::string_view where) { return Matcher(program, where).match_decoder(); }

Result<Decoder> match_encoder(const Program& program, std::string_view where) {
  return Matcher(program, where).match_encoder();
}

Kind kind_of(const Program& program) {
  const auto has = [&](Op op) {
    return std::any_of(program.nodes.begin(), program.nodes.end(), [&](const Node& node) { return node.op == op; });
  };
  return has(Op::layer_norm) && !has(Op::rms_norm) ? Kind::kEncoder : Kind::kDecoder;
}

}  // namespace bitlab::format::decoder
