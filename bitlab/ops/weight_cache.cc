#include "bitlab/ops/weight_cache.h"

#include <variant>

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/cuda.h"
#include "bitlab/ops/internal/product.h"
#include "bitlab/ops/internal/tensor_cache.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::ops {
namespace {

// What a layout depends on besides the codes, and the scales of groups.
struct Layout {
  int64_t depth, groups;
  kernels::TernaryLayout layout;
  bool operator==(const Layout&) const = default;
};

// Never destroyed: tensors may outlive static objects.
TensorCache<Layout, CachedWeight>& layouts() {
  static auto* instance = new TensorCache<Layout, CachedWeight>;
  return *instance;
}

struct Latents {
  TensorCache<Encoding, PackedWeight> codes;                     // of latent weights
  TensorCache<std::monostate, std::vector<SeenTensor>> sources;  // of codes
};

Latents& latents() {
  static auto* instance = new Latents;
  return *instance;
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

std::shared_ptr<const CachedWeight> pack_weight(const char* op, const at::Tensor& codes, const WeightUse& use) {
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
    return weight;
  }
  const std::span<const uint8_t> bytes(plain.const_data_ptr<uint8_t>(), count);
  const Status valid = ternary::validate_codes(bytes, rows, use.depth);
  if (!valid.ok()) throw Exception(Error{valid.error().code, fmt::format("[{}] {}", op, valid.error().message)});
  auto weight = std::make_shared<CachedWeight>();
  weight->packed = kernels::pack_ternary(bytes, rows, use.depth, use.layout, use.groups).value();
  if (use.group_scale != nullptr) {
    const at::Tensor scale = use.group_scale->contiguous();
    const auto* halves = reinterpret_cast<const uint16_t*>(scale.const_data_ptr<at::Half>());
    weight->group_scale =
        kernels::pack_group_scales({halves, static_cast<size_t>(scale.numel())}, rows, scale.size(1)).value();
  }
  return weight;
}

void check_codes(const char* op, const at::Tensor& codes, const WeightUse& use) {
  const bool int8 = is_int8(use.layout);
  const int64_t depth = use.depth, row_bytes = int8 ? depth : ternary::code_row_bytes(depth),
                most = ternary::max_depth(int8);
  require(codes.scalar_type() == (int8 ? at::kChar : at::kByte), ErrorCode::kTypeMismatch,
          "[{}] uint8 codes or int8 weights, got {} (name=codes)", op, c10::toString(codes.scalar_type()));
  require(depth <= most, ErrorCode::kUnsupported, "[{}] K of at most {}, got {}", op, most, depth);
  require(codes.dim() == 2 && codes.size(0) > 0 && codes.size(1) == row_bytes, ErrorCode::kShapeMismatch,
          "[{}] codes [N, {}] for K = {}, got {}", op, row_bytes, depth, show(codes));
}

std::shared_ptr<const CachedWeight> packed_weight(const char* op, const at::Tensor& codes, const WeightUse& use) {
  check_codes(op, codes, use);
  std::vector<at::Tensor> sources{codes};
  if (use.group_scale != nullptr) sources.push_back(*use.group_scale);  // scales of groups are packed, too
  return layouts().get(sources, {use.depth, use.groups, use.layout}, [&] { return pack_weight(op, codes, use); });
}

std::shared_ptr<const PackedWeight> cached_codes(const at::Tensor& weight, const WeightQuant& quant,
                                                 const ConvWindow* window) {
  std::vector<at::Tensor> sources{weight};
  sources.insert(sources.end(), quant.learned.begin(), quant.learned.end());
  return latents().codes.get(sources, {quant.spec, window}, [&] {
    // Codes that are made in inference mode would be inference tensors, whose own layouts could not be kept.
    const c10::InferenceMode normal(false);
    const at::NoGradGuard no_grad;
    const ObservationPause pause;  // packing is no call of the program, whether codes are kept or not
    auto packed = std::make_shared<const PackedWeight>(ternary_pack(weight, quant, window));
    latents().sources.get({packed->codes}, {},
                          [&] { return std::make_shared<const std::vector<SeenTensor>>(sources.begin(), sources.end()); });
    return packed;
  });
}

std::vector<at::Tensor> sources_of(const at::Tensor& codes) {
  std::vector<at::Tensor> tensors;
  if (const auto sources = latents().sources.find(codes, {}); sources != nullptr)
    for (const SeenTensor& seen : *sources)
      if (at::Tensor tensor = seen.lock(); tensor.defined()) tensors.push_back(std::move(tensor));
  return tensors;
}

void forget_codes(const at::Tensor& weight) {
  latents().codes.forget(weight);
  cuda::forget_codes(weight);
}

size_t packed_weight_count() { return layouts().size(); }

}  // namespace bitlab::ops
