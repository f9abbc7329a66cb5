// The .bit file: one file that holds a program and its weights. It is a valid safetensors file
// (https://github.com/huggingface/safetensors, "Format"):
//
//   8 bytes   length of the header, little-endian
//   header    JSON; padded with spaces so that the data begins at a multiple of 64
//   data      the tensors, each at a multiple of 64; "_pad.*" tensors fill the gaps, because safetensors forbids holes
//
// __metadata__ holds text values: "bitlab.version" (the format's), "bitlab.program" (the graph as JSON), "bitlab.header_crc32" and
// "bitlab.data_crc32" (eight hexadecimal digits; the header's is computed over the length and the header with its own digits as
// zeros), and "meta.<key>" for Program::metadata. A ternary constant `w` is stored as the tensors "w.trits" (U8,
// ternary/trits.h) and "w.scale" (F32), with "w.scale_neg" (F32) where it has two scales, or "w.group_scale" (F16) instead; other constants under their own names
// (F32, F16, BF16, I64, I32, BOOL).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "bitlab/program/program.h"

namespace bitlab::format::bit {

// What is written. Files of this version and of all before it are read (docs/advanced/bit_format.md).
inline constexpr int kVersion = 1;

// Bytes that the weights of a constant take in a file: base-3 codes and scales, or floats.
int64_t stored_bytes(const program::Program& program, const program::Constant& constant);

// The file's bytes; the same for the same program.
Result<std::string> serialize(const program::Program& program);

// Writes atomically. The program must be verified. Errors: IoError.
Status save(const program::Program& program, const std::filesystem::path& path);

// Reads and verifies. Floats point into `bytes`, which must be aligned to 64; `owner` keeps them alive as part of the program.
// Errors: Corrupt (anything that contradicts the format, the checksums or verify()), UnsupportedVersion.
Result<program::Program> parse(std::span<const uint8_t> bytes, const std::shared_ptr<const void>& owner);

// Maps the file and parses it. Errors: as parse(), NotFound, IoError, each naming the path.
Result<program::Program> load(const std::filesystem::path& path);

// The version of the format that a file says, up to kVersion; its header alone is read. Errors: those of load() but of checksums and the program.
Result<int> version_of(const std::filesystem::path& path);

}  // namespace bitlab::format::bit
