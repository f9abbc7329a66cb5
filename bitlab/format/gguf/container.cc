#include "bitlab/format/gguf/internal/container.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::format::gguf {
namespace {

static_assert(std::endian::native == std::endian::little);  // numbers are copied as they lie in files

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kMaxSizes = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr std::string_view kAlignmentKey = "general.alignment";

// Of one value of each type; 0 of those without a size of their own.
constexpr uint64_t kBytes[kTypeCount] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[gguf] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  Result<Contents> read() {
    BITLAB_TRY(const std::string_view magic, take(kMagic.size()));
    if (magic != kMagic) return corrupt("a file that begins with GGUF, got another one");
    BITLAB_TRY(const auto version, number<uint32_t>());
    if (version != 2 && version != 3)
      return make_error(ErrorCode::kUnsupportedVersion, "[gguf] version 2 or 3, little-endian, got {}", version);
    BITLAB_TRY(const auto tensors, number<uint64_t>());
    BITLAB_TRY(const auto metadata, number<uint64_t>());
    for (uint64_t i = 0; i < metadata; ++i) BITLAB_RETURN_IF_ERROR(read_metadata());
    BITLAB_RETURN_IF_ERROR(read_alignment());
    for (uint64_t i = 0; i < tensors; ++i) BITLAB_RETURN_IF_ERROR(read_tensor());
    BITLAB_RETURN_IF_ERROR(place_tensors());
    return std::move(file_);
  }

 private:
  Result<std::string_view> take(uint64_t size) {
    if (size > bytes_.size() - at_) return corrupt("{} bytes at {}, got {} (truncated)", size, at_, bytes_.size() - at_);
    const std::string_view taken(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return taken;
  }
  template <class T>
  Result<T> number() {
    BITLAB_TRY(const std::string_view bytes, take(sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  Result<std::string_view> text() {
    BITLAB_TRY(const auto size, number<uint64_t>());
    return take(size);
  }
  Result<std::string> name(std::string_view what) {
    BITLAB_TRY(const std::string_view name, text());
    if (name.empty() || name.find('\0') != std::string_view::npos) return corrupt("a name of a {}, got an empty one", what);
    return std::string(name);
  }

  template <class T>
  Result<Metadata> plain() {
    BITLAB_TRY(const T value, number<T>());
    if constexpr (std::is_floating_point_v<T>) {
      return Metadata(static_cast<double>(value));
    } else {
      if (static_cast<uint64_t>(value) > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) && value > 0)
        return corrupt("a number below 2^63, got {}", value);
      return Metadata(static_cast<int64_t>(value));
    }
  }
  Result<Metadata> value(uint32_t type) {
    switch (type) {
      case kU8:
        return plain<uint8_t>();
      case kI8:
        return plain<int8_t>();
      case kU16:
        return plain<uint16_t>();
      case kI16:
        return plain<int16_t>();
      case kU32:
        return plain<uint32_t>();
      case kI32:
        return plain<int32_t>();
      case kU64:
        return plain<uint64_t>();
      case kI64:
        return plain<int64_t>();
      case kF32:
        return plain<float>();
      case kF64:
        return plain<double>();
      case kBool: {
        BITLAB_TRY(const auto byte, number<uint8_t>());
        return Metadata(byte != 0);
      }
      case kString: {
        BITLAB_TRY(const std::string_view found, text());
        return Metadata(std::string(found));
      }
      case kArray:
        return array();
      default:
        return corrupt("a type of metadata below {}, got {}", uint32_t{kTypeCount}, type);
    }
  }
  Result<Metadata> array() {
    BITLAB_TRY(const auto type, number<uint32_t>());
    BITLAB_TRY(const auto count, number<uint64_t>());
    if (type >= kTypeCount || type == kArray) return corrupt("an array of numbers or texts, got the type {}", type);
    const uint64_t begin = at_;
    if (type == kString) {
      for (uint64_t i = 0; i < count; ++i) {
        BITLAB_TRY(const std::string_view skipped, text());
        static_cast<void>(skipped);
      }
    } else {
      if (count > bytes_.size()) return corrupt("an array within the file, got {} values", count);
      BITLAB_TRY(const std::string_view skipped, take(count * kBytes[type]));
      static_cast<void>(skipped);
    }
    const auto values = bytes_.subspan(begin, at_ - begin);
    return Metadata(Array{type, count, {reinterpret_cast<const char*>(values.data()), values.size()}});
  }
  Status read_metadata() {
    BITLAB_TRY(std::string key, name("key"));
    BITLAB_TRY(const auto type, number<uint32_t>());
    BITLAB_TRY(Metadata found, value(type));
    const auto [place, is_new] = file_.metadata.emplace(std::move(key), std::move(found));
    if (!is_new) return corrupt("one value a key, got two (key={})", place->first);
    return {};
  }
  Status read_alignment() {
    const auto found = file_.metadata.find(std::string(kAlignmentKey));
    if (found == file_.metadata.end()) return {};
    const auto* alignment = std::get_if<int64_t>(&found->second);
    if (alignment == nullptr || *alignment < 1 || static_cast<uint64_t>(*alignment) > kMaxAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(*alignment)))
      return corrupt("a power of two up to {} as {}, got {}", kMaxAlignment, kAlignmentKey,
                     alignment == nullptr ? "no integer" : std::to_string(*alignment));
    file_.alignment = static_cast<uint64_t>(*alignment);
    return {};
  }

  Status read_tensor() {
    BITLAB_TRY(std::string tensor, name("tensor"));
    BITLAB_TRY(const auto sizes, number<uint32_t>());
    if (sizes < 1 || sizes > kMaxSizes) return corrupt("1 to {} sizes, got {} (tensor={})", kMaxSizes, sizes, tensor);
    TensorInfo info{};
    uint64_t count = 1;
    for (uint32_t i = 0; i < sizes; ++i) {
      constexpr uint64_t kMaxCount = uint64_t{1} << 40;
      BITLAB_TRY(const auto size, number<uint64_t>());
      if (size < 1 || size > kMaxCount / count)
        return corrupt("sizes with a product from 1 to {}, got {} (tensor={})", kMaxCount, size, tensor);
      count *= size;
      info.shape.insert(info.shape.begin(), static_cast<int64_t>(size));
    }
    BITLAB_TRY(info.type, number<uint32_t>());
    BITLAB_TRY(const auto offset, number<uint64_t>());
    if (offset % file_.alignment != 0)
      return corrupt("offsets at multiples of {}, got {} (tensor={})", file_.alignment, offset, tensor);
    const auto [place, is_new] = file_.tensors.emplace(std::move(tensor), std::move(info));
    if (!is_new) return corrupt("one tensor a name, got two (tensor={})", place->first);
    offsets_.emplace_back(offset, place);
    return {};
  }
  // Each gets the bytes up to the next one. Where two begin at one place, the first has none, which no type of tensors accepts.
  Status place_tensors() {
    const uint64_t begin = (at_ + file_.alignment - 1) / file_.alignment * file_.alignment;
    const auto data = bytes_.subspan(std::min<uint64_t>(begin, bytes_.size()));
    std::sort(offsets_.begin(), offsets_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    uint64_t end = data.size();
    for (auto place = offsets_.rbegin(); place != offsets_.rend(); ++place) {
      const auto& [offset, tensor] = *place;
      if (offset > data.size())
        return corrupt("offsets within {} bytes of data, got {} (tensor={})", data.size(), offset, tensor->first);
      tensor->second.bytes = data.subspan(offset, end - offset);
      end = offset;
    }
    return {};
  }

  std::span<const uint8_t> bytes_;
  uint64_t at_ = 0;
  Contents file_;
  std::vector<std::pair<uint64_t, std::map<std::string, TensorInfo>::iterator>> offsets_;
};

struct Writer {
  std::string bytes;

  template <class T>
  void number(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void text(std::string_view text) {
    number(uint64_t{text.size()});
    bytes += text;
  }
  void pad(uint64_t alignment) { bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0'); }

  void value(int64_t v) {
    number(uint32_t{kU32});
    number(static_cast<uint32_t>(v));
  }
  void value(double v) {
    number(uint32_t{kF32});
    number(static_cast<float>(v));
  }
  void value(bool v) {
    number(uint32_t{kBool});
    number(uint8_t{v});
  }
  void value(const std::string& v) {
    number(uint32_t{kString});
    text(v);
  }
  void value(const Array& v) {
    number(uint32_t{kArray});
    number(v.type);
    number(v.count);
    bytes += v.bytes;
  }
};

template <class T>
Array array_of_numbers(Type type, const std::vector<T>& values) {
  return {type, values.size(), {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
}

template <class T>
std::vector<double> widened(const Array& array) {
  std::vector<double> values;
  values.reserve(array.count);
  for (size_t at = 0; at < array.bytes.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, array.bytes.data() + at, sizeof(T));
    values.push_back(static_cast<double>(value));
  }
  return values;
}

}  // namespace

Array array_of(const std::vector<std::string>& texts) {
  Writer writer;
  for (const std::string& text : texts) writer.text(text);
  return {kString, texts.size(), std::move(writer.bytes)};
}
Array array_of(const std::vector<float>& values) { return array_of_numbers(kF32, values); }
Array array_of(const std::vector<int32_t>& values) { return array_of_numbers(kI32, values); }
Array array_of_bytes(std::string bytes) {
  const uint64_t count = bytes.size();
  return {kU8, count, std::move(bytes)};
}

std::optional<std::vector<std::string>> texts_of(const Array& array) {
  if (array.type != kString) return std::nullopt;
  std::vector<std::string> texts;
  texts.reserve(array.count);
  for (size_t at = 0; texts.size() < array.count;) {
    uint64_t size = 0;
    std::memcpy(&size, array.bytes.data() + at, sizeof(size));
    texts.push_back(array.bytes.substr(at + sizeof(size), size));
    at += sizeof(size) + size;
  }
  return texts;
}

std::optional<std::vector<double>> numbers_of(const Array& array) {
  switch (array.type) {
    case kU8:
      return widened<uint8_t>(array);
    case kI8:
      return widened<int8_t>(array);
    case kU16:
      return widened<uint16_t>(array);
    case kI16:
      return widened<int16_t>(array);
    case kU32:
      return widened<uint32_t>(array);
    case kI32:
      return widened<int32_t>(array);
    case kF32:
      return widened<float>(array);
    case kU64:
      return widened<uint64_t>(array);
    case kI64:
      return widened<int64_t>(array);
    case kF64:
      return widened<double>(array);
    default:
      return std::nullopt;
  }
}

std::optional<std::string> bytes_of(const Array& array) {
  if (array.type != kU8 && array.type != kI8) return std::nullopt;
  return array.bytes;
}

Result<Contents> read_container(std::span<const uint8_t> bytes) { return Reader(bytes).read(); }

std::string write_container(const std::vector<std::pair<std::string, Metadata>>& metadata,
                            const std::vector<Tensor>& tensors) {
  constexpr uint64_t kAlign = 32;
  Writer writer;
  writer.bytes = kMagic;
  writer.number(uint32_t{3});
  writer.number(uint64_t{tensors.size()});
  writer.number(uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    writer.text(key);
    std::visit([&](const auto& v) { writer.value(v); }, value);
  }
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    writer.text(tensor.name);
    writer.number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) writer.number(static_cast<uint64_t>(*size));
    writer.number(tensor.type);
    writer.number(offset);
    offset = (offset + tensor.bytes.size() + kAlign - 1) / kAlign * kAlign;
  }
  writer.pad(kAlign);
  for (const Tensor& tensor : tensors) {
    writer.bytes += tensor.bytes;
    writer.pad(kAlign);
  }
  return std::move(writer.bytes);
}

}  // namespace bitlab::format::gguf
