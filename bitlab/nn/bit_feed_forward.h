// The feed-forward part of a transformer block with ternary weights.
#pragma once

#include <optional>
#include <ostream>

#include <torch/arg.h>

#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"

namespace bitlab::nn {

enum class Activation {
  kGelu,            // x * P(X <= x), X standard normal (arXiv:1606.08415)
  kGeluTanh,        // the same by its approximation with tanh
  kRelu,            // max(x, 0)
  kSquaredRelu,     // max(x, 0)^2 (arXiv:2109.08668)
  kSilu,            // x / (1 + exp(-x))
  kSwiGlu,          // silu(gate) * up (arXiv:2002.05202)
  kSquaredReluGlu,  // max(gate, 0)^2 * up: BitNet b1.58 2B4T (arXiv:2504.12285)
};
std::string_view name(Activation activation);  // "gelu", "gelu_tanh", ...
constexpr bool is_gated(Activation a) { return a == Activation::kSwiGlu || a == Activation::kSquaredReluGlu; }

struct BitFeedForwardOptions {
  explicit BitFeedForwardOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim);
  // 0: 4 * dim.
  TORCH_ARG(int64_t, hidden_dim) = 0;
  TORCH_ARG(Activation, activation) = Activation::kGelu;
  TORCH_ARG(bool, bias) = true;
  // Of the hidden values, in training.
  TORCH_ARG(double, dropout) = 0;
  // A norm of the hidden values before down_proj (SubLN, arXiv:2310.11453); none: without.
  TORCH_ARG(std::optional<NormKind>, sub_norm) = std::nullopt;
  TORCH_ARG(double, norm_eps) = 1e-5;
  // Of the projections. The norm stays float32.
  TORCH_ARG(BitQuantConfig, quant);
};

// x float32 [..., dim] -> [..., dim]:  down_proj(sub_norm(dropout(f(up_proj(x))))), and with a gate f(gate_proj(x)) * up_proj(x).
// Children: up_proj, gate_proj (gated activations alone), down_proj (BitLinear), sub_norm. Errors: InvalidArgument (sizes), those of ops.h.
class BitFeedForwardImpl : public torch::nn::Cloneable<BitFeedForwardImpl> {
 public:
  explicit BitFeedForwardImpl(int64_t dim) : BitFeedForwardImpl(BitFeedForwardOptions(dim)) {}
  explicit BitFeedForwardImpl(const BitFeedForwardOptions& options_);

  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitFeedForwardOptions options;
  BitLinear up_proj{nullptr}, gate_proj{nullptr}, down_proj{nullptr};
  torch::nn::AnyModule sub_norm;  // empty without

 private:
  int64_t hidden_dim() const { return options.hidden_dim() == 0 ? 4 * options.dim() : options.hidden_dim(); }
};
TORCH_MODULE(BitFeedForward);

}  // namespace bitlab::nn
