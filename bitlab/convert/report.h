// What a conversion did with each layer, and why.
#pragma once

#include <string>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::convert {

enum class Action {
  kBuilt,        // the network was built with a ternary layer (QuantScope)
  kReplaced,     // a ternary layer stands in the module's place
  kIntercepted,  // the module stays, its products run on the ternary weight (BitModel)
  kKept,         // a rule, or a configuration of "none", keeps the layer in float
  kSkipped,      // nothing here can be ternary
};
std::string_view name(Action action);  // "replaced", …

struct LayerReport {
  std::string path, type;
  Action action = Action::kSkipped;
  std::string reason;  // "rule 2 (…)", "default", why it was skipped
  std::string quant;   // "absmean/tensor/int8"; empty where it stays float
  int64_t parameters = 0;
};

struct ConversionReport {
  std::vector<LayerReport> layers;        // modules with parameters of their own, in the order of registration
  std::vector<std::string> unused_rules;  // that fitted no layer

  int64_t parameters() const;
  int64_t covered() const;  // of layers that were replaced or intercepted
  // A table with a line a layer, then totals and unused rules.
  std::string to_text() const;
  // {"layers": [{"path", "type", "action", "reason", "quant", "parameters"}], "parameters", "covered", "unused_rules": []}
  std::string to_json() const;
};

}  // namespace bitlab::convert
