#include "bitlab/format/formats.h"

#include <algorithm>
#include <array>

#include "bitlab/base/file.h"
#include "bitlab/format/bit/bit.h"

namespace bitlab::format {
namespace {

struct Format {
  FormatInfo info;
  decltype(&write_bit) write;
  decltype(&read_bit) read;
};

constexpr std::array kFormats{
#define BITLAB_FORMAT(name, extension, summary) Format{{#name, extension, summary}, write_##name, read_##name},
#include "bitlab/format/formats.def"
#undef BITLAB_FORMAT
};

// What the rows have, as a list for messages.
std::string listed(std::string_view FormatInfo::*member) {
  std::string text;
  for (const Format& format : kFormats) text += (text.empty() ? "" : ", ") + std::string(format.info.*member);
  return text;
}

Result<const Format*> find(std::string_view FormatInfo::*member, std::string_view wanted, std::string_view what) {
  const auto* const found =
      std::find_if(kFormats.begin(), kFormats.end(), [&](const Format& f) { return f.info.*member == wanted; });
  if (found != kFormats.end()) return found;
  return make_error(ErrorCode::kUnknownName, "[format] {} of {{{}}}, got '{}'", what, listed(member), wanted);
}

}  // namespace

std::vector<FormatInfo> format_list() {
  std::vector<FormatInfo> list;
  for (const Format& format : kFormats) list.push_back(format.info);
  return list;
}

Result<std::string> write(std::string_view name, const program::Program& program, const WriteOptions& options) {
  BITLAB_TRY(const Format* format, find(&FormatInfo::name, name, "a format"));
  return format->write(program, options);
}

Result<program::Program> read(std::string_view name, std::span<const uint8_t> bytes,
                              const std::shared_ptr<const void>& owner) {
  BITLAB_TRY(const Format* format, find(&FormatInfo::name, name, "a format"));
  return format->read(bytes, owner);
}

Result<std::string_view> format_of(const std::filesystem::path& path) {
  BITLAB_TRY(const Format* format, find(&FormatInfo::extension, path.extension().string(), "a file with an extension"));
  return format->info.name;
}

Status save(const program::Program& program, const std::filesystem::path& path, const WriteOptions& options) {
  BITLAB_TRY(const std::string_view name, format_of(path));
  BITLAB_TRY(const std::string bytes, write(name, program, options));
  return write_file_atomic(path, std::string_view(bytes));
}

Result<std::string> write_bit(const program::Program& program, const WriteOptions&) { return bit::serialize(program); }

Result<program::Program> read_bit(std::span<const uint8_t> bytes, const std::shared_ptr<const void>& owner) {
  return bit::parse(bytes, owner);
}

}  // namespace bitlab::format
