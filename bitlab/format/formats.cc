#include "bitlab/format/formats.h"

#include <algorithm>
#include <deque>
#include <mutex>

#include "bitlab/base/file.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/c/c.h"
#include "bitlab/format/gguf/gguf.h"
#include "bitlab/format/hf/hf.h"
#include "bitlab/format/onnx/onnx.h"

namespace bitlab::format {
namespace {

// Formats stay where they are once they are there.
struct Table {
  std::mutex mutex;
  std::deque<Format> formats{
#define BITLAB_FORMAT(name, extension, variants, summary) \
  Format{{#name, extension, variants, summary}, write_##name, read_##name},
#include "bitlab/format/formats.def"
#undef BITLAB_FORMAT
  };
};

Table& table() {
  static Table formats;
  return formats;
}

// What the rows have, as a list for messages.
std::string listed(std::string_view FormatInfo::*member) {
  std::string text;
  for (const FormatInfo& info : format_list()) text += (text.empty() ? "" : ", ") + std::string(info.*member);
  return text;
}

// The format whose member is that; null where there is none.
const Format* look_up(std::string_view FormatInfo::*member, std::string_view wanted) {
  const std::lock_guard lock(table().mutex);
  const auto& formats = table().formats;
  const auto found = std::find_if(formats.begin(), formats.end(), [&](const Format& f) { return f.info.*member == wanted; });
  return found == formats.end() ? nullptr : &*found;
}

Result<const Format*> find(std::string_view FormatInfo::*member, std::string_view wanted, std::string_view what) {
  if (const Format* found = look_up(member, wanted); found != nullptr) return found;
  return make_error(ErrorCode::kUnknownName, "[format] {} of {{{}}}, got '{}'", what, listed(member), wanted);
}

bool has_word(std::string_view words, std::string_view word) {
  return fmt::format(" {} ", words).find(fmt::format(" {} ", word)) != std::string::npos;
}

}  // namespace

std::vector<FormatInfo> format_list() {
  const std::lock_guard lock(table().mutex);
  std::vector<FormatInfo> list;
  for (const Format& format : table().formats) list.push_back(format.info);
  return list;
}

void add_format(const Format& format) {
  const std::lock_guard lock(table().mutex);
  auto& formats = table().formats;
  if (std::any_of(formats.begin(), formats.end(), [&](const Format& f) { return f.info.name == format.info.name; })) return;
  formats.push_back(format);
}

Result<std::vector<OutputFile>> write(std::string_view name, const program::Program& program,
                                      const std::filesystem::path& path, const WriteOptions& options) {
  BITLAB_TRY(const Format* format, find(&FormatInfo::name, name, "a format"));
  if (!options.variant.empty() && !has_word(format->info.variants, options.variant))
    return make_error(ErrorCode::kUnknownName, "[format] a variant of {} of {{{}}}, got '{}'", name, format->info.variants,
                      options.variant);
  WriteOptions chosen = options;
  if (chosen.variant.empty()) chosen.variant = format->info.variants.substr(0, format->info.variants.find(' '));
  return format->write(program, path, chosen);
}

Result<program::Program> read(std::string_view name, const std::filesystem::path& path) {
  BITLAB_TRY(const Format* format, find(&FormatInfo::name, name, "a format"));
  return format->read(path);
}

Result<std::string_view> format_of(const std::filesystem::path& path, std::string_view name) {
  const bool given = !name.empty();
  BITLAB_TRY(const Format* format,
             given ? find(&FormatInfo::name, name, "a format")
                   : find(&FormatInfo::extension, path.extension().string(), "a file with an extension"));
  return format->info.name;
}

Result<Saved> save(const program::Program& program, const std::filesystem::path& path, const WriteOptions& options) {
  BITLAB_TRY(const std::string_view name, format_of(path, options.format));
  BITLAB_TRY(const std::vector<OutputFile> files, write(name, program, path, options));
  Saved saved;
  for (const OutputFile& file : files) {
    if (file.path.parent_path() == path) BITLAB_RETURN_IF_ERROR(ensure_writable_folder(path));
    BITLAB_RETURN_IF_ERROR(write_file_atomic(file.path, std::string_view(file.bytes)));
    saved.files.push_back(file.path);
    saved.bytes += static_cast<int64_t>(file.bytes.size());
  }
  return saved;
}

namespace {

int64_t bytes_at(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return static_cast<int64_t>(std::filesystem::file_size(path, ignored));
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
    if (entry.is_regular_file(ignored)) bytes += static_cast<int64_t>(entry.file_size(ignored));
  return bytes;
}

constexpr std::string_view kTokenizerFile = "tokenizer.json", kTokenizerConfig = "tokenizer_config.json";

bool is_gguf(const std::filesystem::path& path) { return path.extension() == ".gguf"; }

// Where tokenizer_files() would find the tokenizer of a network that was read there.
std::filesystem::path tokenizer_beside(const std::filesystem::path& path) {
  std::error_code ignored;
  if (path.extension() == ".json") return path;
  return (std::filesystem::is_directory(path, ignored) ? path : path.parent_path()) / kTokenizerFile;
}

// What goes with a network that is written.
Result<data::TokenizerFiles> tokenizer_for(const WriteOptions& options) {
  Result<data::TokenizerFiles> files = tokenizer_files(options.tokenizer);
  if (files.ok() || files.error().code != ErrorCode::kUnsupported) return files;
  return make_error(files.error().code, "{} ({})", files.error().message, gguf::kLeftOut);
}

Result<std::vector<OutputFile>> one_file(const std::filesystem::path& path, Result<std::string> bytes) {
  BITLAB_RETURN_IF_ERROR(bytes);
  return std::vector<OutputFile>{{path, *std::move(bytes)}};
}

Error written_alone(std::string_view format, const std::filesystem::path& path) {
  return make_error(ErrorCode::kUnsupported, "[{}] a file to write, got one to read (path={})", format, path.string());
}

}  // namespace

Result<data::TokenizerFiles> tokenizer_files(const std::string& name) {
  if (name.empty() || name == "none") return data::TokenizerFiles();
  const std::filesystem::path path(name);
  if (is_gguf(path)) return gguf::load_tokenizer_files(path);
  data::TokenizerFiles files;
  const std::filesystem::path file = tokenizer_beside(path);
  BITLAB_TRY(files.tokenizer, read_file(file));
  std::error_code ignored;
  if (const auto config = file.parent_path() / kTokenizerConfig; std::filesystem::exists(config, ignored)) {
    BITLAB_TRY(files.config, read_file(config));
  }
  return files;
}

Result<data::TokenizerPtr> load_tokenizer(const std::string& name) {
  const std::filesystem::path path(name);
  if (!is_gguf(path)) return data::load_tokenizer(name == "bytes" ? name : tokenizer_beside(path).string());
  BITLAB_TRY(const data::TokenizerFiles files, tokenizer_files(name));
  if (!files.tokenizer.empty()) return data::parse_tokenizer(files.tokenizer);
  return make_error(ErrorCode::kNotFound, "[gguf] a file with a tokenizer, got one without (path={})", name);
}

Result<Conversion> convert(const std::filesystem::path& from, const std::filesystem::path& to, const WriteOptions& options) {
  BITLAB_TRY(const std::string_view source, format_of(from));
  BITLAB_RETURN_IF_ERROR(format_of(to, options.format));
  BITLAB_TRY(const program::Program program, read(source, from));
  Conversion conversion;
  conversion.source_bytes = bytes_at(from);
  for (const program::Constant& constant : program.constants) {
    const program::Value& value = program.value(constant.value);
    if (value.dtype == program::DType::kFloat32) conversion.weights += elements(value.shape, program::kOnes);
  }
  WriteOptions written = options;
  std::error_code ignored;
  if (written.tokenizer.empty() && (is_gguf(from) || std::filesystem::exists(tokenizer_beside(from), ignored)))
    written.tokenizer = from.string();
  BITLAB_TRY(conversion.saved, save(program, to, written));
  return conversion;
}

Result<std::vector<OutputFile>> write_bit(const program::Program& program, const std::filesystem::path& path,
                                          const WriteOptions&) {
  return one_file(path, bit::serialize(program));
}

Result<program::Program> read_bit(const std::filesystem::path& path) { return bit::load(path); }

Result<std::vector<OutputFile>> write_c(const program::Program& program, const std::filesystem::path& path,
                                        const WriteOptions& options) {
  for (size_t i = 1; i < program.symbols.size(); ++i)  // the batch is 1
    if (const program::Symbol& s = program.symbols[i]; s.min != s.max)
      return make_error(ErrorCode::kUnsupported, "[c] sizes that do not change but for the batch, got {} to {} of '{}'",
                        s.min, s.max, s.name);
  c::Options source{c::identifier(path.stem().string()), options.variant};
  for (size_t i = 1; i < program.symbols.size(); ++i) source.sizes[i] = program.symbols[i].min;
  BITLAB_TRY(c::Source files, c::serialize(program, source));
  std::filesystem::path header = path;
  header.replace_filename(source.name + ".h");
  return std::vector<OutputFile>{{path, std::move(files.source)}, {header, std::move(files.header)}};
}

Result<program::Program> read_c(const std::filesystem::path& path) { return written_alone("c", path); }

Result<std::vector<OutputFile>> write_gguf(const program::Program& program, const std::filesystem::path& path,
                                           const WriteOptions& options) {
  BITLAB_TRY(const data::TokenizerFiles tokenizer, tokenizer_for(options));
  return one_file(path, gguf::serialize(program, options.variant, tokenizer));
}

Result<program::Program> read_gguf(const std::filesystem::path& path) { return gguf::load(path); }

Result<std::vector<OutputFile>> write_hf(const program::Program& program, const std::filesystem::path& path,
                                         const WriteOptions& options) {
  BITLAB_TRY(std::vector<hf::File> files, hf::serialize(program));
  BITLAB_TRY(data::TokenizerFiles tokenizer, tokenizer_for(options));
  if (!tokenizer.tokenizer.empty()) files.push_back({std::string(kTokenizerFile), std::move(tokenizer.tokenizer)});
  if (!tokenizer.config.empty()) files.push_back({std::string(kTokenizerConfig), std::move(tokenizer.config)});
  std::vector<OutputFile> placed;
  for (hf::File& file : files) placed.push_back({path / file.name, std::move(file.bytes)});
  return placed;
}

Result<program::Program> read_hf(const std::filesystem::path& path) { return hf::load(path); }

Result<std::vector<OutputFile>> write_onnx(const program::Program& program, const std::filesystem::path& path,
                                           const WriteOptions& options) {
  return one_file(path, onnx::serialize(program, options.variant));
}

Result<program::Program> read_onnx(const std::filesystem::path& path) { return onnx::load(path); }

}  // namespace bitlab::format
