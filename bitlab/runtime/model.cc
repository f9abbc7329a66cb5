#include "bitlab/runtime/model.h"

#include <algorithm>
#include <cstring>

#include "bitlab/format/bit/bit.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/program/verify.h"
#include "bitlab/runtime/internal/conv_geometry.h"

namespace bitlab::runtime {
namespace {

using program::Program;

template <class T>
Result<AlignedBuffer> copy(std::span<const T> data) {
  BITLAB_TRY(AlignedBuffer buffer, AlignedBuffer::allocate(data.size_bytes()));
  if (!data.empty()) std::memcpy(buffer.data(), data.data(), data.size_bytes());
  return buffer;
}

// How a node wants its weight to be packed. `data`: of a ternary weight; null: one in int8.
Result<Packing> packing_for(const Program& p, const program::Node& node, const program::TernaryData* data,
                            const LoadOptions& options) {
  Packing packing;
  packing.is_table = node.op == program::Op::ternary_embedding;
  if (packing.is_table) return packing;
  if (node.op == program::Op::ternary_conv) packing.groups = conv_geometry(p, node, program::kOnes).groups;
  if (data == nullptr) {
    packing.layout = kernels::TernaryLayout::kInt8;
    return packing;
  }
  const program::Shape& shape = p.value(node.inputs[*program::schema(node.op).weight()]).shape;
  BITLAB_TRY(const ternary::ActKind kind, ternary::parse_act_kind(node.attribute<std::string>("activation")));
  if (node.op != program::Op::ternary_conv) {
    BITLAB_TRY(packing.layout, kernels::select_ternary_layout(kind, weight_rows(shape), weight_depth(shape), options.machine,
                                                              options.policy));
    return packing;
  }
  BITLAB_TRY(packing.layout, select_ternary_conv_layout(conv_geometry(p, node, program::kOnes),
                                                        {weight_rows(shape), data->group, !data->scale_neg.empty(), kind},
                                                        options.machine, options.policy));
  return packing;
}

// A node that reads a weight of integers, and how it wants it.
struct Reader {
  size_t node;
  Packing packing;
};

// The readers of each value.
Result<std::vector<std::vector<Reader>>> readers_of(const Program& p, const LoadOptions& options) {
  std::vector<std::vector<Reader>> readers(p.values.size());
  for (size_t i = 0; i < p.nodes.size(); ++i) {
    const auto weight = program::schema(p.nodes[i].op).weight();
    if (!weight) continue;
    const program::ValueId id = p.nodes[i].inputs[*weight];
    BITLAB_TRY(const Packing packing,
               packing_for(p, p.nodes[i], std::get_if<program::TernaryData>(&p.constant(id)->data), options));
    readers[static_cast<size_t>(id)].push_back({i, packing});
  }
  return readers;
}

// Whether a copy serves a reader. A table is read from any single matrix.
bool serves(const Packing& copy, const Packing& wanted) { return copy == wanted || (wanted.is_table && copy.groups == 1); }

// The copies that serve all readers: one, but where products want different layouts.
std::vector<Packing> packings_of(const std::vector<Reader>& readers) {
  std::vector<Packing> packings;
  const auto add = [&](const Packing& wanted) {
    const auto does = [&](const Packing& copy) { return serves(copy, wanted); };
    if (std::none_of(packings.begin(), packings.end(), does)) packings.push_back(wanted);
  };
  for (const bool tables : {false, true})  // products first, whose layouts tables share
    for (const Reader& reader : readers)
      if (reader.packing.is_table == tables) add(reader.packing);
  if (packings.empty()) packings.push_back({.is_table = true});
  return packings;
}

// What reads a constant of floats.
struct FloatReaders {
  bool tables = false;    // embeddings, which can widen their rows one by one
  bool products = false;  // linear layers and convolutions, from panels
  bool others = false;
};

std::vector<FloatReaders> float_readers_of(const Program& p) {
  std::vector<FloatReaders> readers(p.values.size());
  for (const program::Node& node : p.nodes)
    for (size_t place = 0; place < node.inputs.size(); ++place) {
      if (node.inputs[place] == program::kNone) continue;
      FloatReaders& of = readers[static_cast<size_t>(node.inputs[place])];
      const bool is_product =
          node.op == program::Op::linear || node.op == program::Op::conv || node.op == program::Op::recurrent;
      if (node.op == program::Op::embedding) {
        of.tables = true;
      } else if (is_product && place == program::input_of(program::Op::linear, "weight")) {
        of.products = true;
      } else {
        of.others = true;
      }
    }
  static_assert(program::input_of(program::Op::linear, "weight") == program::input_of(program::Op::conv, "weight") &&
                program::input_of(program::Op::linear, "weight") == program::input_of(program::Op::recurrent, "weight"));
  return readers;
}

Result<ResidentConstant> make_plain(const program::Value&, const FloatReaders&, const program::RawData& data) {
  ResidentConstant resident;
  BITLAB_TRY(resident.plain, copy(data.bytes));
  return resident;
}

// A table reads the panels of a product, too. What others read as well is there twice.
Result<ResidentConstant> make_plain(const program::Value& value, const FloatReaders& readers, program::FloatData data) {
  ResidentConstant resident;
  if (readers.products) {
    const int64_t rows = weight_rows(value.shape), depth = weight_depth(value.shape);
    BITLAB_TRY(resident.panels, AlignedBuffer::allocate(static_cast<size_t>(kernels::float_panel_bytes(rows, depth))));
    kernels::pack_float_rows(data.data(), rows, depth, reinterpret_cast<float*>(resident.panels.data()));
  }
  if (readers.others || !readers.products) {
    BITLAB_TRY(resident.plain, copy(data));
  }
  return resident;
}

Result<ResidentConstant> make_plain(const program::Value& value, const FloatReaders& readers,
                                    const program::HalfData& data) {
  if (!readers.products && !readers.others) {
    ResidentConstant resident;
    resident.storage = value.storage;
    BITLAB_TRY(resident.plain, copy(data.bits));
    return resident;
  }
  BITLAB_TRY(AlignedBuffer widened, AlignedBuffer::allocate(data.bits.size() * sizeof(float)));
  auto* floats = reinterpret_cast<float*>(widened.data());
  std::transform(data.bits.begin(), data.bits.end(), floats,
                 [&](uint16_t bits) { return program::widened(bits, value.storage); });
  return make_plain(value, readers, program::FloatData(floats, data.bits.size()));
}

Result<ResidentConstant> make_resident(const program::Shape& shape, const program::Int8Data& data, const Packing& packing) {
  ResidentConstant resident;
  resident.packing = packing;
  BITLAB_TRY(resident.packed,
             kernels::pack_int8_weight(data.t, weight_rows(shape), weight_depth(shape), packing.is_table, packing.groups));
  BITLAB_TRY(resident.scale, copy(data.scale));
  resident.scale_stride = data.scale.size() == 1 ? 0 : 1;
  return resident;
}

Result<ResidentConstant> make_resident(const program::Shape& shape, const program::TernaryData& data,
                                       const Packing& packing) {
  const int64_t rows = weight_rows(shape), depth = weight_depth(shape);
  ResidentConstant resident;
  resident.packing = packing;
  resident.group = data.group;
  BITLAB_TRY(resident.packed, kernels::pack_ternary(data.codes, rows, depth, packing.layout, packing.groups));
  if (data.group != 0) {
    BITLAB_TRY(resident.group_scale, kernels::pack_group_scales(data.group_scale, rows, ceil_div(depth, data.group)));
    return resident;
  }
  BITLAB_TRY(resident.scale, copy(data.scale));
  BITLAB_TRY(resident.scale_neg, copy(data.scale_neg));
  resident.scale_stride = data.scale.size() == 1 ? 0 : 1;
  return resident;
}

Result<std::vector<ResidentConstant>> make_residents(const Program& p, const program::Constant& constant,
                                                     const std::vector<Reader>& readers, const FloatReaders& float_readers) {
  const program::Value& value = p.value(constant.value);
  const auto make = [&](const auto& data) -> Result<std::vector<ResidentConstant>> {
    std::vector<ResidentConstant> residents;
    if constexpr (requires { make_plain(value, float_readers, data); }) {
      BITLAB_TRY(residents.emplace_back(), make_plain(value, float_readers, data));
    } else {
      for (const Packing& packing : packings_of(readers)) {
        BITLAB_TRY(residents.emplace_back(), make_resident(value.shape, data, packing));
      }
    }
    return residents;
  };
  return std::visit(make, constant.data);
}

}  // namespace

Result<std::shared_ptr<const Model>> Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  BITLAB_TRY(Program program, format::bit::load(path));
  return create(std::move(program), options);
}

Result<std::shared_ptr<const Model>> Model::load_memory(std::span<const uint8_t> bytes, const LoadOptions& options) {
  BITLAB_TRY(AlignedBuffer copied, copy(bytes));
  const auto owner = std::make_shared<const AlignedBuffer>(std::move(copied));
  BITLAB_TRY(Program program, format::bit::parse({owner->data(), bytes.size()}, owner));
  return create(std::move(program), options);
}

Result<std::shared_ptr<const Model>> Model::create(Program program, const LoadOptions& options) {
  BITLAB_RETURN_IF_ERROR(verify(program));
  std::shared_ptr<Model> model(new Model);
  model->options_ = options;
  model->constants_.resize(program.values.size());
  model->weights_.resize(program.nodes.size());
  BITLAB_TRY(const auto readers, readers_of(program, options));
  const std::vector<FloatReaders> float_readers = float_readers_of(program);
  for (program::Constant& constant : program.constants) {
    const auto value = static_cast<size_t>(constant.value);
    auto& residents = model->constants_[value];
    BITLAB_TRY(residents, make_residents(program, constant, readers[value], float_readers[value]));
    for (const Reader& reader : readers[value])
      model->weights_[reader.node] = &*std::find_if(residents.begin(), residents.end(), [&](const ResidentConstant& copy) {
        return serves(copy.packing, reader.packing);
      });
    constant = {};  // released one by one: no moment holds all codes twice
  }
  program.constants.clear();
  model->program_ = std::move(program);
  return std::shared_ptr<const Model>(std::move(model));
}

int64_t Model::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& residents : constants_)
    for (const ResidentConstant& resident : residents) bytes += resident.bytes();
  return bytes;
}

int64_t Model::float32_weight_bytes() const {
  int64_t count = 0;
  for (const program::Value& v : program_.values)
    if (v.kind == program::ValueKind::kConstant) count += elements(v.shape, program::kOnes);
  return count * static_cast<int64_t>(sizeof(float));
}

}  // namespace bitlab::runtime
