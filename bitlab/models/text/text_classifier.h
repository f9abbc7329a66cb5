// A classifier of texts: the transformer of transformer.h, in which each token sees all others, and a projection of the mean of its vectors. Texts of
// fewer tokens than a batch has end with padding, the last token of the vocabulary, which changes nothing.
#pragma once

#include "bitlab/models/text/transformer.h"

namespace bitlab::models {

struct TextClassifierConfig {
  static constexpr std::string_view kName = "text_classifier";
  TransformerConfig transformer{.vocabulary = 257, .layers = 2, .dropout = 0.1};
  int64_t classes = 2;

  void visit(config::Fields& f) {
    transformer.visit(f);
    f("classes", classes, "number of classes");
  }
};

}  // namespace bitlab::models
