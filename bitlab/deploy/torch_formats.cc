#include "bitlab/deploy/torch_formats.h"

#include "bitlab/deploy/torchscript/torchscript.h"
#include "bitlab/format/formats.h"

namespace bitlab::deploy {
namespace {

using format::OutputFile, format::WriteOptions, program::Program;

using TorchWriter = Result<std::string> (*)(const Program& program, std::string_view variant);
constexpr TorchWriter write_torchscript = torchscript_bytes, write_ptl = to_mobile;

template <TorchWriter writer>
Result<std::vector<OutputFile>> write_torch_file(const Program& program, const std::filesystem::path& path,
                                                 const WriteOptions& options) {
  BITLAB_TRY(std::string bytes, writer(program, options.variant));
  return std::vector<OutputFile>{{path, std::move(bytes)}};
}

Result<Program> read_torch_file(const std::filesystem::path& path) {
  return make_error(ErrorCode::kUnsupported, "[torchscript] a file to write, got one to read (path={})", path.string());
}

}  // namespace

void register_formats() {
#define BITLAB_TORCH_FORMAT(name, extension, variants, summary) \
  format::add_format({{#name, extension, variants, summary}, write_torch_file<write_##name>, read_torch_file});
#include "bitlab/deploy/torch_formats.def"
#undef BITLAB_TORCH_FORMAT
}

}  // namespace bitlab::deploy
