// The reader of tars.
#include "tests/fuzz/fuzz.h"
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include <fmt/core.h>

#include "bitlab/data/internal/file_set.h"

namespace bitlab::fuzz {
namespace {

constexpr size_t kBlock = 512;

// The sum of a header's bytes, where its own digits count as spaces.
void put_sum(std::vector<uint8_t>& bytes, size_t at) {
  std::fill_n(bytes.begin() + static_cast<int64_t>(at + 148), 8, uint8_t{' '});
  unsigned sum = 0;
  for (size_t i = 0; i < kBlock; ++i) sum += bytes[at + i];
  const std::string digits = fmt::format("{:06o}", sum);
  std::copy(digits.begin(), digits.end(), bytes.begin() + static_cast<int64_t>(at + 148));
  bytes[at + 154] = 0;
}

void append(std::vector<uint8_t>& tar, const std::string& name, char type, const std::string& content) {
  const size_t at = tar.size();
  tar.resize(at + kBlock + (content.size() + kBlock - 1) / kBlock * kBlock);
  const auto put = [&](size_t offset, const std::string& text) {
    std::copy(text.begin(), text.end(), tar.begin() + static_cast<int64_t>(at + offset));
  };
  put(0, name);
  put(124, fmt::format("{:011o}", content.size()));
  put(156, std::string(1, type));
  put(257, "ustar");
  put(kBlock, content);
  put_sum(tar, at);
}

}  // namespace

bool read_bytes(std::span<const uint8_t> bytes) {
  static const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_fuzz_{}.tar", getpid());
  // Not write_file_atomic, which waits for the disk.
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  const auto set = data::FileSet::open(path);
  bool read = set.ok();
  for (size_t i = 0; read && i < (*set)->names().size(); ++i) read = (*set)->read(i).ok();
  std::filesystem::remove(path);
  return read;
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<uint8_t> tar;
  append(tar, "a/one.txt", '0', "1");
  append(tar, "././@LongLink", 'L', std::string(200, 'n'));
  append(tar, "short", '0', std::string(600, 'x'));
  append(tar, "pax", 'x', "19 path=b/two.text\n");
  append(tar, "other", '0', "2");
  tar.resize(tar.size() + 2 * kBlock);
  return {tar};
}

// Of every block: sums of contents do no harm.
void repair(std::vector<uint8_t>& bytes) {
  for (size_t at = 0; at + kBlock <= bytes.size(); at += kBlock)
    if (std::any_of(bytes.begin() + static_cast<int64_t>(at), bytes.begin() + static_cast<int64_t>(at + kBlock),
                    [](uint8_t b) { return b != 0; }))
      put_sum(bytes, at);
}

MemoryBound memory_bound() { return {16, 17 << 20}; }  // the constant: gzipped ones are unpacked in pieces of 16 MiB

}  // namespace bitlab::fuzz
