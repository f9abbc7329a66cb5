// A language model: the transformer of transformer.h, causal, and a projection to the vocabulary.
#pragma once

#include "bitlab/models/text/transformer.h"

namespace bitlab::models {

struct GptConfig {
  static constexpr std::string_view kName = "gpt";
  TransformerConfig transformer{};

  void visit(config::Fields& f) { transformer.visit(f); }
};

}  // namespace bitlab::models
