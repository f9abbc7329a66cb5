#include <algorithm>
#include <set>

#include "bitlab/base/file.h"
#include "bitlab/format/gguf/gguf.h"
#include "bitlab/format/gguf/internal/architecture.h"
#include "bitlab/format/gguf/internal/dialects.h"
#include "bitlab/format/gguf/internal/tokenizer.h"

namespace bitlab::format::gguf {
namespace {

using decoder::Config;
using decoder::Part;
using decoder::Weight;

// Metadata by key, under the prefix of the architecture.
struct Keys {
  const Contents& file;
  std::string prefix;

  const Metadata* find(std::string_view key) const {
    const auto found = file.metadata.find(prefix + std::string(key));
    return found == file.metadata.end() ? nullptr : &found->second;
  }
  template <class T>
  Result<std::optional<T>> get(std::string_view key) const {
    const Metadata* value = find(key);
    if (value == nullptr) return std::optional<T>();
    if (const T* found = std::get_if<T>(value)) return std::optional(*found);
    return make_error(ErrorCode::kUnsupported, "[gguf] one {} for all layers, got another type (key={}{})",
                      std::is_same_v<T, std::string> ? "text" : "number", prefix, key);
  }
  template <class T>
  Result<T> get(std::string_view key, std::optional<T> otherwise) const {
    BITLAB_TRY(const std::optional<T> found, get<T>(key));
    if (found) return *found;
    if (otherwise) return *otherwise;
    return make_error(ErrorCode::kCorrupt, "[gguf] a value of every size, got none (key={}{})", prefix, key);
  }
  // Keys that make another network with another value than this.
  Status refuse(std::string_view key, int64_t harmless) const {
    const Metadata* value = find(key);
    if (value == nullptr) return {};
    const auto* number = std::get_if<int64_t>(value);
    const auto* real = std::get_if<double>(value);
    const auto* text = std::get_if<std::string>(value);
    if ((number != nullptr && *number == harmless) || (real != nullptr && *real == static_cast<double>(harmless)) ||
        (text != nullptr && *text == "none"))
      return {};
    return make_error(ErrorCode::kUnsupported, "[gguf] a plain network, got another (key={}{})", prefix, key);
  }
};

Result<const Architecture*> architecture_of(const Contents& file) {
  BITLAB_TRY(const std::string name, (Keys{file, "general."}.get<std::string>("architecture", std::nullopt)));
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  return make_error(ErrorCode::kUnsupported, "[gguf] an architecture of {}, got {}", known, name);
}

Result<decoder::Activation> activation_of(const Keys& keys, const Architecture& architecture) {
  BITLAB_TRY(const auto name, keys.get<std::string>("hidden_activation"));
  if (!name) return architecture.activation;
  if (architecture.kind == decoder::Kind::kEncoder) {
    if (*name == "gelu") return decoder::Activation::kGelu;
    if (*name == kGeluTanh || *name == "gelu_new") return decoder::Activation::kGeluTanh;
    return make_error(ErrorCode::kUnsupported, "[gguf] an activation of gelu, {}, got {}", kGeluTanh, *name);
  }
  if (*name == "silu" || *name == "swish") return decoder::Activation::kSilu;
  if (*name == "relu2") return decoder::Activation::kSquaredRelu;
  return make_error(ErrorCode::kUnsupported, "[gguf] an activation of silu, relu2, got {}", *name);
}

// What encoders have besides.
Status read_encoder(const Keys& keys, Config& c) {
  BITLAB_TRY(c.norm_eps, keys.get<double>("attention.layer_norm_epsilon", std::nullopt));
  BITLAB_TRY(const bool is_causal, keys.get<bool>("attention.causal", false));
  if (is_causal)
    return make_error(ErrorCode::kUnsupported, "[gguf] an encoder whose tokens see all others, got a causal one");
  BITLAB_RETURN_IF_ERROR(keys.refuse("attention.value_length", c.head_dim));
  BITLAB_RETURN_IF_ERROR(keys.refuse("expert_count", 0));
  BITLAB_TRY(const int64_t number, keys.get<int64_t>("pooling_type", 0));
  const auto* const known =
      std::find_if(std::begin(kPoolings), std::end(kPoolings), [&](const PoolingName& p) { return p.number == number; });
  if (known == std::end(kPoolings))
    return make_error(ErrorCode::kUnsupported, "[gguf] a pooling_type of 0, 1, 2, 4, got {}", number);
  c.pooling = known->pooling;
  c.has_types = keys.file.tensors.contains(decoder::gguf_name(Part::kTypeEmbedding, 0) + ".weight");
  const auto classifier = keys.file.tensors.find(decoder::gguf_name(Part::kClassifier, 0) + ".weight");
  if (classifier != keys.file.tensors.end()) c.classes = classifier->second.shape.front();
  return {};
}

Result<Config> config_of(const Contents& file, const Architecture& architecture) {
  const Keys keys{file, std::string(architecture.name) + "."};
  const auto size = [&](std::string_view key, std::optional<int64_t> otherwise = std::nullopt) {
    return keys.get<int64_t>(key, otherwise);
  };
  Config c;
  BITLAB_TRY(c.layers, size("block_count"));
  BITLAB_TRY(c.context, size("context_length"));
  BITLAB_TRY(c.dim, size("embedding_length"));
  BITLAB_TRY(c.hidden, size("feed_forward_length"));
  BITLAB_TRY(c.heads, size("attention.head_count"));
  BITLAB_TRY(c.kv_heads, size("attention.head_count_kv", c.heads));
  BITLAB_TRY(c.head_dim, size("attention.key_length", c.dim / std::max<int64_t>(c.heads, 1)));
  BITLAB_TRY(c.activation, activation_of(keys, architecture));
  c.kind = architecture.kind;
  const auto table = file.tensors.find(decoder::gguf_name(Part::kEmbedding, 0) + ".weight");
  if (table != file.tensors.end()) c.vocabulary = table->second.shape.front();
  if (c.kind == decoder::Kind::kEncoder) {
    BITLAB_RETURN_IF_ERROR(read_encoder(keys, c));
    return c;
  }
  BITLAB_TRY(c.norm_eps, keys.get<double>("attention.layer_norm_rms_epsilon", std::nullopt));
  BITLAB_TRY(c.rope_theta, keys.get<double>("rope.freq_base", 10000.0));
  c.sub_norms = architecture.sub_norms;
  BITLAB_RETURN_IF_ERROR(keys.refuse("rope.dimension_count", c.head_dim));
  BITLAB_RETURN_IF_ERROR(keys.refuse("attention.value_length", c.head_dim));
  BITLAB_RETURN_IF_ERROR(keys.refuse("rope.scale_linear", 1));
  for (const char* key :
       {"expert_count", "attention.sliding_window", "attention.scale", "attention.clamp_kqv", "rope.scaling.type"})
    BITLAB_RETURN_IF_ERROR(keys.refuse(key, 0));
  return c;
}

class Weights {
 public:
  Weights(const Contents& file, const Config& config, const Architecture& architecture)
      : file_(file), config_(config), architecture_(architecture) {}

  Result<std::optional<Weight>> weight(Part part, int64_t layer) {
    const std::string name = decoder::gguf_name(part, layer);
    const TensorInfo* tensor = take(name + ".weight");
    if (tensor == nullptr) return std::optional<Weight>();
    BITLAB_TRY(Weight weight, read(part, name, *tensor));
    if (part == Part::kTypeEmbedding) keep_first_row(weight);
    if (const TensorInfo* bias = take(name + ".bias")) {
      BITLAB_TRY(weight.bias, floats(name + ".bias", *bias));
    }
    const std::vector<int64_t> shape = decoder::shape_of(config_, part);
    if (architecture_.turns_neighbours && (part == Part::kQuery || part == Part::kKey) && weight.shape == shape &&
        (weight.bias.empty() || static_cast<int64_t>(weight.bias.size()) == shape[0]))
      turn_pairs(weight, config_.head_dim, false);
    return std::optional(std::move(weight));
  }

  // Every tensor was read.
  Status check_rest() const {
    for (const auto& [name, tensor] : file_.tensors)
      if (!taken_.contains(name))
        return make_error(ErrorCode::kUnsupported, "[gguf] tensors of the architecture {}, got another (tensor={})",
                          architecture_.name, name);
    return {};
  }

 private:
  // llama.cpp gives all tokens the first type.
  static void keep_first_row(Weight& weight) {
    if (weight.shape.size() != 2) return;
    auto& values = std::get<std::vector<float>>(weight.data);
    values.resize(static_cast<size_t>(weight.shape[1]));
    weight.shape.erase(weight.shape.begin());
  }

  const TensorInfo* take(const std::string& name) {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) return nullptr;
    taken_.insert(name);
    return &found->second;
  }

  Result<std::vector<float>> floats(const std::string& name, const TensorInfo& tensor) const {
    BITLAB_TRY(const TypeInfo* type, type_of(file_, name, tensor));
    if (type->is_ternary) return make_error(ErrorCode::kUnsupported, "[gguf] floats, got {} (tensor={})", type->name, name);
    return decoder::floats_of(unpack_floats(*type, tensor.bytes, tensor.shape));
  }

  Result<Weight> read(Part part, const std::string& name, const TensorInfo& tensor) {
    const std::string weight = name + ".weight";
    if (!decoder::info(part).is_matrix) {
      BITLAB_TRY(std::vector<float> values, floats(weight, tensor));
      return Weight{tensor.shape, std::move(values)};
    }
    BITLAB_TRY(const TypeInfo* type, type_of(file_, weight, tensor));
    if (!type->is_ternary) return unpack_floats(*type, tensor.bytes, tensor.shape);
    if (tensor.shape.size() != 2)
      return make_error(ErrorCode::kCorrupt, "[gguf] a matrix, got {} (tensor={})", program::to_string(tensor.shape),
                        weight);
    std::optional<float> factor;
    if (const TensorInfo* scale = take(name + ".scale")) {
      BITLAB_TRY(const std::vector<float> values, floats(name + ".scale", *scale));
      if (values.size() != 1)
        return make_error(ErrorCode::kUnsupported, "[gguf] one scale of a tensor, got {} (tensor={})", values.size(), name);
      factor = values.front();
    }
    BITLAB_TRY(decoder::Ternary ternary, unpack(*type, tensor.bytes, tensor.shape[0], tensor.shape[1], factor, weight));
    return Weight{tensor.shape, std::move(ternary)};
  }

  const Contents& file_;
  const Config& config_;
  const Architecture& architecture_;
  std::set<std::string> taken_;
};

}  // namespace

Result<program::Program> parse(std::span<const uint8_t> bytes) {
  BITLAB_TRY(const Contents file, read_container(bytes));
  BITLAB_TRY(const Architecture* architecture, architecture_of(file));
  BITLAB_TRY(const Config config, config_of(file, *architecture));
  Weights tensors(file, config, *architecture);
  BITLAB_TRY(program::Program program,
             decoder::build(
                 config, [&](Part part, int64_t layer) { return tensors.weight(part, layer); }, "gguf"));
  BITLAB_RETURN_IF_ERROR(tensors.check_rest());
  const auto name = file.metadata.find("general.name");
  if (name != file.metadata.end() && std::holds_alternative<std::string>(name->second))
    program.metadata["model"] = std::get<std::string>(name->second);
  return program;
}

Result<data::TokenizerFiles> parse_tokenizer_files(std::span<const uint8_t> bytes) {
  BITLAB_TRY(const Contents file, read_container(bytes));
  return tokenizer_of(file);
}

Result<data::TokenizerFiles> load_tokenizer_files(const std::filesystem::path& path) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Result<data::TokenizerFiles> files = parse_tokenizer_files(file->bytes());
  if (!files.ok()) return make_error(files.error().code, "{} (path={})", files.error().message, path.string());
  return files;
}

Result<program::Program> load(const std::filesystem::path& path) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Result<program::Program> program = parse(file->bytes());
  if (!program.ok()) return make_error(program.error().code, "{} (path={})", program.error().message, path.string());
  return program;
}

}  // namespace bitlab::format::gguf
