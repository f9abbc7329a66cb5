// ONNX models as programs.
#include <algorithm>

#include "bitlab/base/file.h"
#include "bitlab/format/onnx/internal/readers.h"
#include "bitlab/format/onnx/onnx.h"

namespace bitlab::format::onnx {

using program::Program;

namespace {

struct ReaderRow {
  std::string_view type;
  OperatorReader read;
};
constexpr ReaderRow kReaders[] = {
#define BITLAB_ONNX_READ(type, function) {type, read_##function},
#include "bitlab/format/onnx/readers.def"
};

bool is_called_batch(std::string_view name) {
  return name.find("batch") != std::string_view::npos || name == "N" || name == "n";
}

// The size of inputs that is called like a batch, one in front before others; else the first that has no number, in front. Then none, for models
// whose samples do not stand apart.
std::vector<std::string> batches_of(const ModelFile& model) {
  std::string front, called_front, called;
  const auto keep_first = [](std::string& to, std::string_view name) {
    if (to.empty()) to = name;
  };
  for (const ModelPort& port : model.inputs)
    for (size_t axis = 0; axis < port.shape.size(); ++axis) {
      const auto* text = std::get_if<std::string_view>(&port.shape[axis]);
      const bool has_number = std::holds_alternative<int64_t>(port.shape[axis]);
      if (axis == 0 && !has_number) keep_first(front, text == nullptr ? fmt::format("{}_0", port.name) : std::string(*text));
      if (text == nullptr || !is_called_batch(*text)) continue;
      keep_first(axis == 0 ? called_front : called, *text);
    }
  for (const std::string& name : {called_front, called, front})
    if (!name.empty()) return {name, ""};
  return {""};
}

Result<Program> parse_beside(std::span<const uint8_t> bytes, const Beside& beside) {
  BITLAB_TRY(const ModelFile model, read_model(bytes, beside));
  std::optional<Error> first;
  for (const std::string& batch : batches_of(model)) {
    Result<Program> program = Reader(model, bytes.size(), batch).program();
    if (program.ok()) return program;
    if (!first) first = program.error();
    if (program.error().code != ErrorCode::kUnsupported) break;
  }
  return *first;
}

// A file of the model's folder: a name without a way out of it.
Result<Tensor> mapped_beside(const std::filesystem::path& model, std::string_view location) {
  const std::filesystem::path relative{std::string(location)};
  const bool leaves = std::any_of(relative.begin(), relative.end(), [](const auto& part) { return part == ".."; });
  if (location.empty() || location.find('\0') != std::string_view::npos || relative.is_absolute() || leaves)
    return make_error(ErrorCode::kCorrupt, "[onnx] a file of the model's folder for tensors, got '{}'", location);
  std::error_code error;
  const auto folder = std::filesystem::weakly_canonical(model.parent_path().empty() ? "." : model.parent_path(), error);
  const auto path = std::filesystem::weakly_canonical(folder / relative, error);
  const auto [end, rest] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  if (error || end != folder.end())
    return make_error(ErrorCode::kCorrupt, "[onnx] a file of the model's folder for tensors, got a link out of it, '{}'",
                      location);
  BITLAB_TRY(auto file, MappedFile::open(path));
  Tensor tensor;
  tensor.bytes = file->bytes();
  tensor.owner = std::move(file);
  return tensor;
}

}  // namespace

OperatorReader reader_of(std::string_view domain, std::string_view type) {
  const bool is_known = domain.empty() || domain == "ai.onnx" || domain == "com.microsoft";
  if (!is_known) return nullptr;
  const auto find = [](std::string_view name) -> OperatorReader {
    const auto* const row =
        std::find_if(std::begin(kReaders), std::end(kReaders), [&](const ReaderRow& r) { return r.type == name; });
    return row == std::end(kReaders) ? nullptr : row->read;
  };
  const OperatorReader own = domain == "com.microsoft" ? find(fmt::format("{}.{}", domain, type)) : nullptr;
  return own != nullptr ? own : find(type);
}

Result<Program> parse(std::span<const uint8_t> bytes) {
  return parse_beside(bytes, [](std::string_view location) -> Result<Tensor> {
    return make_error(ErrorCode::kUnsupported, "[onnx] tensors in the model's own bytes, got one in '{}'", location);
  });
}

Result<Program> load(const std::filesystem::path& path) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Result<Program> program =
      parse_beside(file->bytes(), [&](std::string_view location) { return mapped_beside(path, location); });
  if (!program.ok()) return make_error(program.error().code, "{} (path={})", program.error().message, path.string());
  return program;
}

}  // namespace bitlab::format::onnx
