#include "bitlab/data/internal/idx.h"

#include <array>

#include "bitlab/base/file.h"
#include "bitlab/data/internal/byte_source.h"

namespace bitlab::data {
namespace {

constexpr int64_t kMaxValues = int64_t{1} << 30;
constexpr int kUnsignedByte = 8;

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[idx] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

Result<std::vector<int64_t>> read_shape(ByteSource& source) {
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
  ByteSource source(bytes);
  BITLAB_TRY(std::vector<int64_t> shape, read_shape(source));
  size_t count = 1;
  for (int64_t size : shape) count *= static_cast<size_t>(size);
  IdxArray array{std::move(shape), {}};
  array.values = source.read_up_to(count);
  if (array.values.size() != count) return corrupt("{} values, got {} (truncated or damaged)", count, array.values.size());
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
