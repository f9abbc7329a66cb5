// The door for programs to and from files: every format is a row of formats.def, with one signature to write and one to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::format {

struct FormatInfo {
  std::string_view name, extension, summary;
};
std::vector<FormatInfo> format_list();  // in the order of formats.def

// Options of all formats; each takes what it knows of.
struct WriteOptions {};

// The bytes of a file, the same for the same program and options. `name`: of formats.def. Errors: UnknownName (listing the names), those of
// verify() and of the format.
Result<std::string> write(std::string_view name, const program::Program& program, const WriteOptions& options = {});

// A verified program. `bytes` are aligned to 64, and `owner` keeps them alive as part of the program. Errors: UnknownName, those of the format.
Result<program::Program> read(std::string_view name, std::span<const uint8_t> bytes,
                              const std::shared_ptr<const void>& owner);

// The name of the format that a path's extension says. Error: UnknownName, listing the extensions.
Result<std::string_view> format_of(const std::filesystem::path& path);

// write() in the format of the path, atomically. Errors besides: IoError.
Status save(const program::Program& program, const std::filesystem::path& path, const WriteOptions& options = {});

#define BITLAB_FORMAT(name, extension, summary)                                                   \
  Result<std::string> write_##name(const program::Program& program, const WriteOptions& options); \
  Result<program::Program> read_##name(std::span<const uint8_t> bytes, const std::shared_ptr<const void>& owner);
#include "bitlab/format/formats.def"
#undef BITLAB_FORMAT

}  // namespace bitlab::format
