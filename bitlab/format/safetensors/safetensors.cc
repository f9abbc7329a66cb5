#include "bitlab/format/safetensors/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/json.h"

namespace bitlab::format::safetensors {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeader = 100'000'000;  // as in the safetensors library
constexpr std::string_view kMetadata = "__metadata__";

struct TypeName {
  ElementType type;
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kTypes{TypeName{ElementType::kU8, "U8", 1},     TypeName{ElementType::kI8, "I8", 1},
                            TypeName{ElementType::kBool, "BOOL", 1}, TypeName{ElementType::kF16, "F16", 2},
                            TypeName{ElementType::kBF16, "BF16", 2}, TypeName{ElementType::kI32, "I32", 4},
                            TypeName{ElementType::kF32, "F32", 4},   TypeName{ElementType::kI64, "I64", 8}};

const TypeName& type_name(ElementType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [type](const TypeName& t) { return t.type == type; });
}

Json describe(const TensorView& tensor, size_t begin) {
  return {{"dtype", type_name(tensor.type).name},
          {"shape", tensor.shape},
          {"data_offsets", {begin, begin + tensor.bytes.size()}}};
}

bool is_size(const Json& json) { return json.is_number_unsigned() && is_int64(json); }

// Reads for the format `where`, which messages name.
struct Reader {
  std::string_view where;

  template <class... Args>
  Failure corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(ErrorCode::kCorrupt, "[{}] {}", where, fmt::vformat(format, fmt::make_format_args(args...)));
  }

  Result<ElementType> read_type(const std::string& name, const Json& dtype) const {
    const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& t) { return dtype == t.name; });
    if (type != kTypes.end()) return type->type;
    std::string known;
    for (const TypeName& t : kTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", t.name);
    return corrupt("a dtype of {}, got {} (tensor={})", known, json_excerpt(dtype), name);
  }

  Result<TensorView> read_tensor(const std::string& name, const Json& json, std::span<const uint8_t> data) const {
    if (!json.is_object()) return corrupt("dtype, shape and data_offsets, got a {} (tensor={})", json.type_name(), name);
    for (const char* key : {"dtype", "shape", "data_offsets"})
      if (!json.contains(key)) return corrupt("dtype, shape and data_offsets, got no {} (tensor={})", key, name);
    const Json &dtype = json["dtype"], &shape = json["shape"], &offsets = json["data_offsets"];
    BITLAB_TRY(const ElementType type, read_type(name, dtype));
    if (!offsets.is_array() || offsets.size() != 2 || !is_size(offsets[0]) || !is_size(offsets[1]) || !shape.is_array() ||
        !std::all_of(shape.begin(), shape.end(), is_size))
      return corrupt("a shape and two offsets, got {} and {} (tensor={})", json_excerpt(shape), json_excerpt(offsets), name);
    const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
    if (begin > end || end > data.size())
      return corrupt("offsets within {} bytes of data, got {} and {} (tensor={})", data.size(), begin, end, name);
    TensorView tensor{type, {}, data.subspan(begin, end - begin)};
    int64_t bytes = bytes_of(type);
    for (const Json& item : shape) {
      const auto size = item.get<int64_t>();
      if (size != 0 && bytes > std::numeric_limits<int64_t>::max() / size)
        return corrupt("a shape that fits memory, got {} (tensor={})", json_excerpt(shape), name);
      bytes *= size;
      tensor.shape.push_back(size);
    }
    if (bytes != static_cast<int64_t>(end - begin))
      return corrupt("{} bytes by its shape, got {} (tensor={})", bytes, end - begin, name);
    return tensor;
  }

  // Every byte belongs to exactly one tensor.
  Status check_coverage(const std::map<std::string, TensorView>& tensors, std::span<const uint8_t> data) const {
    std::vector<std::span<const uint8_t>> parts;
    for (const auto& [name, tensor] : tensors) parts.push_back(tensor.bytes);
    std::sort(parts.begin(), parts.end(),
              [](auto a, auto b) { return a.data() != b.data() ? a.data() < b.data() : a.size() < b.size(); });
    const uint8_t* end = data.data();
    for (const auto part : parts) {
      if (part.data() != end) return corrupt("tensors side by side, got a gap or an overlap at byte {}", end - data.data());
      end += part.size();
    }
    if (end != data.data() + data.size())
      return corrupt("{} bytes of data in tensors, got {}", data.size(), end - data.data());
    return {};
  }

  Status read_metadata(const Json& json, std::map<std::string, std::string>& metadata) const {
    if (!json.is_object()) return corrupt("__metadata__ with text values, got a {}", json.type_name());
    for (const auto& [key, value] : json.items()) {
      if (!value.is_string()) return corrupt("__metadata__ with text values, got a {} (key={})", value.type_name(), key);
      metadata[key] = value.get<std::string>();
    }
    return {};
  }
};

}  // namespace

std::string_view name(ElementType type) { return type_name(type).name; }
int64_t bytes_of(ElementType type) { return type_name(type).bytes; }

std::string write(std::span<const NamedTensor> tensors, const std::map<std::string, std::string>& metadata,
                  size_t alignment) {
  Json header = Json::object();
  header[kMetadata] = Json::object();
  for (const auto& [key, value] : metadata) header[kMetadata][key] = value;
  size_t size = 0;
  for (const NamedTensor& entry : tensors) {
    header[entry.name] = describe(entry.tensor, size);
    size += entry.tensor.bytes.size();
  }
  const std::string text = json_text(header);
  const auto length =
      static_cast<size_t>(round_up(static_cast<int64_t>(kLengthBytes + text.size()), static_cast<int64_t>(alignment))) -
      kLengthBytes;
  std::string bytes;
  bytes.reserve(kLengthBytes + length + size);
  for (size_t i = 0; i < kLengthBytes; ++i) bytes.push_back(static_cast<char>(length >> (8 * i) & 0xFF));
  bytes += text;
  bytes.append(length - text.size(), ' ');
  for (const NamedTensor& entry : tensors) {
    const auto data = entry.tensor.bytes;
    if (data.data() == nullptr) {
      bytes.append(data.size(), '\0');
    } else {
      bytes.append(reinterpret_cast<const char*>(data.data()), data.size());
    }
  }
  return bytes;
}

Result<Parts> split(std::span<const uint8_t> bytes, std::string_view where) {
  const Reader reader{where};
  if (bytes.size() < kLengthBytes) return reader.corrupt("a file of at least 8 bytes, got {}", bytes.size());
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{bytes[i]} << (8 * i);
  if (length > kMaxHeader || length > bytes.size() - kLengthBytes)
    return reader.corrupt("a header within the file of {} bytes, got {} bytes (truncated, or not a safetensors file)",
                          bytes.size(), length);
  return Parts{{reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length}, bytes.subspan(kLengthBytes + length)};
}

Result<Contents> read(const Parts& parts, std::string_view where) {
  const Reader reader{where};
  BITLAB_TRY(const Json header, parse_json(parts.header, where));
  if (!header.is_object()) return reader.corrupt("a JSON object as the header, got a {}", header.type_name());
  Contents file;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadata) {
      BITLAB_RETURN_IF_ERROR(reader.read_metadata(json, file.metadata));
    } else {
      BITLAB_TRY(file.tensors[name], reader.read_tensor(name, json, parts.data));
    }
  }
  BITLAB_RETURN_IF_ERROR(reader.check_coverage(file.tensors, parts.data));
  return file;
}

}  // namespace bitlab::format::safetensors
