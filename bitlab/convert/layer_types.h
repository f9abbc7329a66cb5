// The names by which rules know layers, for LibTorch's layers and those of nn/ that stand for them.
#pragma once

#include <string_view>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>

#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_recurrent.h"

namespace bitlab::convert {

// BITLAB_LAYER_TYPES(F) calls F("name", layer of nn/, its twin in torch::nn) for each.
#define BITLAB_LAYER_TYPES(F)                                               \
  F("linear", nn::BitLinear, torch::nn::Linear)                             \
  F("conv1d", nn::BitConv1d, torch::nn::Conv1d)                             \
  F("conv2d", nn::BitConv2d, torch::nn::Conv2d)                             \
  F("conv3d", nn::BitConv3d, torch::nn::Conv3d)                             \
  F("conv_transpose1d", nn::BitConvTranspose1d, torch::nn::ConvTranspose1d) \
  F("conv_transpose2d", nn::BitConvTranspose2d, torch::nn::ConvTranspose2d) \
  F("conv_transpose3d", nn::BitConvTranspose3d, torch::nn::ConvTranspose3d) \
  F("embedding", nn::BitEmbedding, torch::nn::Embedding)                    \
  F("embedding_bag", nn::BitEmbeddingBag, torch::nn::EmbeddingBag)          \
  F("lstm", nn::BitLSTM, torch::nn::LSTM)                                   \
  F("gru", nn::BitGRU, torch::nn::GRU)

// Of a layer of nn/.
template <class Layer>
inline constexpr std::string_view kLayerType = "";
#define BITLAB_TYPE(name, Layer, Twin) \
  template <>                          \
  inline constexpr std::string_view kLayerType<Layer> = name;
BITLAB_LAYER_TYPES(BITLAB_TYPE)
#undef BITLAB_TYPE

}  // namespace bitlab::convert
