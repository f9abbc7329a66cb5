#include "bitlab/format/bit/internal/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>

#include <zlib.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/json.h"

namespace bitlab::format::bit {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeader = 100'000'000;  // as in the safetensors library
constexpr std::string_view kPadPrefix = "_pad.";
constexpr std::string_view kHeaderCrc = "bitlab.header_crc32";
constexpr std::string_view kDataCrc = "bitlab.data_crc32";
constexpr std::string_view kNoDigits = "00000000";

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[bit] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

std::string crc32_digits(std::span<const uint8_t> bytes, unsigned long crc = 0) {
  constexpr size_t kPiece = 1 << 30;  // zlib counts in 32 bits
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(kPiece, bytes.size())))
    crc = ::crc32(crc, bytes.data(), static_cast<uInt>(std::min(kPiece, bytes.size())));
  return fmt::format("{:08x}", crc);
}

std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string length_bytes(size_t length) {
  std::string bytes;
  for (size_t i = 0; i < kLengthBytes; ++i) bytes.push_back(static_cast<char>(length >> (8 * i) & 0xFF));
  return bytes;
}

// Where the header's own checksum stands: the digits behind its key.
size_t find_digits(std::string_view header) {
  const std::string key = fmt::format("\"{}\":\"", kHeaderCrc);
  const size_t at = header.find(key);
  return at == std::string_view::npos || at + key.size() + kNoDigits.size() > header.size() ? std::string_view::npos
                                                                                            : at + key.size();
}

std::string header_digits(std::string header) {
  header.replace(find_digits(header), kNoDigits.size(), kNoDigits);
  return crc32_digits(as_bytes(length_bytes(header.size()) + header));
}

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

Result<TensorView> read_tensor(const std::string& name, const Json& json, std::span<const uint8_t> data) {
  if (!json.is_object()) return corrupt("dtype, shape and data_offsets, got a {} (tensor={})", json.type_name(), name);
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!json.contains(key)) return corrupt("dtype, shape and data_offsets, got no {} (tensor={})", key, name);
  const Json &dtype = json["dtype"], &shape = json["shape"], &offsets = json["data_offsets"];
  const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& t) { return dtype == t.name; });
  if (type == kTypes.end()) {
    std::string known;
    for (const TypeName& t : kTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", t.name);
    return corrupt("a dtype of {}, got {} (tensor={})", known, json_excerpt(dtype), name);
  }
  if (!offsets.is_array() || offsets.size() != 2 || !is_size(offsets[0]) || !is_size(offsets[1]) || !shape.is_array() ||
      !std::all_of(shape.begin(), shape.end(), is_size))
    return corrupt("a shape and two offsets, got {} and {} (tensor={})", json_excerpt(shape), json_excerpt(offsets), name);
  const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size())
    return corrupt("offsets within {} bytes of data, got {} and {} (tensor={})", data.size(), begin, end, name);
  TensorView tensor{type->type, {}, data.subspan(begin, end - begin)};
  int64_t bytes = type->bytes;
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
Status check_coverage(const std::map<std::string, TensorView>& tensors, std::span<const uint8_t> data) {
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

Result<std::string_view> read_header(std::span<const uint8_t> bytes) {
  if (bytes.size() < kLengthBytes) return corrupt("a file of at least 8 bytes, got {}", bytes.size());
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{bytes[i]} << (8 * i);
  if (length > kMaxHeader || length > bytes.size() - kLengthBytes)
    return corrupt("a header within the file of {} bytes, got {} bytes (truncated, or not a .bit file)", bytes.size(),
                   length);
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
}

Status check_header_crc(std::string_view header) {
  const size_t digits = find_digits(header);
  if (digits == std::string_view::npos) return corrupt("{} in the header, got none (not a .bit file)", kHeaderCrc);
  const std::string_view found = header.substr(digits, kNoDigits.size());
  const std::string computed = header_digits(std::string(header));
  if (computed != found) return corrupt("header checksum {}, got {}: the header was changed", found, computed);
  return {};
}

Status read_metadata(const Json& json, std::map<std::string, std::string>& metadata) {
  if (!json.is_object()) return corrupt("__metadata__ with text values, got a {}", json.type_name());
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) return corrupt("__metadata__ with text values, got a {} (key={})", value.type_name(), key);
    metadata[key] = value.get<std::string>();
  }
  return {};
}

}  // namespace

std::string_view name(ElementType type) { return type_name(type).name; }

std::string write_safetensors(std::span<const NamedTensor> tensors, std::map<std::string, std::string> metadata) {
  std::string data;
  Json header = Json::object();
  header["__metadata__"] = Json::object();
  int pads = 0;
  for (const NamedTensor& entry : tensors) {
    const auto gap = static_cast<size_t>(round_up(static_cast<int64_t>(data.size()), kAlignment)) - data.size();
    if (gap != 0) {
      const TensorView pad{ElementType::kU8, {static_cast<int64_t>(gap)}, {static_cast<const uint8_t*>(nullptr), gap}};
      header[fmt::format("{}{}", kPadPrefix, pads++)] = describe(pad, data.size());
      data.append(gap, '\0');
    }
    header[entry.name] = describe(entry.tensor, data.size());
    data.append(reinterpret_cast<const char*>(entry.tensor.bytes.data()), entry.tensor.bytes.size());
  }
  metadata[std::string(kHeaderCrc)] = kNoDigits;
  metadata[std::string(kDataCrc)] = crc32_digits(as_bytes(data));
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  std::string text = json_text(header);
  text.append(static_cast<size_t>(round_up(static_cast<int64_t>(kLengthBytes + text.size()), kAlignment)) - kLengthBytes -
                  text.size(),
              ' ');
  text.replace(find_digits(text), kNoDigits.size(), header_digits(text));
  return length_bytes(text.size()) + text + data;
}

Result<Safetensors> read_safetensors(std::span<const uint8_t> bytes) {
  BITLAB_TRY(const std::string_view text, read_header(bytes));
  BITLAB_RETURN_IF_ERROR(check_header_crc(text));
  BITLAB_TRY(const Json header, parse_json(text, "bit"));
  if (!header.is_object()) return corrupt("a JSON object as the header, got a {}", header.type_name());
  if (!header.contains("__metadata__")) return corrupt("a JSON header with __metadata__, got one without");
  const auto data = bytes.subspan(kLengthBytes + text.size());
  Safetensors file;
  BITLAB_RETURN_IF_ERROR(read_metadata(header["__metadata__"], file.metadata));
  const std::string crc = crc32_digits(data);
  if (file.metadata[std::string(kDataCrc)] != crc)
    return corrupt("data checksum {}, got {}: the file was changed or truncated", file.metadata[std::string(kDataCrc)], crc);
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") continue;
    BITLAB_TRY(file.tensors[name], read_tensor(name, json, data));
  }
  BITLAB_RETURN_IF_ERROR(check_coverage(file.tensors, data));
  std::erase_if(file.tensors, [](const auto& entry) { return entry.first.starts_with(kPadPrefix); });
  return file;
}

}  // namespace bitlab::format::bit
