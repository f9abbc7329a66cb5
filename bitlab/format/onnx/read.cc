// ONNX models as programs.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "bitlab/base/file.h"
#include "bitlab/format/onnx/internal/readers.h"
#include "bitlab/format/onnx/internal/states.h"
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

// Networks that halve images and double them again, or cut them into windows, take multiples alone. Where a model is not read, sizes are tried as the
// multiples at which none is rounded, the least first; and as no larger than the numbers that they are cut to.
Result<Program> guessed(const ModelFile& model, size_t file_bytes, Guess guess) {
  constexpr int kMostTries = 12;
  std::optional<Error> first;
  int64_t least = 1;
  for (int i = 0; i < kMostTries; ++i) {
    Reader reader(model, file_bytes, guess);
    Result<Program> program = reader.program();
    if (program.ok()) return program;
    if (!first) first = program.error();
    if (program.error().code != ErrorCode::kUnsupported) break;
    if (reader.guess().met_bound && !guess.bounds) {
      guess.bounds = true;
      continue;
    }
    const Multiples all = reader.unrounded();
    std::set<int64_t> next;  // divisors of what is wanted
    for (const auto& [name, multiple] : all)
      for (int64_t d = least + 1; d <= multiple; ++d)
        if (multiple % d == 0) next.insert(d);
    if (next.empty()) break;
    least = *next.begin();
    for (const auto& [name, multiple] : all) guess.multiples[name] = std::gcd(multiple, least);
  }
  return *first;
}

Result<Program> with_batch(const ModelFile& model, size_t file_bytes, Guess guess) {
  std::optional<Error> first;
  for (const std::string& batch : batches_of(model)) {
    guess.batch = batch;
    Result<Program> program = guessed(model, file_bytes, guess);
    if (program.ok()) return program;
    if (!first) first = program.error();
    if (program.error().code != ErrorCode::kUnsupported) break;
  }
  return *first;
}

// A decoder whose pasts are states. The model is read with pasts of two sizes, one program behind the other: what is no state's must be the same.
Result<Program> decoder_of(const ModelFile& model, size_t file_bytes, const Pasts& pasts) {
  Guess guess;
  std::string first;
  for (const int64_t past : {3, 5}) {
    guess.pasts = &pasts, guess.past = past;
    BITLAB_TRY(Program program, with_batch(model, file_bytes, guess));
    std::string text = outline(program);
    if (text == first) return program;
    first = std::move(text);
  }
  return make_error(ErrorCode::kUnsupported, "[onnx] masks and positions alone that depend on the size of pasts, got more");
}

// `file_bytes`: of all files that the model lies in.
Result<Program> program_of(const ModelFile& model, size_t file_bytes) {
  const Pasts pasts = pasts_of(model);
  if (pasts.all.empty()) return with_batch(model, file_bytes, {});
  Result<Program> decoder = decoder_of(model, file_bytes, pasts);
  if (decoder.ok() || decoder.error().code != ErrorCode::kUnsupported) return decoder;
  Result<Program> program = with_batch(model, file_bytes, {});
  return program.ok() ? program : decoder;
}

// The files of a model's folder that tensors lie in, each opened once.
class Folder {
 public:
  explicit Folder(const std::filesystem::path& model) : path_(model.parent_path()) {}

  size_t bytes() const { return bytes_; }

  // A name without a way out of the folder.
  Result<Tensor> file(std::string_view location) {
    const std::filesystem::path relative{std::string(location)};
    const bool leaves = std::any_of(relative.begin(), relative.end(), [](const auto& part) { return part == ".."; });
    if (location.empty() || location.find('\0') != std::string_view::npos || relative.is_absolute() || leaves)
      return make_error(ErrorCode::kCorrupt, "[onnx] a file of the model's folder for tensors, got '{}'", location);
    std::error_code error;
    const auto folder = std::filesystem::weakly_canonical(path_.empty() ? "." : path_, error);
    const auto path = std::filesystem::weakly_canonical(folder / relative, error);
    const auto [end, rest] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
    if (error || end != folder.end())
      return make_error(ErrorCode::kCorrupt, "[onnx] a file of the model's folder for tensors, got a link out of it, '{}'",
                        location);
    if (const auto found = files_.find(path); found != files_.end()) return found->second;
    BITLAB_TRY(auto opened, MappedFile::open(path));
    Tensor tensor;
    tensor.bytes = opened->bytes();
    tensor.owner = std::move(opened);
    bytes_ += tensor.bytes.size();
    return files_.emplace(path, tensor).first->second;
  }

 private:
  std::filesystem::path path_;
  std::map<std::filesystem::path, Tensor> files_;
  size_t bytes_ = 0;
};

}  // namespace

OperatorReader reader_of(std::string_view domain, std::string_view type) {
  const bool is_known = domain.empty() || domain == "ai.onnx" || domain == "com.microsoft" || domain == "ai.onnx.ml";
  if (!is_known) return nullptr;
  const auto find = [](std::string_view name) -> OperatorReader {
    const auto* const row =
        std::find_if(std::begin(kReaders), std::end(kReaders), [&](const ReaderRow& r) { return r.type == name; });
    return row == std::end(kReaders) ? nullptr : row->read;
  };
  const OperatorReader own = domain.empty() ? nullptr : find(fmt::format("{}.{}", domain, type));
  return own != nullptr || domain == "ai.onnx.ml" ? own : find(type);
}

Result<Program> parse(std::span<const uint8_t> bytes) {
  BITLAB_TRY(const ModelFile model, read_model(bytes, [](std::string_view location) -> Result<Tensor> {
               return make_error(ErrorCode::kUnsupported, "[onnx] tensors in the model's own bytes, got one in '{}'",
                                 location);
             }));
  return program_of(model, bytes.size());
}

Result<Program> load(const std::filesystem::path& path) {
  BITLAB_TRY(const auto file, MappedFile::open(path));
  Folder folder(path);
  const auto model = read_model(file->bytes(), [&](std::string_view location) { return folder.file(location); });
  Result<Program> program = model.ok() ? program_of(*model, file->bytes().size() + folder.bytes()) : model.error();
  if (!program.ok()) return make_error(program.error().code, "{} (path={})", program.error().message, path.string());
  return program;
}

}  // namespace bitlab::format::onnx
