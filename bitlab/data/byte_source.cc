#include "bitlab/data/internal/byte_source.h"

#include <algorithm>
#include <array>

namespace bitlab::data {

bool is_gzip(std::span<const uint8_t> bytes) { return bytes.size() >= 2 && bytes[0] == 0x1F && bytes[1] == 0x8B; }

ByteSource::ByteSource(std::span<const uint8_t> file) : rest_(file) {
  constexpr int kDetectGzip = 15 + 32;
  gzipped_ = is_gzip(file);
  if (gzipped_) valid_ = inflateInit2(&stream_, kDetectGzip) == Z_OK;
}

ByteSource::~ByteSource() {
  if (gzipped_ && valid_) inflateEnd(&stream_);
}

size_t ByteSource::read(std::span<uint8_t> out) {
  if (!gzipped_) {
    const size_t count = std::min(out.size(), rest_.size());
    std::copy_n(rest_.begin(), count, out.begin());
    rest_ = rest_.subspan(count);
    return count;
  }
  size_t filled = 0;
  while (valid_ && filled < out.size()) {
    constexpr size_t kPiece = 1 << 20;  // zlib counts in 32 bits
    const size_t in = std::min(kPiece, rest_.size()), room = std::min(kPiece, out.size() - filled);
    stream_.next_in = const_cast<Bytef*>(rest_.data());
    stream_.avail_in = static_cast<uInt>(in);
    stream_.next_out = out.data() + filled;
    stream_.avail_out = static_cast<uInt>(room);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    const size_t consumed = in - stream_.avail_in, produced = room - stream_.avail_out;
    rest_ = rest_.subspan(consumed);
    filled += produced;
    ended_ = status == Z_STREAM_END;
    if (status != Z_OK || (consumed == 0 && produced == 0)) break;
  }
  return filled;
}

std::vector<uint8_t> ByteSource::read_up_to(size_t count) {
  constexpr size_t kPiece = 16 << 20;
  std::vector<uint8_t> bytes;
  while (bytes.size() < count) {
    const size_t before = bytes.size(), piece = std::min(kPiece, count - before);
    bytes.resize(before + piece);
    const size_t got = read(std::span(bytes).subspan(before));
    bytes.resize(before + got);
    if (got != piece) break;
  }
  return bytes;
}

bool ByteSource::complete() {
  std::array<uint8_t, 1> extra{};
  return read(extra) == 0 && (!gzipped_ || (ended_ && rest_.empty()));
}

}  // namespace bitlab::data
