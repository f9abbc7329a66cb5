// The transformers that other formats have names for. Decoders of language models: Llama, and BitNet b1.58 (arXiv:2402.17764), which is Llama with norms before the
// last projection of each part. As a program, and found again in one.
//
//   x = embedding[tokens];   each layer   x += output(sub_norm(attention(rotary(query(n)), rotary(key(n)), value(n)))),   n = norm(x)
//                                         x += down(sub_norm(activation(gate(n)) * up(n))),                              n = norm(x)
//   logits = head(norm(x))
//
// Norms are of the root mean square; rotary embeddings in the half-rotation form; attention is causal, its scale 1 / sqrt(head_dim).
//
// And encoders of BERT's kind (arXiv:1810.04805), whose norms are layer norms behind each sum, and whose attention sees all tokens:
//
//   x = norm(embedding[tokens] + type + positions[0, 1, ...]);
//   each layer   x = norm(x + output(attention(query(x), key(x), value(x))));   x = norm(x + down(gelu(up(x))))
//   behind them nothing, the mean of the tokens, the first token, or classifier(tanh(pooler(the first token)))
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::format::decoder {

enum class Part {
#define BITLAB_DECODER_PART(name, ...) k##name,
#include "bitlab/format/decoder/parts.def"
#undef BITLAB_DECODER_PART
};

struct PartInfo {
  std::string_view name;
  bool is_matrix;
  std::string_view gguf, hf;
  bool is_of_layer() const { return hf.find("{}") != std::string_view::npos; }
};
const PartInfo& info(Part part);
std::string gguf_name(Part part, int64_t layer);  // "blk.3.attn_q"
std::string hf_name(Part part, int64_t layer);    // "model.layers.3.self_attn.q_proj"

enum class Kind { kDecoder, kEncoder };
enum class Activation { kSilu, kSquaredRelu, kGelu, kGeluTanh };
enum class Pooling { kNone, kMean, kFirst, kClassifier };  // of encoders

struct Config {
  int64_t vocabulary = 0, context = 0, layers = 0, dim = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0;
  double norm_eps = 0, rope_theta = 0;
  Activation activation = Activation::kSilu;
  bool sub_norms = false;
  // Of encoders, which have neither rope_theta nor sub-norms.
  Kind kind = Kind::kDecoder;
  Pooling pooling = Pooling::kNone;
  int64_t classes = 0;     // with a classifier
  bool has_types = false;  // a vector that all tokens are given
};

// Error: Corrupt, for sizes that are not positive or do not divide each other. `where`: the format, for messages.
Status check(const Config& config, std::string_view where);

// [rows, depth] of a matrix, [size] of a norm.
std::vector<int64_t> shape_of(const Config& config, Part part);

struct Ternary {
  std::vector<uint8_t> codes;  // as in ternary/codes.h
  program::TernaryScales scales;
};
struct Halves {
  std::vector<uint16_t> bits;
  program::Storage storage;
};
struct Weight {
  std::vector<int64_t> shape;
  std::variant<std::vector<float>, Halves, Ternary> data;
  std::vector<float> bias{};  // empty: none
};

// Numbers of a file, which may lie anywhere.
template <class T>
std::vector<T> copied(std::span<const uint8_t> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// What a part's weight is; nothing of a head that is the embedding. Called once a part, in the order of parts.def and of the layers.
using Source = std::function<Result<std::optional<Weight>>(Part part, int64_t layer)>;

// A decoder: input_ids int64 [batch, tokens] -> logits [batch, tokens, vocabulary], with states for keys and values. An encoder: -> last_hidden_state
// [batch, tokens, dim], embedding [batch, dim] of a pooled one, or logits [batch, classes]. Ternary weights are multiplied by int8 activations by token. Errors: those of check(), of the source, Corrupt (a shape, a weight that is missing).
Result<program::Program> build(const Config& config, const Source& source, std::string_view where);

struct Found {
  program::ValueId weight = program::kNone, bias = program::kNone;
};
struct Decoder {
  Config config;
  std::map<std::pair<Part, int64_t>, Found> parts;  // layer 0 of those that are of no layer

  // A head that is the embedding's own table.
  bool is_tied() const { return parts.at({Part::kHead, 0}).weight == parts.at({Part::kEmbedding, 0}).weight; }
};

// The decoder that a program is, with states or without. Error: Unsupported, naming the node that is none of it.
Result<Decoder> match(const program::Program& program, std::string_view where);

// The encoder that a program is; attention may be one node, or products and a softmax. A type and a table of positions may have leading sizes of 1. Error:
// Unsupported, as match().
Result<Decoder> match_encoder(const program::Program& program, std::string_view where);
// Which of the two a program is, if it is one: encoders have layer norms, decoders those of the root mean square.
Kind kind_of(const program::Program& program);

// A part's weight as a program has it. Errors: Unsupported (one in int8).
Result<Weight> weight_of(const program::Program& program, const Found& found, std::string_view where);

// The float32 values of a weight, t s of a ternary one.
std::vector<float> floats_of(const Weight& weight);

// A view of it.
program::TernaryData data_of(const Ternary& weight);

// A ternary constant's one scale: the only one, or the one that all have. Nothing where they differ.
std::optional<float> single_scale(const program::TernaryData& data);

}  // namespace bitlab::format::decoder
