// What differs between the architectures of GGUF files.
#pragma once

#include <string_view>

#include "bitlab/format/decoder/decoder.h"

namespace bitlab::format::gguf {

struct Architecture {
  std::string_view name;
  bool sub_norms;
  decoder::Activation activation;  // where a file does not say it
  bool turns_neighbours;           // rotary embeddings of pairs (2 i, 2 i + 1)
  bool is_tied;                    // the head is the embedding's table
  bool has_biases;
  bool has_factors;  // scales of tensors in tensors of their own
  decoder::Kind kind = decoder::Kind::kDecoder;
};
inline constexpr Architecture kArchitectures[] = {
    {"llama", false, decoder::Activation::kSilu, true, false, true, true},
    {"bitnet", true, decoder::Activation::kSilu, false, true, false, true},
    {"bitnet-b1.58", true, decoder::Activation::kSquaredRelu, false, true, false, false},
    {"bitnet-25", true, decoder::Activation::kSquaredRelu, false, true, false, false},
    {"bert", false, decoder::Activation::kGelu, false, false, true, false, decoder::Kind::kEncoder},
};

// How an encoder's activation is called under the key hidden_activation, which is left out for GELU.
inline constexpr std::string_view kGeluTanh = "gelu_pytorch_tanh";

// The numbers of bert.pooling_type.
struct PoolingName {
  decoder::Pooling pooling;
  int64_t number;
};
inline constexpr PoolingName kPoolings[] = {{decoder::Pooling::kNone, 0},
                                            {decoder::Pooling::kMean, 1},
                                            {decoder::Pooling::kFirst, 2},
                                            {decoder::Pooling::kClassifier, 4}};

// Rows of queries or keys from one order of pairs to the other: of each head of d rows, row j d / 2 + i there is row 2 i + j here, or with `back` the other
// way round. Scales of rows and groups, and biases, follow.
void turn_pairs(decoder::Weight& weight, int64_t head_dim, bool back);

}  // namespace bitlab::format::gguf
