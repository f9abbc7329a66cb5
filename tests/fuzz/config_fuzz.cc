// Configs as YAML and JSON, and how samples become inputs, in .bit files and run folders.
#include "tests/fuzz/fuzz.h"

#include "bitlab/config/io.h"
#include "bitlab/data/preprocess.h"

namespace bitlab::fuzz {
namespace {

// Every config of config.h.
struct Configs {
  MixedPrecisionConfig quant{};
  DataConfig data{};
  TrainingConfig train{};
  void visit(config::Fields& f) {
    f("quant", quant, "");
    f("data", data, "");
    f("train", train, "");
  }
};

}  // namespace

bool read_bytes(std::span<const uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const bool yaml = config::from_yaml<Configs>(text).ok();
  const bool json = config::from_json<Configs>(text).ok();
  const bool preprocess = data::Preprocess::from_json(text).ok();
  return data::ImageSpec::from_json(text).ok() || preprocess || yaml || json;
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  const data::ImageSpec spec{3, 8, 9, {0.1F, 0.2F, 0.3F}, {1.0F, 2.0F, 0.5F}, {"cat", "d\"og"}};
  for (const std::string& text : {config::to_yaml(Configs()), config::to_json(Configs()), spec.to_json(),
                                  data::Preprocess{spec}.to_json(), data::Preprocess{data::TextSpec{}}.to_json()})
    list.emplace_back(text.begin(), text.end());
  return list;
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {1000, 64 << 10}; }  // yaml-cpp takes hundreds of bytes for a node

}  // namespace bitlab::fuzz
