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

// Names of sizes at the front of inputs, those first that are called like a batch; then none, for models whose samples do not stand apart.
std::vector<std::string> batches_of(const ModelFile& model) {
  std::vector<std::string> names;
  for (const ModelPort& port : model.inputs) {
    if (port.shape.empty() || std::holds_alternative<int64_t>(port.shape[0])) continue;
    const auto* text = std::get_if<std::string_view>(&port.shape[0]);
    std::string name = text == nullptr ? fmt::format("{}_0", port.name) : std::string(*text);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) {
    return name.find("batch") != std::string::npos || name == "N" || name == "n";
  });
  if (names.size() > 1) names.resize(1);
  names.emplace_back();
  return names;
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
