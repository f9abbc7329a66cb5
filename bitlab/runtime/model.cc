#include "bitlab/runtime/model.h"

#include <algorithm>
#include <cstring>

#include "bitlab/format/bit/bit.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/program/verify.h"
#include "bitlab/runtime/window.h"

namespace bitlab::runtime {
namespace {

using program::Program;

template <class T>
Result<AlignedBuffer> copy(std::span<const T> data) {
  BITLAB_TRY(AlignedBuffer buffer, AlignedBuffer::allocate(data.size_bytes()));
  if (!data.empty()) std::memcpy(buffer.data(), data.data(), data.size_bytes());
  return buffer;
}

// How a weight is packed: as the kernels of the node that reads it want it.
struct Packing {
  kernels::TernaryLayout layout = kernels::TernaryLayout::kRows;
  int64_t groups = 1;  // of a convolution's channels
  bool table = false;  // rows are looked up, and their scales with them
  bool operator==(const Packing&) const = default;
};

std::string describe(const Packing& packing) {
  if (packing.table) return "a table";
  return fmt::format("a matrix in {} groups (layout {})", packing.groups, name(packing.layout));
}

// `data`: of a ternary weight; null: one in int8, whose layout follows from `table`.
Result<Packing> packing_for(const Program& p, const program::Node& node, const program::TernaryData* data,
                            const LoadOptions& options) {
  Packing packing;
  packing.table = node.op == program::Op::ternary_embedding;
  if (packing.table) return packing;
  if (data == nullptr) {
    if (node.op == program::Op::ternary_conv) packing.groups = conv_geometry(p, node, 1).groups;
    return packing;
  }
  const program::Shape& shape = p.value(node.inputs[1]).shape;
  BITLAB_TRY(const ternary::ActKind kind, ternary::parse_act_kind(node.attribute<std::string>("activation")));
  if (node.op == program::Op::ternary_linear) {
    BITLAB_TRY(packing.layout, kernels::select_ternary_layout(kind, weight_rows(shape), weight_depth(shape), options.machine,
                                                              options.policy));
    return packing;
  }
  const kernels::ConvGeometry geometry = conv_geometry(p, node, 1);
  packing.groups = geometry.groups;
  BITLAB_TRY(packing.layout,
             select_ternary_conv_layout(geometry, {weight_rows(shape), data->group, !data->scale_neg.empty(), kind},
                                        options.machine, options.policy));
  return packing;
}

// Error: Unsupported, where a weight's readers do not agree.
Result<Packing> packing_for(const Program& p, program::ValueId weight, const program::TernaryData* data,
                            const LoadOptions& options) {
  std::optional<Packing> packing;
  for (const program::Node& node : p.nodes) {
    if (std::find(node.inputs.begin(), node.inputs.end(), weight) == node.inputs.end()) continue;
    BITLAB_TRY(const Packing own, packing_for(p, node, data, options));
    if (packing && *packing != own)
      return make_error(ErrorCode::kUnsupported,
                        "[model] readers of a weight that share a layout, got {} and, at '{}', {} (value={})",
                        describe(*packing), node.name, describe(own), p.value(weight).name);
    packing = own;
  }
  return packing.value_or(Packing{});
}

Result<ResidentConstant> make_resident(const Program& p, const program::Constant& constant, const LoadOptions& options) {
  const program::Shape& shape = p.value(constant.value).shape;
  ResidentConstant resident;
  if (const auto* floats = std::get_if<program::FloatData>(&constant.data)) {
    BITLAB_TRY(resident.floats, copy<float>(*floats));
    return resident;
  }
  const int64_t rows = weight_rows(shape), depth = weight_depth(shape);
  const auto* ternary = std::get_if<program::TernaryData>(&constant.data);
  BITLAB_TRY(const Packing packing, packing_for(p, constant.value, ternary, options));
  if (ternary == nullptr) {
    const auto& int8 = std::get<program::Int8Data>(constant.data);
    BITLAB_TRY(resident.packed, kernels::pack_int8_weight(int8.t, rows, depth, packing.table, packing.groups));
    BITLAB_TRY(resident.scale, copy(int8.scale));
    resident.scale_stride = int8.scale.size() == 1 ? 0 : 1;
    return resident;
  }
  const program::TernaryData& data = *ternary;
  BITLAB_TRY(resident.packed, kernels::pack_ternary(data.codes, rows, depth, packing.layout, packing.groups));
  if (data.group != 0) {
    resident.group = data.group;
    if (packing.table) {
      BITLAB_TRY(resident.group_scale, copy(data.group_scale));
      return resident;
    }
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
