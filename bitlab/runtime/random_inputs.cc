#include "bitlab/runtime/random_inputs.h"

#include <algorithm>
#include <random>

#include "bitlab/runtime/internal/cast.h"

namespace bitlab::runtime {

Result<program::SymbolSizes> sizes_of(const program::Program& p, int64_t batch, const std::vector<NamedSize>& sizes) {
  program::SymbolSizes result = program::kOnes;
  for (size_t i = 0; i < p.symbols.size(); ++i) result[i] = i == 0 ? batch : p.symbols[i].min;
  for (const auto& [name, size] : sizes) {
    const auto symbol =
        std::find_if(p.symbols.begin(), p.symbols.end(), [&, &n = name](const program::Symbol& s) { return s.name == n; });
    if (symbol == p.symbols.end())
      return make_error(ErrorCode::kInvalidArgument, "[size] a symbol of {}, got '{}'", to_string(p.signature()), name);
    if (size < symbol->min || size > symbol->max)
      return make_error(ErrorCode::kInvalidArgument, "[size] {} from {} to {}, got {}", name, symbol->min, symbol->max,
                        size);
    result[static_cast<size_t>(symbol - p.symbols.begin())] = size;
  }
  if (const auto context = program::context_symbol(p)) result[*context] = program::appended_positions(p)->at(result);
  return result;
}

std::vector<std::vector<uint8_t>> random_inputs(const program::Program& p, const program::SymbolSizes& sizes,
                                                uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<uint8_t>> inputs;
  for (const program::ValueId id : p.inputs) {
    const program::Value& v = p.value(id);
    const int64_t count = elements(v.shape, sizes);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values)
      value = v.dtype <= program::DType::kBFloat16 ? normal(generator) : static_cast<float>(generator() % 2);
    inputs.emplace_back(static_cast<size_t>(count * size_of(v.dtype)));
    cast(program::DType::kFloat32, values.data(), v.dtype, inputs.back().data(), count);
  }
  return inputs;
}

}  // namespace bitlab::runtime
