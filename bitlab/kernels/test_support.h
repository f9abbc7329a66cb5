// What the kernels' tests share: random data, worst cases, memory that faults behind its end, bit comparison.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/machine.h"
#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/internal/draw.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels::test {

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float spread = 2.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(generator);
  return values;
}

// A value for each byte of SplitMix64's numbers: shapes hold millions, and under qemu std::uniform_int_distribution costs a quarter of a test.
inline std::vector<int8_t> random_int8(int64_t count, uint32_t seed, int least, int most) {
  const uint64_t key = ternary::draw_key(seed), choices = static_cast<uint64_t>(most - least + 1);
  std::vector<int8_t> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); i += 8) {
    uint64_t bits = ternary::mix(key + i * ternary::kDrawIncrement);
    for (size_t j = i; j < std::min(i + 8, values.size()); ++j, bits >>= 8)
      values[j] = static_cast<int8_t>(least + static_cast<int>((bits & 0xFF) * choices >> 8));
  }
  return values;
}

inline std::vector<uint8_t> packed(const std::vector<int8_t>& t, int64_t rows, int64_t depth) {
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(t, rows, depth, codes);
  return codes;
}

// Bytes that end at a page that faults, so that a read or write past the end does not go unseen.
class GuardedBytes {
 public:
  explicit GuardedBytes(size_t size) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    const size_t whole = (size + page_ - 1) / page_ * page_;
    mapped_ = whole + page_;
    base_ = static_cast<uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + whole, page_, PROT_NONE);
    begin_ = base_ + whole - size;
  }
  ~GuardedBytes() { munmap(base_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(begin_);
  }
  template <class T>
  T* fill(std::span<const T> values) {
    if (!values.empty()) std::memcpy(begin_, values.data(), values.size_bytes());
    return as<T>();
  }

 private:
  size_t page_, mapped_;
  uint8_t *base_, *begin_;
};

// [batch, rows, columns] to [batch, columns, rows].
template <class T>
std::vector<T> transposed(const std::vector<T>& x, int64_t batch, int64_t rows, int64_t columns) {
  std::vector<T> y(x.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        y[static_cast<size_t>((b * columns + c) * rows + r)] = x[static_cast<size_t>((b * rows + r) * columns + c)];
  return y;
}

// x . w in the order of simd.h: lane k mod 16, then a tree of halves.
template <class Weight>
float ordered_dot(std::span<const float> x, std::span<const Weight> w) {
  float lane[16] = {};
  for (size_t k = 0; k < x.size(); ++k) {
    const float product = x[k] * static_cast<float>(w[k]);
    lane[k % 16] += product;
  }
  for (size_t width = 8; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// x . w as float_gemm defines it: in the order of k, each step rounded once.
inline float fused_dot(std::span<const float> x, std::span<const float> w) {
  float sum = 0;
  for (size_t k = 0; k < x.size(); ++k) sum = std::fma(x[k], w[k], sum);
  return sum;
}

// What tests/kernels/emulated_avx512.h makes of AVX2, where kernels of this program are replaced by emulated ones.
inline FeatureSet emulated_features() {
  if (std::getenv("BITLAB_TEST_EMULATED") == nullptr) return {};
  return {Feature::avx512f, Feature::avx512bw, Feature::avx512vl, Feature::avx512vnni};
}

// Why this machine cannot run a row of a kernels.def; empty where it can.
template <class Row>
std::string why_not_here(const Row& row) {
  if (row.run == nullptr) return std::string(row.name) + " is not part of this build";
  const FeatureSet emulated = emulated_features(), left = row.needs.minus(emulated),
                   missing = left.minus(this_machine().features);
  if (!emulated.empty() && row.needs.minus(left).empty()) return std::string(row.name) + " is not emulated";
  return missing.empty() ? "" : "this machine lacks " + missing.to_string();
}

// The rows that it can run.
template <class Row>
std::vector<const Row*> runnable(const KernelList<Row>& list) {
  std::vector<const Row*> rows;
  for (const Row& row : list.rows)
    if (why_not_here(row).empty()) rows.push_back(&row);
  return rows;
}

inline ConvGeometry geometry_of(const ternary::oracle::ConvShape& s) {
  return {s.batch, s.channels, s.input, s.kernel, s.stride, s.padding, s.dilation, s.groups, s.transposed, s.output_padding};
}

// Equal bit by bit: unlike ==, tells 0 from -0 and finds equal NaNs.
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

}  // namespace bitlab::kernels::test
