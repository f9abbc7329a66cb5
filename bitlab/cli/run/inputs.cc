#include "bitlab/cli/run/inputs.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

#include "bitlab/base/file.h"
#include "bitlab/runtime/internal/cast.h"

namespace bitlab::cli {

Inputs::Inputs(const program::Program& p, const program::SymbolSizes& sizes) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (const program::ValueId id : p.inputs) {
    const program::Value& v = p.value(id);
    const int64_t count = elements(v.shape, sizes);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values)
      value = v.dtype <= program::DType::kBFloat16 ? normal(generator) : static_cast<float>(generator() % 2);
    names_.push_back(v.name);
    data_.emplace_back(static_cast<size_t>(count * size_of(v.dtype)));
    runtime::cast(program::DType::kFloat32, values.data(), v.dtype, data_.back().data(), count);
    views_.emplace_back(shape_at(v.shape, sizes), v.dtype, data_.back().data());
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
