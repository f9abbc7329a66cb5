// How samples become a network's inputs, by the kind of data: the one description that training, a run folder and deployment share.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bitlab/data/image_spec.h"
#include "bitlab/data/sample.h"

namespace bitlab::data {

// Text as a sequence of numbers.
struct TextSpec {
  int64_t vocabulary = 256;           // of bytes; with labels the last one is padding behind a text
  int64_t tokens = 64;                // of a sample
  std::vector<std::string> labels{};  // names of the classes; none: each token is followed by another

  bool operator==(const TextSpec&) const = default;
  std::string to_json() const;
  // Errors: Corrupt (not JSON, another form, sizes outside of 1 to 2^24).
  static Result<TextSpec> from_json(std::string_view text);
};

struct Preprocess {
  std::variant<std::monostate, ImageSpec, TextSpec> spec;

  std::string_view kind() const;  // "none", "image", "text"
  const ImageSpec* image() const { return std::get_if<ImageSpec>(&spec); }
  const TextSpec* text() const { return std::get_if<TextSpec>(&spec); }
  bool operator==(const Preprocess&) const = default;

  // Of images: normalizes the array "image" of a sample or batch, uint8 to float32. Of others: nothing. Error: InvalidArgument (no such array, or
  // of another form).
  Status apply(Sample& sample) const;
  // The sizes that networks for such data may have, by the names that configs of models use: channels, height, width, classes; vocabulary, tokens,
  // and with labels classes.
  std::map<std::string, int64_t> sizes() const;
  std::string spec_json() const;  // "{}" of none

  // {"kind": "image", "image": {…}}
  std::string to_json() const;
  // Errors: Corrupt (not JSON, another form), UnknownName (a kind), those of the specs.
  static Result<Preprocess> from_json(std::string_view text);
};

}  // namespace bitlab::data
