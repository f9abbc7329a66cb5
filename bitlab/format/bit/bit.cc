#include "bitlab/format/bit/bit.h"

#include <array>

#include <fmt/format.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/file.h"
#include "bitlab/format/bit/internal/container.h"
#include "bitlab/format/bit/internal/graph_json.h"
#include "bitlab/program/verify.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/trits.h"

namespace bitlab::format::bit {
namespace {

using program::FloatData;
using program::Int8Data;
using program::Program;
using program::Storage;
using program::TernaryData;
using program::Value;
using safetensors::ElementType;
using safetensors::NamedTensor;
using safetensors::TensorView;
using Safetensors = safetensors::Contents;

constexpr std::string_view kVersionKey = "bitlab.version";
constexpr std::string_view kProgramKey = "bitlab.program";
constexpr std::string_view kMetaPrefix = "meta.";

template <class T>
std::span<const uint8_t> bytes_of(std::span<const T> data) {
  return {reinterpret_cast<const uint8_t*>(data.data()), data.size_bytes()};
}

std::vector<int64_t> group_scale_shape(const program::Shape& weight, int64_t group) {
  return {weight_rows(weight), (weight_depth(weight) + group - 1) / group};
}

// How a constant that is no weight of integers is stored.
ElementType element_type(const Value& v) {
  if (v.storage == Storage::kFloat16) return ElementType::kF16;
  if (v.storage == Storage::kBFloat16) return ElementType::kBF16;
  constexpr std::array kTypes{ElementType::kF32, ElementType::kF16, ElementType::kBF16,
                              ElementType::kI64, ElementType::kI32, ElementType::kBool};  // in the order of DType
  return kTypes.at(static_cast<size_t>(v.dtype));
}

NamedTensor scale_tensor(const std::string& name, FloatData scale) {
  return {name, {ElementType::kF32, {static_cast<int64_t>(scale.size())}, bytes_of(scale)}};
}

// Appends a constant's tensors to those of a file. `trits` holds the bytes of the ternary ones.
struct TensorList {
  std::vector<NamedTensor> tensors;
  std::vector<std::vector<uint8_t>> trits;

  void add(const Value& v, const FloatData& data) { plain(v, bytes_of(data)); }
  void add(const Value& v, const program::HalfData& data) { plain(v, bytes_of(data.bits)); }
  void add(const Value& v, const program::RawData& data) { plain(v, data.bytes); }
  void add(const Value& v, const Int8Data& data) {
    tensors.push_back(
        {v.name + ".int8", {ElementType::kI8, {weight_rows(v.shape), weight_depth(v.shape)}, bytes_of(data.t)}});
    tensors.push_back(scale_tensor(v.name + ".scale", data.scale));
  }
  void add(const Value& v, const TernaryData& data) {
    const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape);
    trits.emplace_back(static_cast<size_t>(ternary::trit_bytes(rows, depth)));
    ternary::pack_trits(data.codes, rows, depth, trits.back());
    tensors.push_back({v.name + ".trits", {ElementType::kU8, {rows, ternary::trit_row_bytes(depth)}, trits.back()}});
    if (data.group != 0)
      tensors.push_back({v.name + ".group_scale",
                         {ElementType::kF16, group_scale_shape(v.shape, data.group), bytes_of(data.group_scale)}});
    if (!data.scale.empty()) tensors.push_back(scale_tensor(v.name + ".scale", data.scale));
    if (!data.scale_neg.empty()) tensors.push_back(scale_tensor(v.name + ".scale_neg", data.scale_neg));
  }

 private:
  void plain(const Value& v, std::span<const uint8_t> bytes) {
    tensors.push_back({v.name, {element_type(v), shape_at(v.shape, program::kOnes), bytes}});
  }
};

// Takes the named tensor out of the file, so that what is left over can be reported.
Result<TensorView> take(Safetensors& file, const std::string& name, ElementType type, const std::vector<int64_t>& shape) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) return make_error(ErrorCode::kCorrupt, "[bit] tensor '{}' of the graph, got none", name);
  const TensorView tensor = found->second;
  file.tensors.erase(found);
  if (tensor.type != type || tensor.shape != shape)
    return make_error(ErrorCode::kCorrupt, "[bit] {} {} as the graph says, got {} {} (tensor={})", safetensors::name(type),
                      program::to_string(shape), safetensors::name(tensor.type), program::to_string(tensor.shape), name);
  if (const auto address = reinterpret_cast<uintptr_t>(tensor.bytes.data()); address % kAlignment != 0)
    return make_error(ErrorCode::kCorrupt, "[bit] data at multiples of {} bytes, got {} beyond one (tensor={})", kAlignment,
                      address % kAlignment, name);
  return tensor;
}

template <class T = float>
std::span<const T> numbers_of(const TensorView& tensor) {
  return {reinterpret_cast<const T*>(tensor.bytes.data()), tensor.bytes.size() / sizeof(T)};
}

// Base-3 storage as codes, and what keeps the scales.
struct Unpacked {
  AlignedBuffer codes;
  std::shared_ptr<const void> file;
};

Result<program::Constant> ternary_constant(Safetensors& file, const Value& v, const ConstantPlan& plan,
                                           const std::shared_ptr<const void>& owner) {
  if (v.shape.empty())
    return make_error(ErrorCode::kCorrupt, "[bit] a ternary constant with rows, got rank 0 (value={})", v.name);
  const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape);
  BITLAB_TRY(const TensorView trits,
             take(file, v.name + ".trits", ElementType::kU8, {rows, ternary::trit_row_bytes(depth)}));
  TernaryData data;
  data.group = plan.group;
  if (plan.group != 0) {
    BITLAB_TRY(const TensorView scale,
               take(file, v.name + ".group_scale", ElementType::kF16, group_scale_shape(v.shape, plan.group)));
    data.group_scale = numbers_of<uint16_t>(scale);
  } else {
    BITLAB_TRY(const TensorView scale, take(file, v.name + ".scale", ElementType::kF32, {plan.scales}));
    data.scale = numbers_of(scale);
  }
  if (plan.asymmetric) {
    BITLAB_TRY(const TensorView scale, take(file, v.name + ".scale_neg", ElementType::kF32, {plan.scales}));
    data.scale_neg = numbers_of(scale);
  }
  const auto bytes = static_cast<size_t>(ternary::code_bytes(rows, depth));
  BITLAB_TRY(AlignedBuffer codes, AlignedBuffer::allocate(bytes));
  if (Status status = ternary::unpack_trits(trits.bytes, rows, depth, {codes.data(), bytes}); !status.ok())
    return make_error(status.error().code, "{} (value={})", status.error().message, v.name);
  auto unpacked = std::make_shared<const Unpacked>(Unpacked{std::move(codes), owner});
  data.codes = {unpacked->codes.data(), bytes};
  return program::Constant{plan.value, data, std::move(unpacked)};
}

Result<program::Constant> int8_constant(Safetensors& file, const Value& v, const ConstantPlan& plan,
                                        const std::shared_ptr<const void>& owner) {
  if (v.shape.empty())
    return make_error(ErrorCode::kCorrupt, "[bit] an int8 constant with rows, got rank 0 (value={})", v.name);
  BITLAB_TRY(const TensorView t,
             take(file, v.name + ".int8", ElementType::kI8, {weight_rows(v.shape), weight_depth(v.shape)}));
  BITLAB_TRY(const TensorView scale, take(file, v.name + ".scale", ElementType::kF32, {plan.scales}));
  return program::Constant{plan.value, Int8Data{numbers_of<int8_t>(t), numbers_of(scale)}, owner};
}

// Floats, and elements of any other dtype: as they lie in the file.
Result<program::Constant> plain_constant(Safetensors& file, const Value& v, const ConstantPlan& plan,
                                         const std::shared_ptr<const void>& owner) {
  BITLAB_TRY(const TensorView tensor, take(file, v.name, element_type(v), shape_at(v.shape, program::kOnes)));
  if (v.storage != Storage::kPlain)
    return program::Constant{plan.value, program::HalfData{numbers_of<uint16_t>(tensor)}, owner};
  if (v.dtype == program::DType::kFloat32) return program::Constant{plan.value, numbers_of(tensor), owner};
  return program::Constant{plan.value, program::RawData{tensor.bytes}, owner};
}

Status attach_constants(Safetensors& file, ParsedGraph& graph, const std::shared_ptr<const void>& owner) {
  Program& p = graph.program;
  for (const ConstantPlan& plan : graph.constants) {
    const Value& v = p.value(plan.value);
    const auto read = v.storage == Storage::kTernary ? ternary_constant
                      : v.storage == Storage::kInt8  ? int8_constant
                                                     : plain_constant;
    BITLAB_TRY(program::Constant constant, read(file, v, plan, owner));
    p.constants.push_back(std::move(constant));
  }
  if (!file.tensors.empty())
    return make_error(ErrorCode::kCorrupt, "[bit] tensors that the graph names, got '{}' too", file.tensors.begin()->first);
  return {};
}

Result<int> known_version(const Safetensors& file) {
  const auto version = file.metadata.find(std::string(kVersionKey));
  if (version == file.metadata.end() || !file.metadata.contains(std::string(kProgramKey)))
    return make_error(ErrorCode::kCorrupt, "[bit] a safetensors file with a BitLab program, got one without");
  for (int known = 0; known <= kVersion; ++known)
    if (version->second == std::to_string(known)) return known;
  return make_error(ErrorCode::kUnsupportedVersion, "[bit] a format version up to {}, got '{}'", kVersion, version->second);
}

}  // namespace

int64_t stored_bytes(const Program& p, const program::Constant& constant) {
  if (const auto* floats = std::get_if<FloatData>(&constant.data)) return static_cast<int64_t>(floats->size_bytes());
  if (const auto* halves = std::get_if<program::HalfData>(&constant.data))
    return static_cast<int64_t>(halves->bits.size_bytes());
  if (const auto* raw = std::get_if<program::RawData>(&constant.data)) return static_cast<int64_t>(raw->bytes.size());
  if (const auto* int8 = std::get_if<Int8Data>(&constant.data))
    return static_cast<int64_t>(int8->t.size_bytes() + int8->scale.size_bytes());
  const program::Shape& shape = p.value(constant.value).shape;
  const auto& data = std::get<TernaryData>(constant.data);
  return ternary::trit_bytes(weight_rows(shape), weight_depth(shape)) +
         static_cast<int64_t>(data.scale.size_bytes() + data.scale_neg.size_bytes() + data.group_scale.size_bytes());
}

Result<std::string> serialize(const Program& p) {
  BITLAB_RETURN_IF_ERROR(verify(p));
  std::map<std::string, std::string> metadata{{std::string(kVersionKey), std::to_string(kVersion)},
                                              {std::string(kProgramKey), graph_to_json(p)}};
  for (const auto& [key, value] : p.metadata) metadata[std::string(kMetaPrefix) + key] = value;
  TensorList list;
  for (const program::Constant& constant : p.constants)
    std::visit([&](const auto& data) { list.add(p.value(constant.value), data); }, constant.data);
  return write_container(list.tensors, std::move(metadata));
}

Status save(const Program& program, const std::filesystem::path& path) {
  BITLAB_TRY(const std::string bytes, serialize(program));
  return write_file_atomic(path, std::string_view(bytes));
}

Result<Program> parse(std::span<const uint8_t> bytes, const std::shared_ptr<const void>& owner) {
  BITLAB_TRY(Safetensors file, read_container(bytes));
  BITLAB_RETURN_IF_ERROR(known_version(file));
  BITLAB_TRY(ParsedGraph graph, graph_from_json(file.metadata[std::string(kProgramKey)]));
  BITLAB_RETURN_IF_ERROR(attach_constants(file, graph, owner));
  for (const auto& [key, value] : file.metadata)
    if (key.starts_with(kMetaPrefix)) graph.program.metadata[key.substr(kMetaPrefix.size())] = value;
  BITLAB_RETURN_IF_ERROR(verify(graph.program));
  return std::move(graph.program);
}

Result<Program> load(const std::filesystem::path& path) {
  BITLAB_TRY(auto file, MappedFile::open(path));
  Result<Program> program = parse(file->bytes(), file);
  if (!program.ok()) return make_error(program.error().code, "{} (path={})", program.error().message, path.string());
  return program;
}

Result<int> version_of(const std::filesystem::path& path) {
  BITLAB_TRY(auto file, MappedFile::open(path));
  BITLAB_TRY(const auto parts, safetensors::split(file->bytes(), "bit"));
  BITLAB_TRY(const Safetensors contents, safetensors::read(parts, "bit"));
  return known_version(contents);
}

}  // namespace bitlab::format::bit
