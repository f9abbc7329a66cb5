#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/format/hf/hf.h"
#include "bitlab/format/hf/internal/config.h"
#include "bitlab/format/safetensors/safetensors.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/encode.h"

namespace bitlab::format::hf {
namespace {

using decoder::Part;
using decoder::Weight;
using safetensors::ElementType;
using safetensors::TensorView;
using Tensors = std::map<std::string, TensorView>;

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[hf] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

// The rows of a packed weight, four to a row of bytes.
Result<std::vector<uint8_t>> unpack_rows(const TensorView& packed, int64_t rows, int64_t depth, const std::string& name) {
  const int64_t stride = ceil_div(rows, 4), row_bytes = ternary::code_row_bytes(depth);
  std::vector<uint8_t> codes(static_cast<size_t>(rows * row_bytes));
  std::vector<int8_t> t(static_cast<size_t>(depth));
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t* bytes = packed.bytes.data() + row % stride * depth;
    for (int64_t k = 0; k < depth; ++k) {
      const int code = bytes[k] >> 2 * (row / stride) & 3;
      if (code == 3) return corrupt("codes 0, 1 and 2, got 3 in row {} (tensor={})", row, name);
      t[static_cast<size_t>(k)] = static_cast<int8_t>(code - 1);
    }
    ternary::pack_codes(t, 1, depth,
                        std::span(codes).subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes)));
  }
  return codes;
}

Result<std::vector<uint8_t>> codes_of(const std::vector<float>& values, int64_t rows, int64_t depth,
                                      const std::string& name) {
  std::vector<int8_t> t;
  for (const float value : values) {
    if (value != -1 && value != 0 && value != 1)
      return corrupt("-1, 0 and 1 or packed codes, got {} (tensor={})", value, name);
    t.push_back(static_cast<int8_t>(value));
  }
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(t, rows, depth, codes);
  return codes;
}

class TensorReader {
 public:
  TensorReader(const ModelConfig& config, const Tensors& tensors) : config_(config), tensors_(tensors) {}

  Result<std::optional<Weight>> weight(Part part, int64_t layer) {
    const std::string module = decoder::hf_name(part, layer), name = module + ".weight";
    const TensorView* tensor = take(name);
    if (part == Part::kHead && config_.is_tied) return std::optional<Weight>();
    if (tensor == nullptr) return corrupt("the weights of every module, got none (tensor={})", name);
    const bool is_float =
        !decoder::info(part).is_matrix || part == Part::kEmbedding || part == Part::kHead || config_.keeps(module);
    BITLAB_TRY(Weight weight, is_float ? floats(*tensor, name) : ternary(*tensor, part, module));
    if (!decoder::info(part).is_matrix) weight.data = decoder::floats_of(weight);
    if (const TensorView* bias = take(module + ".bias")) {
      BITLAB_TRY(const Weight values, floats(*bias, module + ".bias"));
      weight.bias = decoder::floats_of(values);
    }
    return std::optional(std::move(weight));
  }

  // Every tensor was read, but for tables that older versions stored.
  Status check_rest() const {
    for (const auto& [name, tensor] : tensors_)
      if (!taken_.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
        return make_error(ErrorCode::kUnsupported, "[hf] tensors of a decoder, got another (tensor={})", name);
    return {};
  }

 private:
  const TensorView* take(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return nullptr;
    taken_.insert(name);
    return &found->second;
  }

  static Result<Weight> floats(const TensorView& tensor, const std::string& name) {
    if (tensor.type == ElementType::kF32) return Weight{tensor.shape, decoder::copied<float>(tensor.bytes)};
    if (tensor.type == ElementType::kF16 || tensor.type == ElementType::kBF16)
      return Weight{tensor.shape, decoder::Halves{decoder::copied<uint16_t>(tensor.bytes),
                                                  tensor.type == ElementType::kF16 ? program::Storage::kFloat16
                                                                                   : program::Storage::kBFloat16}};
    return corrupt("floats in a module that is kept, got {} (tensor={})", safetensors::name(tensor.type), name);
  }

  Result<Weight> ternary(const TensorView& tensor, Part part, const std::string& module) {
    const std::string name = module + ".weight";
    const std::vector<int64_t> shape = decoder::shape_of(config_.decoder, part);
    const int64_t rows = shape[0], depth = shape[1];
    const bool is_packed = tensor.type == ElementType::kU8;
    const std::vector<int64_t> expected{is_packed ? ceil_div(rows, 4) : rows, depth};
    if (tensor.shape != expected)
      return corrupt("{} of {}, for {} as config.json says, got {} (tensor={})", program::to_string(expected),
                     safetensors::name(tensor.type), program::to_string(shape), program::to_string(tensor.shape), name);
    if (config_.mode == Mode::kOnline) return encoded(tensor, rows, depth, name);
    decoder::Ternary weight;
    if (is_packed) {
      BITLAB_TRY(weight.codes, unpack_rows(tensor, rows, depth, name));
    } else {
      BITLAB_TRY(const Weight values, floats(tensor, name));
      BITLAB_TRY(weight.codes, codes_of(decoder::floats_of(values), rows, depth, name));
    }
    BITLAB_TRY(const float scale, scale_of(module));
    weight.scales = {scale};
    return Weight{shape, std::move(weight)};
  }

  Result<float> scale_of(const std::string& module) {
    const std::string name = module + ".weight_scale";
    const TensorView* tensor = take(name);
    if (tensor == nullptr) return corrupt("a weight_scale beside packed weights, got none (tensor={})", name);
    BITLAB_TRY(const Weight values, floats(*tensor, name));
    const std::vector<float> scales = decoder::floats_of(values);
    if (scales.size() != 1) return corrupt("one scale, got {} (tensor={})", scales.size(), name);
    const float scale = config_.mode == Mode::kDivided ? 1 / scales[0] : scales[0];
    if (!std::isfinite(scale)) return corrupt("a finite scale, got {} (tensor={})", scale, name);
    return scale;
  }

  static Result<Weight> encoded(const TensorView& tensor, int64_t rows, int64_t depth, const std::string& name) {
    BITLAB_TRY(const Weight latent, floats(tensor, name));
    const std::vector<float> w = decoder::floats_of(latent);
    std::vector<int8_t> t(w.size());
    std::vector<float> scale(1);
    if (const Status status = ternary::encode({}, w, rows, depth, {}, {t, scale, {}, {}}); !status.ok())
      return make_error(status.error().code, "{} (tensor={})", status.error().message, name);
    std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
    ternary::pack_codes(t, rows, depth, codes);
    return Weight{{rows, depth}, decoder::Ternary{std::move(codes), {std::move(scale)}}};
  }

  const ModelConfig& config_;
  const Tensors& tensors_;
  std::set<std::string> taken_;
};

Result<program::Program> build(std::string_view config_text, const Tensors& tensors) {
  BITLAB_TRY(const ModelConfig config, read_config(config_text));
  TensorReader reader(config, tensors);
  BITLAB_TRY(program::Program program,
             decoder::build(
                 config.decoder, [&](Part part, int64_t layer) { return reader.weight(part, layer); }, "hf"));
  BITLAB_RETURN_IF_ERROR(reader.check_rest());
  return program;
}

Status add_tensors(std::span<const uint8_t> bytes, Tensors& tensors) {
  BITLAB_TRY(const safetensors::Parts parts, safetensors::split(bytes, "hf"));
  BITLAB_TRY(safetensors::Contents contents, safetensors::read(parts, "hf"));
  for (auto& [name, tensor] : contents.tensors)
    if (!tensors.emplace(name, std::move(tensor)).second) return corrupt("one tensor a name, got two (tensor={})", name);
  return {};
}

// The names of the files with tensors, which lie in the folder itself.
Result<std::set<std::string>> shards_of(const std::filesystem::path& folder) {
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (!std::filesystem::exists(index, ignored)) return std::set<std::string>{"model.safetensors"};
  BITLAB_TRY(const std::string text, read_file(index));
  BITLAB_TRY(const Json json, parse_json(text, "hf"));
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object())
    return corrupt("a weight_map in {}, got none", index.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || std::filesystem::path(file.get<std::string>()).filename() != file.get<std::string>())
      return corrupt("names of files in the folder in weight_map, got {} (tensor={})", json_excerpt(file), tensor);
    names.insert(file.get<std::string>());
  }
  return names;
}

Result<program::Program> load_folder(const std::filesystem::path& folder) {
  BITLAB_TRY(const std::string config, read_file(folder / "config.json"));
  BITLAB_TRY(const std::set<std::string> shards, shards_of(folder));
  std::vector<std::shared_ptr<const MappedFile>> files;
  Tensors tensors;
  for (const std::string& shard : shards) {
    BITLAB_TRY(auto file, MappedFile::open(folder / shard));
    BITLAB_RETURN_IF_ERROR(add_tensors(file->bytes(), tensors));
    files.push_back(std::move(file));
  }
  return build(config, tensors);
}

}  // namespace

Result<program::Program> parse(std::string_view config, std::span<const uint8_t> bytes) {
  Tensors tensors;
  BITLAB_RETURN_IF_ERROR(add_tensors(bytes, tensors));
  return build(config, tensors);
}

Result<program::Program> load(const std::filesystem::path& folder) {
  Result<program::Program> program = load_folder(folder);
  if (!program.ok()) return make_error(program.error().code, "{} (path={})", program.error().message, folder.string());
  return program;
}

}  // namespace bitlab::format::hf
