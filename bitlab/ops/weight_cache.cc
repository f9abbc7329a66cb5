#include "bitlab/ops/weight_cache.h"

#include <mutex>
#include <unordered_map>

#include "bitlab/ops/check.h"
#include "bitlab/ops/torch_pool.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::ops {
namespace {

// A weak reference keeps the TensorImpl's address from being used again, so that identity is certain.
struct Entry {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor;
  int64_t version;
  std::shared_ptr<const CachedWeight> weight;
};

struct Cache {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, Entry> entries;
};

// Never destroyed: tensors may outlive static objects.
Cache& cache() {
  static auto* instance = new Cache;
  return *instance;
}

int64_t version_of(const at::Tensor& tensor) { return tensor.is_inference() ? 0 : static_cast<int64_t>(tensor._version()); }

std::shared_ptr<const CachedWeight> pack(const char* op, const at::Tensor& codes, const WeightUse& use) {
  const at::Tensor plain = codes.contiguous();
  const auto count = static_cast<size_t>(plain.numel());
  const int64_t rows = codes.size(0);
  if (is_int8(use.layout)) {
    const std::span<const int8_t> t(plain.const_data_ptr<int8_t>(), count);
    require(std::find(t.begin(), t.end(), int8_t{-128}) == t.end(), ErrorCode::kCorrupt,
            "[{}] int8 weights in [-127, 127], got -128", op);
    auto weight = std::make_shared<CachedWeight>();
    const bool table = use.layout == kernels::TernaryLayout::kInt8Rows;
    weight->packed = kernels::pack_int8_weight(t, rows, use.depth, table, use.groups).value();
    weight->groups = use.groups;
    return weight;
  }
  const std::span<const uint8_t> bytes(plain.const_data_ptr<uint8_t>(), count);
  const Status valid = ternary::validate_codes(bytes, rows, use.depth);
  if (!valid.ok()) throw Exception(Error{valid.error().code, fmt::format("[{}] {}", op, valid.error().message)});
  auto weight = std::make_shared<CachedWeight>();
  weight->packed = kernels::pack_ternary(bytes, rows, use.depth, use.layout, use.groups).value();
  weight->groups = use.groups;
  if (use.group_scale != nullptr) {
    const at::Tensor scale = use.group_scale->contiguous();
    const auto* halves = reinterpret_cast<const uint16_t*>(scale.const_data_ptr<at::Half>());
    weight->group_scale =
        kernels::pack_group_scales({halves, static_cast<size_t>(scale.numel())}, rows, scale.size(1)).value();
    weight->group_scale_source = *use.group_scale;
  }
  return weight;
}

// Whether a weight that was packed serves the use.
bool serves(const CachedWeight& weight, const WeightUse& use) {
  const bool same_scale = use.group_scale == nullptr
                              ? !weight.group_scale_source.defined()
                              : weight.group_scale_source.defined() && weight.group_scale_source.is_same(*use.group_scale);
  return weight.packed.depth == use.depth && weight.packed.layout == use.layout && weight.groups == use.groups && same_scale;
}

}  // namespace

kernels::TernaryKernels CachedWeight::kernels_for(ternary::ActKind activation, const kernels::TernaryGemmProblem& problem,
                                                  const std::function<kernels::TernaryKernels()>& choose) const {
  const std::lock_guard lock(mutex_);
  if (last_problem_ != problem || last_activation_ != activation) {
    last_ = choose();
    last_problem_ = problem;
    last_activation_ = activation;
  }
  return last_;
}

std::shared_ptr<const CachedWeight> packed_weight(const char* op, const at::Tensor& codes, const WeightUse& use) {
  const bool int8 = is_int8(use.layout);
  const int64_t depth = use.depth, row_bytes = int8 ? depth : ternary::code_row_bytes(depth),
                most = ternary::max_depth(int8);
  require(codes.scalar_type() == (int8 ? at::kChar : at::kByte), ErrorCode::kTypeMismatch,
          "[{}] uint8 codes or int8 weights, got {} (name=codes)", op, c10::toString(codes.scalar_type()));
  require(depth <= most, ErrorCode::kUnsupported, "[{}] K of at most {}, got {}", op, most, depth);
  require(codes.dim() == 2 && codes.size(0) > 0 && codes.size(1) == row_bytes, ErrorCode::kShapeMismatch,
          "[{}] codes [N, {}] for K = {}, got {}", op, row_bytes, depth, show(codes));
  const auto* key = codes.unsafeGetTensorImpl();
  // Scales of groups are packed, too: a change of either shows in the sum of the versions.
  const int64_t version = version_of(codes) + (use.group_scale == nullptr ? 0 : version_of(*use.group_scale));
  {
    const std::lock_guard lock(cache().mutex);
    const auto found = cache().entries.find(key);
    if (found != cache().entries.end() && found->second.version == version && serves(*found->second.weight, use))
      return found->second.weight;
  }
  auto weight = pack(op, codes, use);
  const std::lock_guard lock(cache().mutex);
  std::erase_if(cache().entries, [](const auto& entry) { return entry.second.tensor.expired(); });
  cache().entries.insert_or_assign(
      key,
      Entry{c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(codes.getIntrusivePtr()), version, weight});
  return weight;
}

size_t packed_weight_count() {
  const std::lock_guard lock(cache().mutex);
  return cache().entries.size();
}

}  // namespace bitlab::ops
