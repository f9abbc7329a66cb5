#include "bitlab/format/bit/internal/container.h"

#include <algorithm>

#include <zlib.h>

#include "bitlab/base/aligned_buffer.h"

namespace bitlab::format::bit {
namespace {

using safetensors::NamedTensor;

constexpr size_t kLengthBytes = 8;
constexpr std::string_view kPadPrefix = "_pad.";
constexpr std::string_view kHeaderCrc = "bitlab.header_crc32";
constexpr std::string_view kDataCrc = "bitlab.data_crc32";
constexpr std::string_view kNoDigits = "00000000";

std::string crc32_digits(std::span<const uint8_t> bytes) {
  constexpr size_t kPiece = 1 << 30;  // zlib counts in 32 bits
  unsigned long crc = 0;
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(kPiece, bytes.size())))
    crc = ::crc32(crc, bytes.data(), static_cast<uInt>(std::min(kPiece, bytes.size())));
  return fmt::format("{:08x}", crc);
}

std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Where the digits of a checksum stand: behind its key.
size_t find_digits(std::string_view header, std::string_view checksum) {
  const std::string key = fmt::format("\"{}\":\"", checksum);
  const size_t at = header.find(key);
  return at == std::string_view::npos || at + key.size() + kNoDigits.size() > header.size() ? std::string_view::npos
                                                                                            : at + key.size();
}

// Of the length and the header, with zeros as its own digits.
std::string header_digits(std::string text) {
  text.replace(find_digits(text, kHeaderCrc), kNoDigits.size(), kNoDigits);
  return crc32_digits(as_bytes(text));
}

Status check_checksums(std::span<const uint8_t> bytes, const safetensors::Parts& parts) {
  for (const std::string_view checksum : {kHeaderCrc, kDataCrc}) {
    const size_t at = find_digits(parts.header, checksum);
    if (at == std::string_view::npos)
      return make_error(ErrorCode::kCorrupt, "[bit] {} in the header, got none (not a .bit file)", checksum);
    const std::string_view found = parts.header.substr(at, kNoDigits.size());
    const std::string computed =
        checksum == kDataCrc
            ? crc32_digits(parts.data)
            : header_digits({reinterpret_cast<const char*>(bytes.data()), kLengthBytes + parts.header.size()});
    if (computed != found)
      return make_error(ErrorCode::kCorrupt, "[bit] {} checksum {}, got {}: it was changed or truncated",
                        checksum == kDataCrc ? "data" : "header", found, computed);
  }
  return {};
}

}  // namespace

std::string write_container(std::span<const NamedTensor> tensors, std::map<std::string, std::string> metadata) {
  std::vector<NamedTensor> padded;
  size_t size = 0;
  int pads = 0;
  for (const NamedTensor& entry : tensors) {
    const auto gap = static_cast<size_t>(round_up(static_cast<int64_t>(size), kAlignment)) - size;
    if (gap != 0)
      padded.push_back(
          {fmt::format("{}{}", kPadPrefix, pads++),
           {safetensors::ElementType::kU8, {static_cast<int64_t>(gap)}, {static_cast<const uint8_t*>(nullptr), gap}}});
    padded.push_back(entry);
    size += gap + entry.tensor.bytes.size();
  }
  for (const std::string_view checksum : {kHeaderCrc, kDataCrc}) metadata[std::string(checksum)] = kNoDigits;
  std::string bytes = safetensors::write(padded, metadata, kAlignment);
  const size_t header = bytes.size() - size;
  bytes.replace(find_digits(bytes, kDataCrc), kNoDigits.size(), crc32_digits(as_bytes(bytes).subspan(header)));
  bytes.replace(find_digits(bytes, kHeaderCrc), kNoDigits.size(), header_digits(bytes.substr(0, header)));
  return bytes;
}

Result<safetensors::Contents> read_container(std::span<const uint8_t> bytes) {
  BITLAB_TRY(const safetensors::Parts parts, safetensors::split(bytes, "bit"));
  BITLAB_RETURN_IF_ERROR(check_checksums(bytes, parts));
  BITLAB_TRY(safetensors::Contents file, safetensors::read(parts, "bit"));
  std::erase_if(file.tensors, [](const auto& entry) { return entry.first.starts_with(kPadPrefix); });
  return file;
}

}  // namespace bitlab::format::bit
