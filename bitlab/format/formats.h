// The door for programs to and from files: every format is a row of formats.def, with one signature to write and one to read. Formats that need more than
// this library has, such as LibTorch's, are added by those who have it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/data/tokenizer.h"
#include "bitlab/program/program.h"

namespace bitlab::format {

struct FormatInfo {
  std::string_view name, extension;
  std::string_view variants;  // which blanks part, the default first; empty: there are none
  std::string_view summary;
};
std::vector<FormatInfo> format_list();  // in the order of formats.def, then of add_format()

// Options of all formats; each takes what it knows of.
struct WriteOptions {
  std::string format{};   // by name, for save() and convert(); empty: what the path's extension says
  std::string variant{};  // of the format's; empty: its first
  // Where formats that have a place for it (gguf, hf) take a tokenizer from: as tokenizer_files(). Empty: from the source, where convert() knows one that has one.
  std::string tokenizer{};
};

// The tokenizer of a tokenizer.json, of a GGUF file, of a folder with a tokenizer.json, or of any other file beside one; empty for "none". Errors: NotFound,
// IoError, those of GGUF.
Result<data::TokenizerFiles> tokenizer_files(const std::string& name);
// As data::load_tokenizer() ("bytes", or a tokenizer.json), and of whatever else tokenizer_files() takes. Errors: those of both, NotFound (a GGUF file without one).
Result<data::TokenizerPtr> load_tokenizer(const std::string& name);

// One of the files that a program becomes. Most formats make a single one, at the path that was asked for.
struct OutputFile {
  std::filesystem::path path;
  std::string bytes;
};

// A format: write() and read() of it. write() is given one of the variants, where there are some.
struct Format {
  FormatInfo info;
  Result<std::vector<OutputFile>> (*write)(const program::Program& program, const std::filesystem::path& path,
                                           const WriteOptions& options);
  Result<program::Program> (*read)(const std::filesystem::path& path);
};
// Puts a format behind those that there are, for all threads. One of a name that is there already changes nothing. Names and texts must live on.
void add_format(const Format& format);

// The files at and around `path`, the same for the same program, path and options. `name`: of formats.def. Errors: UnknownName (listing the names or
// variants), those of verify() and of the format.
Result<std::vector<OutputFile>> write(std::string_view name, const program::Program& program,
                                      const std::filesystem::path& path, const WriteOptions& options = {});

// A verified program. Errors: UnknownName, IoError, those of the format.
Result<program::Program> read(std::string_view name, const std::filesystem::path& path);

// The format asked for, or where that is empty the one of the path's extension. Error: UnknownName, listing what there is.
Result<std::string_view> format_of(const std::filesystem::path& path, std::string_view name = "");

// What is in a path now.
struct Saved {
  std::vector<std::filesystem::path> files;
  int64_t bytes = 0;  // of all of them
};
// write() in the format of the options or the path; each file is put at its place atomically. The folder of a format that is one is made. Errors besides: IoError,
// NotFound (the folder around).
Result<Saved> save(const program::Program& program, const std::filesystem::path& path, const WriteOptions& options = {});

struct Conversion {
  Saved saved;
  int64_t source_bytes = 0;  // of the file, or of all files of the folder, that was read
  int64_t weights = 0;       // float32 numbers that the program has, however they are stored
};
// read() in the format of `from`'s extension, and save().
Result<Conversion> convert(const std::filesystem::path& from, const std::filesystem::path& to,
                           const WriteOptions& options = {});

// What write() and read() call; the variant is one of the format's.
#define BITLAB_FORMAT(name, extension, variants, summary)                                                          \
  Result<std::vector<OutputFile>> write_##name(const program::Program& program, const std::filesystem::path& path, \
                                               const WriteOptions& options);                                       \
  Result<program::Program> read_##name(const std::filesystem::path& path);
#include "bitlab/format/formats.def"
#undef BITLAB_FORMAT

}  // namespace bitlab::format
