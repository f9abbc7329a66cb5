// The idx reader, plain and gzipped.
#include "tests/fuzz/fuzz.h"

#include <zlib.h>

#include "bitlab/data/internal/idx.h"

namespace bitlab::fuzz {

bool read_bytes(std::span<const uint8_t> bytes) { return data::parse_idx(bytes).ok(); }

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<uint8_t> plain{0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 5};
  for (uint8_t i = 0; i < 15; ++i) plain.push_back(i);
  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  deflateInit2(&stream, 9, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY);
  std::vector<uint8_t> gzipped(deflateBound(&stream, plain.size()));
  stream.next_in = plain.data();
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = gzipped.data();
  stream.avail_out = static_cast<uInt>(gzipped.size());
  deflate(&stream, Z_FINISH);
  gzipped.resize(stream.total_out);
  deflateEnd(&stream);
  return {plain, gzipped};
}

void repair(std::vector<uint8_t>&) {}

MemoryBound memory_bound() { return {16, 17 << 20}; }  // the constant: values are read in pieces of 16 MiB

}  // namespace bitlab::fuzz
