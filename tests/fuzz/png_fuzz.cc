// The PNG reader.
#include "tests/fuzz/fuzz.h"
#include <filesystem>
#include <unistd.h>

#include <fmt/core.h>
#include <zlib.h>

#include "bitlab/base/file.h"
#include "bitlab/data/image.h"

namespace bitlab::fuzz {
namespace {

const std::filesystem::path& scratch() {
  static const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_fuzz_{}.png", getpid());
  return path;
}

std::vector<uint8_t> contents() {
  const std::string text = read_file(scratch()).value();
  std::filesystem::remove(scratch());
  return {text.begin(), text.end()};
}

}  // namespace

bool read_bytes(std::span<const uint8_t> bytes) {
  if (!write_file_atomic(scratch(), bytes).ok()) return false;
  const bool accepted = data::read_image(scratch(), 1).ok() && data::read_image(scratch(), 3).ok();
  std::filesystem::remove(scratch());
  return accepted;
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  for (int64_t channels : {1, 3}) {
    data::Image image{channels, 6, 5, {}};
    for (int64_t i = 0; i < channels * 30; ++i) image.pixels.push_back(static_cast<uint8_t>(i * 37));
    data::write_png(scratch(), image).value();
    list.push_back(contents());
  }
  return list;
}

// Right checksums for every chunk.
void repair(std::vector<uint8_t>& bytes) {
  for (size_t at = 8; at + 12 <= bytes.size();) {
    const size_t length = size_t{bytes[at]} << 24 | size_t{bytes[at + 1]} << 16 | size_t{bytes[at + 2]} << 8 | bytes[at + 3];
    if (length > bytes.size() - at - 12) return;
    const auto crc = static_cast<uint32_t>(crc32(0, bytes.data() + at + 4, static_cast<uInt>(length + 4)));
    for (size_t i = 0; i < 4; ++i) bytes[at + 8 + length + i] = static_cast<uint8_t>(crc >> (24 - 8 * i));
    at += 12 + length;
  }
}

MemoryBound memory_bound() {
  return {6 * 8 * 1032, 64 << 10};
}  // what deflate can hold, in up to six bytes a pixel of one bit

}  // namespace bitlab::fuzz
