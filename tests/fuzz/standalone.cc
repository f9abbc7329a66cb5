// The corpus of broken files as a test: every seed, cut, flipped, stretched and spliced, with and without right checksums. Under a
// sanitizer it finds what a reader does wrong; always, it bounds the memory that an input can make a reader take.
#include "tests/fuzz/fuzz.h"
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <malloc.h>
#include <new>
#include <random>
#include <string_view>

#include <gtest/gtest.h>

namespace {

std::atomic<size_t> live{0}, peak{0};

void* counted(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  const size_t now = live += malloc_usable_size(memory);
  for (size_t seen = peak; now > seen && !peak.compare_exchange_weak(seen, now);) {
  }
  return memory;
}

void release(void* memory) {
  if (memory != nullptr) live -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return counted(std::malloc(size)); }
void* operator new[](size_t size) { return counted(std::malloc(size)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  void* memory = std::malloc(size);
  return memory == nullptr ? nullptr : counted(memory);
}
void* operator new(size_t size, std::align_val_t align) {
  const auto multiple = static_cast<size_t>(align);
  return counted(std::aligned_alloc(multiple, (size + multiple - 1) / multiple * multiple));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { release(memory); }

namespace bitlab::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

// Reads with and without right checksums; both must stay inside the memory bound.
void check(Bytes bytes, const char* what, size_t at) {
  const MemoryBound bound = memory_bound();
  for (const bool repaired : {false, true}) {
    if (repaired) repair(bytes);
    const size_t before = live;
    peak = before;
    read_bytes(bytes);
    const size_t taken = peak - before;
    ASSERT_LE(taken, bound.factor * bytes.size() + bound.constant) << what << " at " << at << (repaired ? ", repaired" : "");
  }
}

// Fewer tries of a large seed, each of which takes longer.
size_t most_of(size_t size, size_t most) {
  constexpr size_t kUsualSize = 4096;
  return std::max<size_t>(20, most * kUsualSize / std::max(size, kUsualSize));
}

// At most `most` positions, the first ones densely: headers are where readers decide.
std::vector<size_t> positions(size_t size, size_t most) {
  most = most_of(size, most);
  std::vector<size_t> list;
  for (size_t i = 0; i < size; i += i < most / 2 ? 1 : std::max<size_t>(1, 2 * size / most)) list.push_back(i);
  return list;
}

// An emulator tries fewer (CMakePresets.json).
const size_t kMost = [] {
  const char* text = std::getenv("BITLAB_FUZZ_POSITIONS");
  return text == nullptr ? size_t{1500} : std::strtoul(text, nullptr, 10);
}();

TEST(Corpus, SeedsAreAccepted) {
  ASSERT_FALSE(seeds().empty());
  for (const Bytes& seed : seeds()) EXPECT_TRUE(read_bytes(seed));
}

TEST(Corpus, Truncated) {
  for (const Bytes& seed : seeds())
    for (size_t size : positions(seed.size(), kMost))
      check({seed.begin(), seed.begin() + static_cast<int64_t>(size)}, "cut", size);
}

TEST(Corpus, Flipped) {
  for (const Bytes& seed : seeds())
    for (size_t i : positions(seed.size(), kMost))
      for (const int mask : {0x01, 0x08, 0x80, 0xFF}) {
        Bytes broken = seed;
        broken[i] = static_cast<uint8_t>(broken[i] ^ mask);
        check(std::move(broken), "flipped", i);
      }
}

// Digits are what shapes, offsets and counts are made of.
TEST(Corpus, AbsurdNumbers) {
  constexpr std::string_view kNumbers[] = {
      "0", "-1", "99999999999999999999", "4294967296", "9223372036854775807", "1e308", "[[]]", "\"\""};
  for (const Bytes& seed : seeds())
    for (size_t i : positions(seed.size(), kMost)) {
      if (seed[i] < '0' || seed[i] > '9' || (i > 0 && seed[i - 1] >= '0' && seed[i - 1] <= '9')) continue;
      const auto begin = seed.begin() + static_cast<int64_t>(i);
      const auto end = std::find_if(begin, seed.end(), [](uint8_t c) { return c < '0' || c > '9'; });
      for (std::string_view number : kNumbers) {
        Bytes broken(seed.begin(), begin);
        broken.insert(broken.end(), number.begin(), number.end());
        broken.insert(broken.end(), end, seed.end());
        check(std::move(broken), "number", i);
      }
    }
}

TEST(Corpus, DeepAndLong) {
  for (const Bytes& seed : seeds())
    for (size_t i : positions(seed.size(), 40))
      for (const char c : {'[', '{', ' ', '0', '\0', '"', '-'}) {
        Bytes broken(seed.begin(), seed.begin() + static_cast<int64_t>(i));
        broken.insert(broken.end(), 4000, static_cast<uint8_t>(c));
        broken.insert(broken.end(), seed.begin() + static_cast<int64_t>(i), seed.end());
        check(std::move(broken), "stretched", i);
      }
}

TEST(Corpus, Spliced) {
  std::mt19937 random(1);
  for (const Bytes& seed : seeds())
    for (size_t round = 0; round < most_of(seed.size(), kMost); ++round) {
      Bytes broken = seed;
      for (int edits = 0; edits < 3 && broken.size() > 8; ++edits) {
        const auto from = static_cast<int64_t>(random() % broken.size()),
                   to = static_cast<int64_t>(random() % broken.size());
        const auto length = std::min<int64_t>(1 + random() % 16, static_cast<int64_t>(broken.size()) - std::max(from, to));
        if (random() % 2 == 0) {
          std::copy_n(Bytes(broken.begin() + from, broken.begin() + from + length).begin(), length, broken.begin() + to);
        } else {
          broken.erase(broken.begin() + from, broken.begin() + from + length);
        }
      }
      check(std::move(broken), "spliced", round);
    }
}

TEST(Corpus, Empty) {
  check({}, "empty", 0);
  check({0}, "zero", 0);
  check(Bytes(4096, 0xFF), "ones", 0);
}

}  // namespace
}  // namespace bitlab::fuzz
