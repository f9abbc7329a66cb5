// What a fuzzer is: a function that reads bytes that nobody vouches for. Every fuzzer is built twice: for libFuzzer (preset fuzz), and
// as a test that reads its seeds and thousands of broken variants of them (standalone.cc).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace bitlab::fuzz {

// Reads the bytes. Must not crash, whatever they are; answers whether they were accepted.
bool read_bytes(std::span<const uint8_t> bytes);

// Valid inputs to start from.
std::vector<std::vector<uint8_t>> seeds();

// Makes checksums right again, so that changed bytes reach the readers behind them. May do nothing.
void repair(std::vector<uint8_t>& bytes);

// Memory that reading may take: factor times the size of the input, plus a constant.
struct MemoryBound {
  size_t factor, constant;
};
MemoryBound memory_bound();

}  // namespace bitlab::fuzz
