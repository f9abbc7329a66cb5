// Keys and values of earlier tokens that a decoder takes and gives back: how a model has what a program calls states.
#pragma once

#include <string_view>
#include <vector>

#include "bitlab/format/onnx/internal/model.h"

namespace bitlab::format::onnx {

// An input that a node continues along an axis into an output of the model.
struct Past {
  std::string_view input, output;
  size_t axis = 0;
};

// What a model takes because it keeps nothing itself: pasts, and what follows from how many positions those hold.
struct Pasts {
  std::vector<Past> all;
  std::string_view tokens;                  // the input whose second size is the tokens of a run
  std::vector<std::string_view> masks;      // [batch, all tokens]: which are none of padding
  std::vector<std::string_view> positions;  // [..., tokens]: where they are
  std::vector<std::string_view> switches;   // bool: whether there is a past

  const Past* find(std::string_view input) const;
  bool has(std::string_view input) const;              // in any of the lists
  bool continues_into(std::string_view output) const;  // whether a past does
};

// By the flow of data: a Concat of an input with something behind it, or an attention that has pasts. Without any, `all` is empty. Masks and positions are
// told by their names.
Pasts pasts_of(const ModelFile& model);

}  // namespace bitlab::format::onnx
