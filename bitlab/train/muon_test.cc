// Muon beside its formulas.
#include "bitlab/train/internal/muon.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/train/internal/optimizer.h"

namespace bitlab::train {
namespace {

// The singular vectors stay, the values come near 1.
TEST(Muon, MakesMatricesOrthogonal) {
  torch::manual_seed(1);
  for (const auto& [rows, columns] : {std::pair(7, 40), std::pair(40, 7), std::pair(33, 33), std::pair(1, 9)}) {
    const at::Tensor x = torch::randn({rows, columns}, at::kDouble) * 37, y = orthogonal(x);
    ASSERT_EQ(y.sizes(), x.sizes());
    const auto [u, s, vh] = at::linalg_svd(x, false);
    const at::Tensor core = u.t().mm(y).mm(vh.t()), values = core.diagonal();
    EXPECT_TRUE(torch::allclose(core, torch::diag(values), 1e-9, 1e-9)) << rows;
    const at::Tensor large = values.masked_select(s > 1e-2 * s.norm());
    EXPECT_GT(large.min().item<double>(), 0.67) << rows;
    EXPECT_LT(large.max().item<double>(), 1.15) << rows;
  }
  EXPECT_EQ(orthogonal(torch::zeros({3, 4})).abs().max().item<float>(), 0);
}

// The formulas of muon.h and AdamW's, written out in double, of a linear layer, a filter and a bias, three steps each.
TEST(Muon, StepsMatricesAndLeavesTheRestToAdamW) {
  torch::manual_seed(2);
  std::vector<at::Tensor> parameters{torch::randn({6, 10}, at::kDouble), torch::randn({4, 3, 2, 2}, at::kDouble),
                                     torch::randn({5, 8}, at::kDouble), torch::randn({6}, at::kDouble)};
  std::vector<at::Tensor> expected, mean, square;
  std::vector<NamedParameter> named;
  for (size_t i = 0; i < parameters.size(); ++i) {
    expected.push_back(parameters[i].clone());
    mean.push_back(torch::zeros_like(parameters[i])), square.push_back(torch::zeros_like(parameters[i]));
    named.push_back({i == 2 ? "table.weight" : "p" + std::to_string(i), parameters[i].requires_grad_()});
  }
  const TrainingConfig config{.optimizer = config::Optimizer::kMuon,
                              .learning_rate = 0.02,
                              .momentum = 0.8,
                              .beta1 = 0.7,
                              .beta2 = 0.95,
                              .weight_decay = 0.1,
                              .parameters = {{.path = "table.*", .optimizer = config::ParameterOptimizer::kAdamW}}};
  const auto groups = groups_of(named, config);
  const auto optimizer = make_optimizer(groups, config);
  const at::NoGradGuard no_grad;
  for (int step = 1; step <= 3; ++step) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor gradient = torch::randn_like(parameters[i]);
      parameters[i].mutable_grad() = gradient.clone();
      at::Tensor& w = expected[i];
      if (i < 2) {
        mean[i] = 0.8 * mean[i] + 0.2 * gradient;
        const at::Tensor turned = orthogonal((0.2 * gradient + 0.8 * mean[i]).flatten(1)).view_as(w);
        const double widest = i == 0 ? 10 : 12;
        w = w * (1 - 0.02 * 0.1) - 0.2 * std::sqrt(widest) * 0.02 * turned;
        continue;
      }
      mean[i] = 0.7 * mean[i] + 0.3 * gradient, square[i] = 0.95 * square[i] + 0.05 * gradient * gradient;
      const at::Tensor m = mean[i] / (1 - std::pow(0.7, step)), v = square[i] / (1 - std::pow(0.95, step));
      w = w * (1 - 0.02 * (i == 2 ? 0.1 : 0)) - 0.02 * m / (v.sqrt() + config.epsilon);
    }
    optimizer->step();
    for (size_t i = 0; i < parameters.size(); ++i)
      EXPECT_TRUE(torch::allclose(parameters[i], expected[i], 1e-9, 1e-10)) << i << " step " << step;
  }
  // What it keeps comes back.
  const State state = optimizer_state(*optimizer, named);
  EXPECT_TRUE(state.contains("p0.momentum_buffer") && state.contains("table.weight.exp_avg") && state.contains("p3.step"));
  const auto other = make_optimizer(groups, config);
  ASSERT_TRUE(load_optimizer_state(*other, named, state).ok());
  EXPECT_TRUE(torch::equal(optimizer_state(*other, named).at("p1.momentum_buffer"), state.at("p1.momentum_buffer")));
}

}  // namespace
}  // namespace bitlab::train
