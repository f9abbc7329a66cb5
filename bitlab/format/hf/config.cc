#include "bitlab/format/hf/internal/config.h"

#include <algorithm>

#include "bitlab/base/internal/json.h"

namespace bitlab::format::hf {
namespace {

using decoder::Activation;

constexpr std::string_view kBitNet = "BitNetForCausalLM", kLlama = "LlamaForCausalLM";

template <class... Args>
Error corrupt_config(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[hf] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

// A member that may be missing or null.
const Json* find(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

Result<int64_t> read_size(const Json& json, const char* key, int64_t otherwise = 0) {
  const Json* value = find(json, key);
  if (value != nullptr && value->is_number_integer() && is_int64(*value)) return value->get<int64_t>();
  if (value == nullptr && otherwise > 0) return otherwise;
  return corrupt_config("an integer as {} of config.json, got {}", key, value == nullptr ? "none" : json_excerpt(*value));
}
Result<double> read_real(const Json& json, const char* key, double otherwise = 0) {
  const Json* value = find(json, key);
  if (value != nullptr && value->is_number()) return value->get<double>();
  if (value == nullptr && otherwise > 0) return otherwise;
  return corrupt_config("a number as {} of config.json, got {}", key, value == nullptr ? "none" : json_excerpt(*value));
}
// Older configs have booleans as texts.
Result<bool> read_flag(const Json& json, const char* key) {
  const Json* value = find(json, key);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  for (const bool flag : {false, true})
    if (*value == (flag ? "true" : "false") || *value == (flag ? "True" : "False")) return flag;
  return corrupt_config("true or false as {} of config.json, got {}", key, json_excerpt(*value));
}
Result<std::string> read_text(const Json& json, const char* key, const char* otherwise) {
  const Json* value = find(json, key);
  if (value == nullptr) return std::string(otherwise);
  if (value->is_string()) return value->get<std::string>();
  return corrupt_config("a text as {} of config.json, got {}", key, json_excerpt(*value));
}

Result<bool> has_sub_norms(const Json& json) {
  const Json* list = find(json, "architectures");
  const std::string found = list != nullptr && list->is_array() && list->size() == 1 && (*list)[0].is_string()
                                ? (*list)[0].get<std::string>()
                                : "none";
  if (found == kBitNet || found == kLlama) return found == kBitNet;
  return make_error(ErrorCode::kUnsupported, "[hf] an architecture of {}, {}, got {}", kBitNet, kLlama, found);
}

Result<double> read_rope(const Json& json, double otherwise) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* rope = find(json, key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return corrupt_config("an object as {} of config.json, got {}", key, json_excerpt(*rope));
    BITLAB_TRY(const std::string type, read_text(*rope, find(*rope, "type") ? "type" : "rope_type", "default"));
    if (type != "default")
      return make_error(ErrorCode::kUnsupported, "[hf] rotary embeddings of the type default, got {}", type);
    if (find(*rope, "rope_theta") != nullptr) return read_real(*rope, "rope_theta");
  }
  return read_real(json, "rope_theta", otherwise);
}

Result<decoder::Config> read_decoder(const Json& json) {
  decoder::Config c;
  BITLAB_TRY(c.sub_norms, has_sub_norms(json));
  BITLAB_TRY(c.vocabulary, read_size(json, "vocab_size"));
  BITLAB_TRY(c.context, read_size(json, "max_position_embeddings"));
  BITLAB_TRY(c.layers, read_size(json, "num_hidden_layers"));
  BITLAB_TRY(c.dim, read_size(json, "hidden_size"));
  BITLAB_TRY(c.hidden, read_size(json, "intermediate_size"));
  BITLAB_TRY(c.heads, read_size(json, "num_attention_heads"));
  BITLAB_TRY(c.kv_heads, read_size(json, "num_key_value_heads", c.heads));
  BITLAB_TRY(c.head_dim, read_size(json, "head_dim", c.dim / std::max<int64_t>(c.heads, 1)));
  BITLAB_TRY(c.norm_eps, read_real(json, "rms_norm_eps"));
  BITLAB_TRY(c.rope_theta, read_rope(json, c.sub_norms ? 500000 : 10000));
  BITLAB_TRY(const std::string activation, read_text(json, "hidden_act", c.sub_norms ? "relu2" : "silu"));
  if (activation != "silu" && activation != "relu2")
    return make_error(ErrorCode::kUnsupported, "[hf] hidden_act of silu, relu2, got {}", activation);
  c.activation = activation == "silu" ? Activation::kSilu : Activation::kSquaredRelu;
  return c;
}

Status read_quantization(const Json& json, ModelConfig& config) {
  const Json* found = find(json, "quantization_config");
  if (found == nullptr || !found->is_object())
    return make_error(ErrorCode::kUnsupported, "[hf] a quantization_config in config.json, got none");
  BITLAB_TRY(const std::string method, read_text(*found, "quant_method", "none"));
  if (method != "bitnet") return make_error(ErrorCode::kUnsupported, "[hf] quant_method bitnet, got {}", method);
  BITLAB_TRY(const std::string linear, read_text(*found, "linear_class", "none"));
  if (linear != "bitlinear" && linear != "autobitlinear")
    return make_error(
        ErrorCode::kUnsupported,
        "[hf] a linear_class of bitlinear, which divides by weight_scale (what transformers takes for none), or "
        "autobitlinear, which multiplies, got {}",
        linear);
  BITLAB_TRY(const std::string mode, read_text(*found, "quantization_mode", "offline"));
  if (mode != "offline" && (mode != "online" || linear == "bitlinear"))
    return make_error(ErrorCode::kUnsupported, "[hf] quantization_mode offline, or online of autobitlinear, got {} of {}",
                      mode, linear);
  config.mode = mode == "online" ? Mode::kOnline : linear == "bitlinear" ? Mode::kDivided : Mode::kMultiplied;
  BITLAB_TRY(const bool use_rms_norm, read_flag(*found, "use_rms_norm"));
  if (use_rms_norm) return make_error(ErrorCode::kUnsupported, "[hf] products without norms of their own, got use_rms_norm");
  if (const Json* kept = find(*found, "modules_to_not_convert")) {
    if (!kept->is_array() || !std::all_of(kept->begin(), kept->end(), [](const Json& name) { return name.is_string(); }))
      return corrupt_config("texts as modules_to_not_convert of config.json, got {}", json_excerpt(*kept));
    for (const Json& name : *kept) config.kept.push_back(name.get<std::string>());
  }
  return {};
}

}  // namespace

bool ModelConfig::keeps(std::string_view module) const {
  return std::any_of(kept.begin(), kept.end(), [&](const std::string& name) {
    return !name.empty() && (module.starts_with(name) || module.ends_with(name));
  });
}

Result<ModelConfig> read_config(std::string_view text) {
  BITLAB_TRY(const Json json, parse_json(text, "hf"));
  if (!json.is_object()) return corrupt_config("an object in config.json, got a {}", json.type_name());
  ModelConfig config;
  BITLAB_TRY(config.decoder, read_decoder(json));
  BITLAB_RETURN_IF_ERROR(read_quantization(json, config));
  BITLAB_TRY(config.is_tied, read_flag(json, "tie_word_embeddings"));
  BITLAB_TRY(config.attention_bias, read_flag(json, "attention_bias"));
  BITLAB_TRY(config.mlp_bias, read_flag(json, "mlp_bias"));
  return config;
}

std::string write_config(const ModelConfig& config) {
  const decoder::Config& c = config.decoder;
  Json json{{"architectures", {c.sub_norms ? kBitNet : kLlama}},
            {"model_type", c.sub_norms ? "bitnet" : "llama"},
            {"vocab_size", c.vocabulary},
            {"max_position_embeddings", c.context},
            {"num_hidden_layers", c.layers},
            {"hidden_size", c.dim},
            {"intermediate_size", c.hidden},
            {"num_attention_heads", c.heads},
            {"num_key_value_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"hidden_act", c.activation == Activation::kSilu ? "silu" : "relu2"},
            {"rms_norm_eps", c.norm_eps},
            {"rope_theta", c.rope_theta},
            {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", c.rope_theta}}},
            {"tie_word_embeddings", config.is_tied},
            {"attention_bias", config.attention_bias},
            {"bos_token_id", nullptr},
            {"eos_token_id", nullptr},
            {"torch_dtype", "float32"},
            {"quantization_config",
             {{"quant_method", "bitnet"},
              {"linear_class", "autobitlinear"},
              {"quantization_mode", "offline"},
              {"modules_to_not_convert", config.kept}}}};
  if (!c.sub_norms) json["mlp_bias"] = config.mlp_bias;
  return json_text(json, 2) + "\n";
}

}  // namespace bitlab::format::hf
