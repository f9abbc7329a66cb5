#include "bitlab/runtime/model.h"

#include <algorithm>
#include <cstring>

#include "bitlab/format/bit/bit.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/program/verify.h"

namespace bitlab::runtime {
namespace {

using program::Program;

Result<AlignedBuffer> copy(std::span<const float> data) {
  BITLAB_TRY(AlignedBuffer buffer, AlignedBuffer::allocate(data.size_bytes()));
  if (!data.empty()) std::memcpy(buffer.data(), data.data(), data.size_bytes());
  return buffer;
}

// How the activations that meet a weight enter the product. Error: Unsupported, where its nodes do not agree on a layout.
Result<ternary::ActKind> activation_of(const Program& p, program::ValueId weight) {
  std::optional<ternary::ActKind> kind;
  for (const program::Node& node : p.nodes) {
    if (std::find(node.inputs.begin(), node.inputs.end(), weight) == node.inputs.end()) continue;
    BITLAB_TRY(const ternary::ActKind own, ternary::parse_act_kind(node.attribute<std::string>("activation")));
    if (kind && (*kind == ternary::ActKind::kNone) != (own == ternary::ActKind::kNone))
      return make_error(ErrorCode::kUnsupported,
                        "[model] a weight with quantized or with float activations, got both (value={})",
                        p.value(weight).name);
    kind = own;
  }
  return kind.value_or(ternary::ActKind::kInt8);
}

Result<ResidentConstant> make_resident(const Program& p, const program::Constant& constant, const LoadOptions& options) {
  const program::Shape& shape = p.value(constant.value).shape;
  ResidentConstant resident;
  if (const auto* floats = std::get_if<program::FloatData>(&constant.data)) {
    BITLAB_TRY(resident.floats, copy(*floats));
    return resident;
  }
  const auto& data = std::get<program::TernaryData>(constant.data);
  const int64_t rows = weight_rows(shape), depth = weight_depth(shape);
  BITLAB_TRY(const ternary::ActKind activation, activation_of(p, constant.value));
  BITLAB_TRY(const auto layout, kernels::select_ternary_layout(activation, rows, depth, options.machine, options.policy));
  BITLAB_TRY(resident.packed, kernels::pack_ternary(data.codes, rows, depth, layout));
  if (data.group != 0) {
    resident.group = data.group;
    BITLAB_TRY(resident.group_scale, kernels::pack_group_scales(data.group_scale, rows, ceil_div(depth, data.group)));
    return resident;
  }
  BITLAB_TRY(resident.scale, copy(data.scale));
  BITLAB_TRY(resident.scale_neg, copy(data.scale_neg));
  resident.scale_stride = data.scale.size() == 1 ? 0 : 1;
  return resident;
}

}  // namespace

Result<std::shared_ptr<const Model>> Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  BITLAB_TRY(Program program, format::bit::load(path));
  return create(std::move(program), options);
}

Result<std::shared_ptr<const Model>> Model::create(Program program, const LoadOptions& options) {
  BITLAB_RETURN_IF_ERROR(verify(program));
  std::shared_ptr<Model> model(new Model);
  model->options_ = options;
  model->constants_.resize(program.values.size());
  for (program::Constant& constant : program.constants) {
    BITLAB_TRY(model->constants_[static_cast<size_t>(constant.value)], make_resident(program, constant, options));
    constant = {};  // released one by one: no moment holds all codes twice
  }
  program.constants.clear();
  model->program_ = std::move(program);
  return std::shared_ptr<const Model>(std::move(model));
}

int64_t Model::weight_bytes() const {
  int64_t bytes = 0;
  for (const ResidentConstant& constant : constants_) bytes += constant.bytes();
  return bytes;
}

int64_t Model::float32_weight_bytes() const {
  int64_t count = 0;
  for (const program::Value& v : program_.values)
    if (v.kind == program::ValueKind::kConstant) count += elements(v.shape, 1);
  return count * static_cast<int64_t>(sizeof(float));
}

}  // namespace bitlab::runtime
