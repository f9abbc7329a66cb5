// Small instances of every architecture, for tests.
#pragma once

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "bitlab/models/model.h"

namespace bitlab::models::test {

// Sizes of data that no default has.
inline const std::map<std::string, int64_t> kSizes{{"channels", 3},    {"height", 19}, {"width", 22}, {"classes", 7},
                                                   {"vocabulary", 11}, {"tokens", 13}, {"layers", 2}, {"dim", 16},
                                                   {"hidden", 24},     {"depth", 14},  {"filters", 8}};

inline ModelConfig small_config(std::string_view name) {
  ModelConfig config;
  config.choose(name).value();
  config.fit(kSizes);
  return config;
}

// A batch for it: pictures, or tokens.
inline at::Tensor example(const ModelInfo& info, int64_t batch) {
  if (info.domain == "text") return at::randint(kSizes.at("vocabulary"), {batch, kSizes.at("tokens")}, at::kLong);
  return at::randn({batch, kSizes.at("channels"), kSizes.at("height"), kSizes.at("width")});
}

}  // namespace bitlab::models::test
