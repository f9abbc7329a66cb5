#include <algorithm>
#include <deque>

#include "bitlab/format/hf/hf.h"
#include "bitlab/format/hf/internal/config.h"
#include "bitlab/format/safetensors/safetensors.h"
#include "bitlab/program/verify.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::format::hf {
namespace {

using decoder::Decoder;
using decoder::Part;
using decoder::Weight;
using safetensors::ElementType;

template <class... Args>
Error unsupported(const std::string& module, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kUnsupported, "[hf] {} (part={})", fmt::vformat(format, fmt::make_format_args(args...)),
                    module);
}

std::vector<uint8_t> pack_rows(const std::vector<uint8_t>& codes, int64_t rows, int64_t depth) {
  const int64_t stride = rows / 4;
  std::vector<uint8_t> packed(static_cast<size_t>(stride * depth));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < depth; ++k) {
      uint8_t& byte = packed[static_cast<size_t>(row % stride * depth + k)];
      const int code = ternary::code_at(codes.data() + row * ternary::code_row_bytes(depth), k);
      byte = static_cast<uint8_t>(byte | code << 2 * (row / stride));
    }
  return packed;
}

// Tensors and the bytes that they view.
struct TensorWriter {
  std::vector<safetensors::NamedTensor> tensors;
  std::deque<std::vector<uint8_t>> storage;

  template <class T>
  void add(std::string name, ElementType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    storage.emplace_back(bytes, bytes + values.size() * sizeof(T));
    tensors.push_back({std::move(name), {type, std::move(shape), storage.back()}});
  }

  Status add(Part part, const std::string& module, const Weight& weight) {
    const std::string name = module + ".weight";
    if (const auto* floats = std::get_if<std::vector<float>>(&weight.data)) {
      add(name, ElementType::kF32, weight.shape, *floats);
    } else if (const auto* halves = std::get_if<decoder::Halves>(&weight.data)) {
      add(name, halves->storage == program::Storage::kFloat16 ? ElementType::kF16 : ElementType::kBF16, weight.shape,
          halves->bits);
    } else {
      const auto& ternary = std::get<decoder::Ternary>(weight.data);
      const int64_t rows = weight.shape[0], depth = weight.shape[1];
      const auto scale = decoder::single_scale(decoder::data_of(ternary));
      if (part == Part::kEmbedding || part == Part::kHead)
        return unsupported(module, "a float table and head, got ternary ones");
      if (!scale) return unsupported(module, "one scale of the tensor, got several");
      if (rows % 4 != 0) return unsupported(module, "rows in groups of four, got {}", rows);
      add(name, ElementType::kU8, {rows / 4, depth}, pack_rows(ternary.codes, rows, depth));
      add(module + ".weight_scale", ElementType::kF32, {1}, std::vector<float>{*scale});
    }
    if (!weight.bias.empty()) add(module + ".bias", ElementType::kF32, {weight.shape[0]}, weight.bias);
    return {};
  }
};

// Whether all of some parts of all layers have biases, or none.
Result<bool> biases_of(const Decoder& d, std::initializer_list<Part> parts) {
  std::optional<bool> known;
  for (const auto& [key, found] : d.parts) {
    if (std::find(parts.begin(), parts.end(), key.first) == parts.end()) continue;
    const bool has = found.bias != program::kNone;
    if (known.value_or(has) != has)
      return unsupported(decoder::hf_name(key.first, key.second), "biases in all products of a kind or none, got {}",
                         has ? "one" : "none");
    known = has;
  }
  return known.value_or(false);
}

}  // namespace

Result<std::vector<File>> serialize(const program::Program& p) {
  BITLAB_RETURN_IF_ERROR(verify(p));
  BITLAB_TRY(const Decoder d, decoder::match(p, "hf"));
  ModelConfig config;
  config.decoder = d.config;
  config.is_tied = d.is_tied();
  BITLAB_TRY(config.attention_bias, biases_of(d, {Part::kQuery, Part::kKey, Part::kValue, Part::kOutput}));
  BITLAB_TRY(config.mlp_bias, biases_of(d, {Part::kGate, Part::kUp, Part::kDown}));
  BITLAB_TRY(const bool head_bias, biases_of(d, {Part::kHead}));
  if (head_bias || (config.mlp_bias && d.config.sub_norms))
    return unsupported(head_bias ? "lm_head" : "mlp", "products without biases, got one");
  TensorWriter writer;
  for (const auto& [key, found] : d.parts) {
    const auto [part, layer] = key;
    if (part == Part::kHead && config.is_tied) continue;
    const std::string module = decoder::hf_name(part, layer);
    BITLAB_TRY(const Weight weight, decoder::weight_of(p, found, "hf"));
    BITLAB_RETURN_IF_ERROR(writer.add(part, module, weight));
    if (decoder::info(part).is_matrix && part != Part::kEmbedding && !std::holds_alternative<decoder::Ternary>(weight.data))
      config.kept.push_back(module);
  }
  if (config.is_tied) config.kept.emplace_back("lm_head");
  // Larger elements first, so that all lie at multiples of their sizes.
  std::stable_sort(writer.tensors.begin(), writer.tensors.end(), [](const auto& a, const auto& b) {
    return safetensors::bytes_of(a.tensor.type) > safetensors::bytes_of(b.tensor.type);
  });
  return std::vector<File>{{"config.json", write_config(config)},
                           {"model.safetensors", safetensors::write(writer.tensors, {{"format", "pt"}}, 8)}};
}

}  // namespace bitlab::format::hf
