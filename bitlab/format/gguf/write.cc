#include <algorithm>
#include <cctype>
#include <cstring>

#include "bitlab/format/gguf/gguf.h"
#include "bitlab/format/gguf/internal/architecture.h"
#include "bitlab/format/gguf/internal/dialects.h"
#include "bitlab/format/gguf/internal/tokenizer.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::gguf {
namespace {

using decoder::Config;
using decoder::Decoder;
using decoder::Part;
using decoder::Weight;

Error unsupported_decoder(std::string_view expectation, std::string_view found) {
  return make_error(ErrorCode::kUnsupported, "[gguf] {}, got {}", expectation, found);
}

Result<const Architecture*> check_encoder(const Config& c, const Architecture& architecture) {
  if (c.heads * c.head_dim == c.dim) return &architecture;
  return unsupported_decoder(fmt::format("heads that are {} values together in an encoder", c.dim),
                             fmt::format("{} of {}", c.heads, c.head_dim));
}

Result<const Architecture*> architecture_for(const Decoder& d) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.kind != d.config.kind) continue;
    if (architecture.kind == decoder::Kind::kEncoder) return check_encoder(d.config, architecture);
    if (architecture.sub_norms != d.config.sub_norms || architecture.activation != d.config.activation) continue;
    if (architecture.is_tied && !d.is_tied())
      return unsupported_decoder("a head that is the embedding's table in a decoder with sub-norms", "one of its own");
    for (const auto& [key, found] : d.parts)
      if (!architecture.has_biases && found.bias != program::kNone)
        return unsupported_decoder("products without biases in a decoder with sub-norms",
                                   "one in " + decoder::gguf_name(key.first, key.second));
    return &architecture;
  }
  return unsupported_decoder("SiLU in a decoder without sub-norms", "squared ReLU");
}

void add_encoder(Pairs& list, const Config& c, const std::string& prefix) {
  list.emplace_back(prefix + "attention.layer_norm_epsilon", c.norm_eps);
  list.emplace_back(prefix + "attention.causal", false);
  if (c.activation == decoder::Activation::kGeluTanh)
    list.emplace_back(prefix + "hidden_activation", std::string(kGeluTanh));
  for (const PoolingName& known : kPoolings)
    if (known.pooling == c.pooling) list.emplace_back(prefix + "pooling_type", known.number);
  if (c.pooling == decoder::Pooling::kClassifier) {
    std::vector<std::string> labels;
    for (int64_t i = 0; i < c.classes; ++i) labels.push_back(fmt::format("LABEL_{}", i));
    list.emplace_back(prefix + "classifier.output_labels", array_of(labels));
  }
  list.emplace_back(std::string(kTokenizerPrefix) + "token_type_count", int64_t{1});
}

Pairs metadata_of(const program::Program& p, const Config& c, std::string_view architecture) {
  const std::string prefix = std::string(architecture) + ".";
  Pairs list{{"general.architecture", std::string(architecture)}};
  if (const auto model = p.metadata.find("model"); model != p.metadata.end())
    list.emplace_back("general.name", model->second);
  for (const auto& [key, size] :
       std::initializer_list<std::pair<const char*, int64_t>>{{"vocab_size", c.vocabulary},
                                                              {"context_length", c.context},
                                                              {"embedding_length", c.dim},
                                                              {"block_count", c.layers},
                                                              {"feed_forward_length", c.hidden},
                                                              {"attention.head_count", c.heads},
                                                              {"attention.head_count_kv", c.kv_heads},
                                                              {"attention.key_length", c.head_dim},
                                                              {"attention.value_length", c.head_dim}})
    list.emplace_back(prefix + key, size);
  if (c.kind == decoder::Kind::kEncoder) {
    add_encoder(list, c, prefix);
    return list;
  }
  list.emplace_back(prefix + "rope.dimension_count", c.head_dim);
  list.emplace_back(prefix + "attention.layer_norm_rms_epsilon", c.norm_eps);
  list.emplace_back(prefix + "rope.freq_base", c.rope_theta);
  return list;
}

template <class T>
Tensor float_tensor(std::string name, const char* type, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {std::move(name),
          find_type(type)->id,
          std::move(shape),
          {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
}

Status append(Weight weight, const TypeInfo& type, const Architecture& architecture, Part part, const std::string& name,
              std::vector<Tensor>& tensors) {
  const std::string full = name + ".weight";
  const bool is_table = architecture.kind == decoder::Kind::kEncoder && part == Part::kEmbedding;
  if (const auto* ternary = std::get_if<decoder::Ternary>(&weight.data)) {
    Result<Packed> tried = pack(type, decoder::data_of(*ternary), weight.shape[0], weight.shape[1], full);
    if (is_table && (!tried.ok() || tried->factor)) {  // nothing is multiplied by it: its floats are as good
      tensors.push_back(float_tensor(full, "F32", weight.shape, decoder::floats_of(weight)));
      return {};
    }
    BITLAB_TRY(Packed packed, std::move(tried));
    if (packed.factor && (!architecture.has_factors || part == Part::kEmbedding || part == Part::kHead))
      return make_error(ErrorCode::kUnsupported, "[gguf] a scale that float16 holds in {} of {}, got {} (tensor={})",
                        type.name, architecture.name, *packed.factor, full);
    tensors.push_back({full, type.id, weight.shape, std::move(packed.bytes)});
    if (packed.factor) tensors.push_back(float_tensor(name + ".scale", "F32", {1}, std::vector<float>{*packed.factor}));
  } else if (const auto* halves = std::get_if<decoder::Halves>(&weight.data); halves && decoder::info(part).is_matrix) {
    tensors.push_back(
        float_tensor(full, halves->storage == program::Storage::kFloat16 ? "F16" : "BF16", weight.shape, halves->bits));
  } else {
    tensors.push_back(float_tensor(full, "F32", weight.shape, decoder::floats_of(weight)));
  }
  // llama.cpp reads no layer norm without a bias.
  const bool is_norm = !decoder::info(part).is_matrix && part != Part::kTypeEmbedding;
  if (architecture.kind == decoder::Kind::kEncoder && is_norm && weight.bias.empty())
    weight.bias.assign(static_cast<size_t>(weight.shape[0]), 0);
  if (!weight.bias.empty()) tensors.push_back(float_tensor(name + ".bias", "F32", {weight.shape[0]}, weight.bias));
  return {};
}

Result<const TypeInfo*> ternary_type(std::string_view variant) {
  std::string name(variant);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const TypeInfo* type = find_type(name);
  if (type != nullptr && type->is_ternary) return type;
  return make_error(ErrorCode::kUnknownName, "[gguf] a ternary type of tensors, got {}", variant);
}

}  // namespace

void turn_pairs(Weight& weight, int64_t head_dim, bool back) {
  const int64_t rows = weight.shape[0];
  const auto apply = [&](auto& list) {
    if (static_cast<int64_t>(list.size()) < rows) return;  // one scale
    const size_t width = list.size() / static_cast<size_t>(rows);
    const auto old = list;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t head = row / head_dim * head_dim, in_head = row % head_dim;
      const int64_t neighbours = head + in_head % (head_dim / 2) * 2 + in_head / (head_dim / 2);
      const auto from = static_cast<size_t>(back ? row : neighbours), to = static_cast<size_t>(back ? neighbours : row);
      std::copy_n(old.begin() + static_cast<std::ptrdiff_t>(from * width), width,
                  list.begin() + static_cast<std::ptrdiff_t>(to * width));
    }
  };
  if (auto* floats = std::get_if<std::vector<float>>(&weight.data)) {
    apply(*floats);
  } else if (auto* halves = std::get_if<decoder::Halves>(&weight.data)) {
    apply(halves->bits);
  } else {
    auto& ternary = std::get<decoder::Ternary>(weight.data);
    apply(ternary.codes);
    apply(ternary.scales.scale);
    apply(ternary.scales.scale_neg);
    apply(ternary.scales.group_scale);
  }
  apply(weight.bias);
}

Result<std::string> serialize(const program::Program& p, std::string_view variant, const data::TokenizerFiles& tokenizer) {
  BITLAB_RETURN_IF_ERROR(verify(p));
  BITLAB_TRY(const TypeInfo* type, ternary_type(variant));
  BITLAB_TRY(const Decoder decoder,
             decoder::kind_of(p) == decoder::Kind::kEncoder ? decoder::match_encoder(p, "gguf") : decoder::match(p, "gguf"));
  BITLAB_TRY(const Architecture* architecture, architecture_for(decoder));
  std::vector<Tensor> tensors;
  for (const auto& [key, found] : decoder.parts) {
    const auto [part, layer] = key;
    if (part == Part::kHead && decoder.is_tied()) continue;
    BITLAB_TRY(Weight weight, decoder::weight_of(p, found, "gguf"));
    if (architecture->turns_neighbours && (part == Part::kQuery || part == Part::kKey))
      turn_pairs(weight, decoder.config.head_dim, true);
    // Tables that a network adds may have leading sizes of 1.
    if (part == Part::kTypeEmbedding) weight.shape = {1, decoder.config.dim};
    if (part == Part::kPositionEmbedding) weight.shape = decoder::shape_of(decoder.config, part);
    BITLAB_RETURN_IF_ERROR(append(std::move(weight), *type, *architecture, part, decoder::gguf_name(part, layer), tensors));
  }
  Pairs metadata = metadata_of(p, decoder.config, architecture->name);
  BITLAB_TRY(const Pairs keys, tokenizer_metadata(tokenizer, decoder.config.vocabulary));
  metadata.insert(metadata.end(), keys.begin(), keys.end());
  return write_container(metadata, tensors);
}

}  // namespace bitlab::format::gguf
