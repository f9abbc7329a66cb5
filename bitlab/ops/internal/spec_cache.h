// The specs that operators take as texts, parsed once each.
#pragma once

#include <string_view>

#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

// parse_weight_spec(text), remembered by each thread for the texts that it meets again; those of a draw are parsed each time. Throws what
// parsing returns.
ternary::WeightSpec spec_of(std::string_view text);

}  // namespace bitlab::ops
