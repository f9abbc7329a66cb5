// Mixed precision: which layer gets which quantization, by the ordered rules of MixedPrecisionConfig (config/config.h).
#pragma once

#include <string>
#include <vector>

#include "bitlab/config/config.h"

namespace bitlab::convert {

// What rules can ask about a layer.
struct LayerFacts {
  std::string path;   // "encoder.0.fc1"
  std::string type;   // "linear", "conv2d", "embedding", …
  std::string tag;    // what the program calls it; empty: nothing
  int64_t size = 0;   // weights
  int64_t index = 0;  // among the layers that can be converted
  int64_t count = 1;  // of these
};

struct Decision {
  BitQuantConfig quant;  // BitQuantConfig::none(): the layer stays float
  bool master = false;   // its quantized value stands for the weight wherever that is read
  std::string reason;    // "rule 2 (…)", or "default" where no rule fits
};

class RuleSet {
 public:
  // Every rule is checked, whether or not a layer will meet it. Errors: InvalidArgument (a regular expression, sizes, a master weight without a
  // method or with quantized activations), UnknownName and TypeMismatch (overrides), those of ternary::validate(), all naming the rule.
  static Result<RuleSet> create(MixedPrecisionConfig config);

  Decision decide(const LayerFacts& layer);
  // Whether a rule asks for the first or the last layer, so that the number of layers must be known.
  bool has_positions() const;
  // The rules that have decided nothing so far, as texts.
  std::vector<std::string> unused() const;

 private:
  struct Entry {
    QuantRule rule;
    BitQuantConfig quant;
    bool used = false;
  };
  BitQuantConfig base_;
  std::vector<Entry> rules_;
};

// "rule 2 (path=*.attn.*, method=none)"
std::string describe(const QuantRule& rule, size_t index);

}  // namespace bitlab::convert
