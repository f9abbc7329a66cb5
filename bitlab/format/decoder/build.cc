#include <algorithm>
#include <array>
#include <cmath>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/half.h"
#include "bitlab/format/decoder/decoder.h"
#include "bitlab/program/kv_state.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::decoder {
namespace {

using program::Dim;
using program::kBatch;
using program::Op;
using program::Shape;
using program::Sizes;
using program::ValueId;

constexpr std::array kParts{
#define BITLAB_DECODER_PART(name, is_matrix, gguf, hf) PartInfo{#name, is_matrix, gguf, hf},
#include "bitlab/format/decoder/parts.def"
#undef BITLAB_DECODER_PART
};

std::string numbered(std::string_view pattern, int64_t layer) {
  std::string name(pattern);
  if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(layer));
  return name;
}

// Nodes are called as in Hugging Face's models, without their common prefix.
std::string node_name(Part part, int64_t layer) {
  std::string name = hf_name(part, layer);
  if (constexpr std::string_view kPrefix = "model."; name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  return name;
}

class Builder {
 public:
  Builder(const Config& config, const Source& source, std::string_view where) : c_(config), source_(source), where_(where) {}

  Result<program::Program> build() {
    tokens_ = b_.symbol("tokens", 1, c_.context);
    return c_.kind == Kind::kEncoder ? encoder() : decoder();
  }

 private:
  Result<program::Program> decoder() {
    BITLAB_TRY(ValueId x, embedded());
    for (layer_ = 0; layer_ < c_.layers; ++layer_) {
      BITLAB_TRY(x, attention(x));
      BITLAB_TRY(x, feed_forward(x));
    }
    layer_ = 0;
    BITLAB_TRY(x, norm(Part::kNorm, x));
    BITLAB_TRY(auto head, weight(Part::kHead, 0));
    BITLAB_TRY(x, product(Part::kHead, x, head ? *head : table_));
    BITLAB_TRY(program::Program stateless, b_.finish({{"logits", x}}));
    return program::add_kv_state(std::move(stateless));
  }

  Result<program::Program> encoder() {
    BITLAB_TRY(ValueId x, embedded());
    if (c_.has_types) {
      BITLAB_TRY(const auto type, weight(Part::kTypeEmbedding, 0));
      BITLAB_TRY(x, b_.node(Op::add, node_name(Part::kTypeEmbedding, 0), {x, type->weight}));
    }
    BITLAB_TRY(const auto places, weight(Part::kPositionEmbedding, 0));
    const std::string name = node_name(Part::kPositionEmbedding, 0);
    BITLAB_TRY(const ValueId at, b_.node(Op::embedding, name, {positions_, places->weight}));
    BITLAB_TRY(x, b_.node(Op::add, name + ".sum", {x, at}));
    BITLAB_TRY(x, norm(Part::kEmbeddingNorm, x));
    for (layer_ = 0; layer_ < c_.layers; ++layer_) {
      BITLAB_TRY(const ValueId q, split(Part::kQuery, x, c_.heads));
      BITLAB_TRY(const ValueId k, split(Part::kKey, x, c_.kv_heads));
      BITLAB_TRY(const ValueId v, split(Part::kValue, x, c_.kv_heads));
      BITLAB_TRY(ValueId y, attended(q, k, v));
      BITLAB_TRY(y, product(Part::kOutput, y));
      BITLAB_TRY(y, b_.node(Op::add, this->name("self_attn.sum"), {x, y}));
      BITLAB_TRY(x, norm(Part::kAttentionOutputNorm, y));
      BITLAB_TRY(y, product(Part::kUp, x));
      BITLAB_TRY(y, b_.node(c_.activation == Activation::kGelu ? Op::gelu : Op::gelu_tanh, this->name("mlp.gelu"), {y}));
      BITLAB_TRY(y, product(Part::kDown, y));
      BITLAB_TRY(y, b_.node(Op::add, this->name("mlp.sum"), {x, y}));
      BITLAB_TRY(x, norm(Part::kLayerOutputNorm, y));
    }
    layer_ = 0;
    return pooled(x);
  }

  Result<program::Program> pooled(ValueId x) {
    if (c_.pooling == Pooling::kNone) return b_.finish({{"last_hidden_state", x}});
    if (c_.pooling == Pooling::kMean) {
      BITLAB_TRY(x, b_.node(Op::permute, "pooled.turned", {x}, {{"dims", Sizes{0, 2, 1}}}));
      BITLAB_TRY(x, b_.node(Op::mean, "pooled", {x}));
      return b_.finish({{"embedding", x}});
    }
    BITLAB_TRY(x, b_.node(Op::slice, "pooled.first", {x},
                          {{"dim", int64_t{1}}, {"start", int64_t{0}}, {"length", Shape{1}}, {"step", int64_t{1}}}));
    BITLAB_TRY(x, b_.node(Op::reshape, "pooled", {x}, {{"shape", Shape{kBatch, c_.dim}}}));
    if (c_.pooling == Pooling::kFirst) return b_.finish({{"embedding", x}});
    BITLAB_TRY(x, product(Part::kPooler, x));
    BITLAB_TRY(x, b_.node(Op::tanh, "pooler.tanh", {x}));
    BITLAB_TRY(x, product(Part::kClassifier, x));
    return b_.finish({{"logits", x}});
  }

  // Also makes the tokens' positions.
  Result<ValueId> embedded() {
    const ValueId ids = b_.input("input_ids", {kBatch, tokens_}, program::DType::kInt64);
    BITLAB_TRY(const auto table, weight(Part::kEmbedding, 0));
    table_ = *table;
    BITLAB_TRY(const ValueId x, b_.node(is_ternary(table_.weight) ? Op::ternary_embedding : Op::embedding,
                                        node_name(Part::kEmbedding, 0), {ids, table_.weight}));
    BITLAB_TRY(positions_, b_.node(Op::positions, "positions", {}, {{"size", Shape{tokens_}}, {"continues", int64_t{0}}}));
    return x;
  }

  bool is_ternary(ValueId id) const { return b_.peek().value(id).storage == program::Storage::kTernary; }
  std::string name(std::string_view suffix) const { return fmt::format("layers.{}.{}", layer_, suffix); }

  ValueId add(const std::string& name, Weight& weight) {
    if (auto* floats = std::get_if<std::vector<float>>(&weight.data))
      return b_.floats(name, std::move(weight.shape), std::move(*floats));
    if (auto* halves = std::get_if<Halves>(&weight.data))
      return b_.halves(name, std::move(weight.shape), std::move(halves->bits), halves->storage);
    auto& ternary = std::get<Ternary>(weight.data);
    return b_.ternary(name, std::move(weight.shape), std::move(ternary.codes), std::move(ternary.scales));
  }

  // Nothing of a head that is the embedding.
  Result<std::optional<Found>> weight(Part part, int64_t layer) {
    BITLAB_TRY(std::optional<Weight> weight, source_(part, layer));
    const std::string name = node_name(part, layer);
    if (!weight) {
      if (part == Part::kHead) return std::optional<Found>();
      return make_error(ErrorCode::kCorrupt, "[{}] weights of every part, got none (part={})", where_, name);
    }
    const std::vector<int64_t> shape = shape_of(c_, part);
    if (weight->shape != shape)
      return make_error(ErrorCode::kCorrupt, "[{}] {} as the sizes say, got {} (part={})", where_, program::to_string(shape),
                        program::to_string(weight->shape), name);
    if (!weight->bias.empty() && static_cast<int64_t>(weight->bias.size()) != shape[0])
      return make_error(ErrorCode::kCorrupt, "[{}] a bias of {} values, got {} (part={})", where_, shape[0],
                        weight->bias.size(), name);
    Found found;
    found.weight = add(name + ".weight", *weight);
    if (!weight->bias.empty()) found.bias = b_.floats(name + ".bias", {shape[0]}, std::move(weight->bias));
    return std::optional(found);
  }

  Result<ValueId> norm(Part part, ValueId x) {
    BITLAB_TRY(const auto found, weight(part, layer_));
    const program::Attributes attributes{{"dims", int64_t{1}}, {"eps", c_.norm_eps}};
    if (c_.kind == Kind::kEncoder)
      return b_.node(Op::layer_norm, node_name(part, layer_), {x, found->weight, found->bias}, attributes);
    return b_.node(Op::rms_norm, node_name(part, layer_), {x, found->weight}, attributes);
  }
  Result<ValueId> product(Part part, ValueId x, const Found& found) {
    const bool ternary = is_ternary(found.weight);
    program::Attributes attributes;
    if (ternary) attributes["activation"] = std::string("int8");
    return b_.node(ternary ? Op::ternary_linear : Op::linear, node_name(part, layer_), {x, found.weight, found.bias},
                   std::move(attributes));
  }
  Result<ValueId> product(Part part, ValueId x) {
    BITLAB_TRY(const auto found, weight(part, layer_));
    return product(part, x, *found);
  }

  // [batch, tokens, heads head_dim] -> [batch, heads, tokens, head_dim]
  Result<ValueId> split(Part part, ValueId x, int64_t heads) {
    BITLAB_TRY(x, product(part, x));
    const std::string node = node_name(part, layer_);
    BITLAB_TRY(x, b_.node(Op::reshape, node + ".parts", {x}, {{"shape", Shape{kBatch, tokens_, heads, c_.head_dim}}}));
    return b_.node(Op::permute, node + ".heads", {x}, {{"dims", Sizes{0, 2, 1, 3}}});
  }
  Result<ValueId> rotary(Part part, ValueId x) {
    return b_.node(Op::rotary, node_name(part, layer_) + ".rotary", {x, positions_}, {{"theta", c_.rope_theta}});
  }

  // Of heads, side by side.
  Result<ValueId> attended(ValueId q, ValueId k, ValueId v) {
    const double scale = 1 / std::sqrt(static_cast<double>(c_.head_dim));
    const int64_t is_causal = c_.kind == Kind::kDecoder ? 1 : 0;
    BITLAB_TRY(ValueId y, b_.node(Op::attention, name("self_attn"), {q, k, v}, {{"causal", is_causal}, {"scale", scale}}));
    BITLAB_TRY(y, b_.node(Op::permute, name("self_attn.tokens"), {y}, {{"dims", Sizes{0, 2, 1, 3}}}));
    return b_.node(Op::reshape, name("self_attn.joined"), {y}, {{"shape", Shape{kBatch, tokens_, c_.heads * c_.head_dim}}});
  }

  Result<ValueId> attention(ValueId x) {
    BITLAB_TRY(const ValueId n, norm(Part::kAttentionNorm, x));
    BITLAB_TRY(ValueId q, split(Part::kQuery, n, c_.heads));
    BITLAB_TRY(ValueId k, split(Part::kKey, n, c_.kv_heads));
    BITLAB_TRY(const ValueId v, split(Part::kValue, n, c_.kv_heads));
    BITLAB_TRY(q, rotary(Part::kQuery, q));
    BITLAB_TRY(k, rotary(Part::kKey, k));
    BITLAB_TRY(ValueId y, attended(q, k, v));
    if (c_.sub_norms) {
      BITLAB_TRY(y, norm(Part::kAttentionSubNorm, y));
    }
    BITLAB_TRY(y, product(Part::kOutput, y));
    return b_.node(Op::add, name("self_attn.sum"), {x, y});
  }

  Result<ValueId> feed_forward(ValueId x) {
    BITLAB_TRY(const ValueId n, norm(Part::kFeedForwardNorm, x));
    BITLAB_TRY(ValueId y, product(Part::kGate, n));
    BITLAB_TRY(const ValueId up, product(Part::kUp, n));
    if (c_.activation == Activation::kSilu) {
      BITLAB_TRY(y, b_.node(Op::silu, name("mlp.silu"), {y}));
    } else {
      BITLAB_TRY(y, b_.node(Op::relu, name("mlp.relu"), {y}));
      BITLAB_TRY(y, b_.node(Op::mul, name("mlp.square"), {y, y}));
    }
    BITLAB_TRY(y, b_.node(Op::mul, name("mlp.gated"), {y, up}));
    if (c_.sub_norms) {
      BITLAB_TRY(y, norm(Part::kFeedForwardSubNorm, y));
    }
    BITLAB_TRY(y, product(Part::kDown, y));
    return b_.node(Op::add, name("mlp.sum"), {x, y});
  }

  const Config& c_;
  const Source& source_;
  std::string_view where_;
  program::ProgramBuilder b_;
  Dim tokens_;
  Found table_;
  ValueId positions_ = program::kNone;
  int64_t layer_ = 0;
};

}  // namespace

const PartInfo& info(Part part) { return kParts.at(static_cast<size_t>(part)); }
std::string gguf_name(Part part, int64_t layer) { return numbered(info(part).gguf, layer); }
std::string hf_name(Part part, int64_t layer) { return numbered(info(part).hf, layer); }

Status check(const Config& c, std::string_view where) {
  constexpr int64_t kMaxSize = int64_t{1} << 31;
  const std::pair<const char*, int64_t> sizes[] = {
      {"vocabulary", c.vocabulary}, {"context", c.context},   {"layers", c.layers},     {"dim", c.dim},
      {"heads", c.heads},           {"kv_heads", c.kv_heads}, {"head_dim", c.head_dim}, {"hidden", c.hidden}};
  for (const auto& [name, size] : sizes)
    if (size < 1 || size > kMaxSize)
      return make_error(ErrorCode::kCorrupt, "[{}] a size from 1 to {}, got {} (name={})", where, kMaxSize, size, name);
  const bool is_encoder = c.kind == Kind::kEncoder;
  if (c.heads % c.kv_heads != 0 || (c.head_dim % 2 != 0 && !is_encoder))
    return make_error(ErrorCode::kCorrupt,
                      "[{}] heads in groups of one size and with an even number of values, got {} and {} of {} values",
                      where, c.heads, c.kv_heads, c.head_dim);
  if (c.pooling == Pooling::kClassifier && (c.classes < 1 || c.classes > kMaxSize))
    return make_error(ErrorCode::kCorrupt, "[{}] a size from 1 to {}, got {} (name=classes)", where, kMaxSize, c.classes);
  if (!(c.norm_eps > 0 && c.norm_eps < 1 && (is_encoder || (c.rope_theta > 0 && std::isfinite(c.rope_theta)))))
    return make_error(ErrorCode::kCorrupt,
                      "[{}] an epsilon from 0 to 1 and a positive base of rotary embeddings, got {} and {}", where,
                      c.norm_eps, c.rope_theta);
  return {};
}

std::vector<int64_t> shape_of(const Config& c, Part part) {
  const int64_t queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  switch (part) {
    case Part::kEmbedding:
    case Part::kHead:
      return {c.vocabulary, c.dim};
    case Part::kQuery:
      return {queries, c.dim};
    case Part::kKey:
    case Part::kValue:
      return {keys, c.dim};
    case Part::kOutput:
      return {c.dim, queries};
    case Part::kGate:
    case Part::kUp:
      return {c.hidden, c.dim};
    case Part::kDown:
      return {c.dim, c.hidden};
    case Part::kPositionEmbedding:
      return {c.context, c.dim};
    case Part::kPooler:
      return {c.dim, c.dim};
    case Part::kClassifier:
      return {c.classes, c.dim};
    case Part::kAttentionSubNorm:
      return {queries};
    case Part::kFeedForwardSubNorm:
      return {c.hidden};
    case Part::kTypeEmbedding:
    case Part::kEmbeddingNorm:
    case Part::kAttentionNorm:
    case Part::kAttentionOutputNorm:
    case Part::kFeedForwardNorm:
    case Part::kLayerOutputNorm:
    case Part::kNorm:
      break;
  }
  return {c.dim};
}

Result<program::Program> build(const Config& config, const Source& source, std::string_view where) {
  BITLAB_RETURN_IF_ERROR(check(config, where));
  return Builder(config, source, where).build();
}

Result<Weight> weight_of(const program::Program& p, const Found& found, std::string_view where) {
  const program::Value& value = p.value(found.weight);
  const program::Constant* constant = p.constant(found.weight);
  Weight weight{program::shape_at(value.shape, program::kOnes), {}};
  if (const auto* floats = std::get_if<program::FloatData>(&constant->data)) {
    weight.data = std::vector<float>(floats->begin(), floats->end());
  } else if (const auto* halves = std::get_if<program::HalfData>(&constant->data)) {
    weight.data = Halves{{halves->bits.begin(), halves->bits.end()}, value.storage};
  } else if (const auto* ternary = std::get_if<program::TernaryData>(&constant->data)) {
    program::TernaryScales scales;
    scales.scale.assign(ternary->scale.begin(), ternary->scale.end());
    scales.scale_neg.assign(ternary->scale_neg.begin(), ternary->scale_neg.end());
    scales.group_scale.assign(ternary->group_scale.begin(), ternary->group_scale.end());
    scales.group = ternary->group;
    weight.data = Ternary{{ternary->codes.begin(), ternary->codes.end()}, std::move(scales)};
  } else {
    return make_error(ErrorCode::kUnsupported, "[{}] weights that are float or ternary, got {} (value={})", where,
                      program::name(value.storage), value.name);
  }
  if (found.bias != program::kNone) {
    BITLAB_TRY(const Weight bias, weight_of(p, {found.bias}, where));
    weight.bias = floats_of(bias);
  }
  return weight;
}

std::vector<float> floats_of(const Weight& weight) {
  if (const auto* floats = std::get_if<std::vector<float>>(&weight.data)) return *floats;
  std::vector<float> values;
  if (const auto* halves = std::get_if<Halves>(&weight.data))
    for (const uint16_t bits : halves->bits) values.push_back(program::widened(bits, halves->storage));
  if (const auto* ternary = std::get_if<Ternary>(&weight.data)) {
    const int64_t rows = weight.shape[0], depth = weight.shape[1];
    const program::TernaryScales& s = ternary->scales;
    const int64_t groups = s.group == 0 ? 0 : ceil_div(depth, s.group);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t k = 0; k < depth; ++k) {
        const int t = ternary::code_at(ternary->codes.data() + row * ternary::code_row_bytes(depth), k) - 1;
        const auto& list = t < 0 && !s.scale_neg.empty() ? s.scale_neg : s.scale;
        values.push_back(static_cast<float>(t) *
                         (s.group != 0 ? half_to_float(s.group_scale[static_cast<size_t>(row * groups + k / s.group)])
                                       : list[list.size() == 1 ? 0 : static_cast<size_t>(row)]));
      }
  }
  return values;
}

program::TernaryData data_of(const Ternary& w) {
  return {w.codes, w.scales.scale, w.scales.scale_neg, w.scales.group_scale, w.scales.group};
}

std::optional<float> single_scale(const program::TernaryData& data) {
  const auto same = [](const auto& list) {
    return std::all_of(list.begin(), list.end(), [&](auto s) { return s == list.front(); });
  };
  if (!data.scale_neg.empty()) return std::nullopt;
  if (data.group != 0) return same(data.group_scale) ? std::optional(half_to_float(data.group_scale.front())) : std::nullopt;
  return same(data.scale) ? std::optional(data.scale.front()) : std::nullopt;
}

}  // namespace bitlab::format::decoder
