#include "bitlab/data/internal/idx.h"

#include <algorithm>
#include <array>

#include <zlib.h>

#include "bitlab/base/file.h"

namespace bitlab::data {
namespace {

constexpr int64_t kMaxValues = int64_t{1} << 30;
constexpr int kUnsignedByte = 8;

// Delivers the bytes of a gzipped or plain file one piece at a time.
class Source {
 public:
  explicit Source(std::span<const uint8_t> bytes) : rest_(bytes) {
    constexpr int kDetectGzip = 15 + 32;
    gzipped_ = bytes.size() >= 2 && bytes[0] == 0x1F && bytes[1] == 0x8B;
    if (gzipped_) valid_ = inflateInit2(&stream_, kDetectGzip) == Z_OK;
  }
  ~Source() {
    if (gzipped_ && valid_) inflateEnd(&stream_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // Fills `out` as far as there are bytes; returns how many.
  size_t read(std::span<uint8_t> out) {
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

  // Whether nothing is left, and gzip's own checksum and length were there and right.
  bool complete() {
    std::array<uint8_t, 1> extra{};
    return read(extra) == 0 && (!gzipped_ || (ended_ && rest_.empty()));
  }

 private:
  std::span<const uint8_t> rest_;
  z_stream stream_{};
  bool gzipped_ = false;
  bool ended_ = false;
  bool valid_ = true;
};

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[idx] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

Result<std::vector<int64_t>> read_shape(Source& source) {
  std::array<uint8_t, 4> magic{};
  if (source.read(magic) != magic.size()) return corrupt("4 bytes at the start, got a truncated file");
  if (magic[0] != 0 || magic[1] != 0) return corrupt("two zero bytes at the start, got {} and {}", magic[0], magic[1]);
  if (magic[2] != kUnsignedByte)
    return make_error(ErrorCode::kUnsupported, "[idx] unsigned bytes (type 8), got type {}", magic[2]);
  if (magic[3] < 1 || magic[3] > 4) return corrupt("1 to 4 dimensions, got {}", magic[3]);
  std::vector<int64_t> shape;
  int64_t count = 1;
  for (int i = 0; i < magic[3]; ++i) {
    std::array<uint8_t, 4> size{};
    if (source.read(size) != size.size()) return corrupt("{} sizes, got a truncated file", magic[3]);
    shape.push_back(int64_t{size[0]} << 24 | int64_t{size[1]} << 16 | int64_t{size[2]} << 8 | int64_t{size[3]});
    if (shape.back() == 0 || shape.back() > kMaxValues / count)
      return corrupt("between 1 and 2^30 values, got {} times {}", count, shape.back());
    count *= shape.back();
  }
  return shape;
}

}  // namespace

Result<IdxArray> parse_idx(std::span<const uint8_t> bytes) {
  Source source(bytes);
  BITLAB_TRY(std::vector<int64_t> shape, read_shape(source));
  size_t count = 1;
  for (int64_t size : shape) count *= static_cast<size_t>(size);
  IdxArray array{std::move(shape), {}};
  // Memory grows with what is really there, not with what a header claims.
  constexpr size_t kPiece = 16 << 20;
  while (array.values.size() < count) {
    const size_t before = array.values.size(), piece = std::min(kPiece, count - before);
    array.values.resize(before + piece);
    const size_t got = source.read(std::span(array.values).subspan(before));
    if (got != piece) return corrupt("{} values, got {} (truncated or damaged)", count, before + got);
  }
  if (!source.complete()) return corrupt("{} values and the end of the file, got more, or a damaged end", count);
  return array;
}

Result<IdxArray> read_idx(const std::filesystem::path& path) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Result<IdxArray> array = parse_idx(file->bytes());
  if (!array.ok()) return make_error(array.error().code, "{} (path={})", array.error().message, path.string());
  return array;
}

}  // namespace bitlab::data
