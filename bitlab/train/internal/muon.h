// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): the momentum of a matrix with its singular values near 1, so that a step turns all of
// its directions alike, the rare ones, too. Latent weights want that: what counts of them is the code that they round to, not how far they went.
//
//   m = momentum m + (1 - momentum) g;   u = orthogonal((1 - momentum) g + momentum m);   w = w (1 - lr decay) - 0.2 sqrt(max(rows, columns)) lr u
//
// Filters are matrices of a row each. The factor gives a step the root mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that rate and decay
// are AdamW's; it is torch.optim.Muon's "match_rms_adamw". Groups that are not `orthogonal` take AdamW's step.
#pragma once

#include <torch/optim/optimizer.h>

namespace bitlab::train {

struct MuonOptions : public torch::optim::OptimizerCloneableOptions<MuonOptions> {
  explicit MuonOptions(double rate) : lr_(rate) {}
  TORCH_ARG(double, lr);
  TORCH_ARG(double, weight_decay) = 0;
  TORCH_ARG(bool, orthogonal) = true;
  TORCH_ARG(double, momentum) = 0.95;
  // Of AdamW's.
  using Betas = std::tuple<double, double>;
  TORCH_ARG(Betas, betas) = {0.9, 0.999};
  TORCH_ARG(double, eps) = 1e-8;

 public:
  double get_lr() const override { return lr_; }
  void set_lr(double rate) override { lr_ = rate; }
};

class Muon : public torch::optim::Optimizer {
 public:
  Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups, const MuonOptions& defaults)
      : Optimizer(groups, std::make_unique<MuonOptions>(defaults)) {}

  at::Tensor step(LossClosure closure = nullptr) override;
  // Of a parameter of this optimizer, whose state is SGDParamState then, and else AdamWParamState.
  bool is_orthogonal(const at::Tensor& parameter) const;
};

// A matrix with the singular vectors of x, and singular values from 0.68 to 1.14, but for those below 1e-3 of x's norm: five steps of Newton and Schulz in x's dtype.
at::Tensor orthogonal(const at::Tensor& x);

}  // namespace bitlab::train
