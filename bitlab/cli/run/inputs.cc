#include "bitlab/cli/run/inputs.h"

#include <algorithm>

#include <fmt/format.h>

#include "bitlab/base/file.h"
#include "bitlab/runtime/random_inputs.h"

namespace bitlab::cli {

Inputs::Inputs(const program::Program& p, const program::SymbolSizes& sizes) {
  data_ = runtime::random_inputs(p, sizes);
  for (size_t i = 0; i < p.inputs.size(); ++i) {
    const program::Value& v = p.value(p.inputs[i]);
    names_.push_back(v.name);
    views_.emplace_back(shape_at(v.shape, sizes), v.dtype, data_[i].data());
  }
}

Status Inputs::read(const std::vector<std::string>& files) {
  for (const std::string& text : files) {
    const size_t equals = text.find('=');
    const auto name = std::find(names_.begin(), names_.end(), text.substr(0, equals));
    if (equals == std::string::npos || name == names_.end())
      return make_error(ErrorCode::kInvalidArgument, "[input] one of {{{}}} and its file as NAME=FILE, got '{}'",
                        fmt::join(names_, ", "), text);
    const auto i = static_cast<size_t>(name - names_.begin());
    BITLAB_TRY(const std::string bytes, read_file(text.substr(equals + 1)));
    if (bytes.size() != data_[i].size())
      return make_error(ErrorCode::kShapeMismatch, "[input] {} bytes for {} of {}, got {} (input={})", data_[i].size(),
                        program::to_string(views_[i].shape), program::name(views_[i].dtype), bytes.size(), *name);
    std::copy(bytes.begin(), bytes.end(), data_[i].begin());
  }
  return {};
}

}  // namespace bitlab::cli
