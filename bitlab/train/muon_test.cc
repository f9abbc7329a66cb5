// Muon beside its formulas.
#include "bitlab/train/internal/muon.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_embedding.h"
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

// The formulas of muon.h and AdamW's, written out in double: of a matrix that is as tall as none is wide, a filter, a table that a rule gives to muon; and a
// table, a matrix that a rule gives to adamw, the last matrix and a bias.
TEST(Muon, StepsHiddenMatricesAndLeavesTheRestToAdamW) {
  torch::manual_seed(2);
  const std::vector<std::tuple<std::string, std::vector<int64_t>, bool, bool>> kinds{
      {"hidden", {10, 6}, false, true}, {"filter", {4, 3, 2, 2}, false, true}, {"free", {6, 9}, true, true},
      {"table", {5, 8}, true, false},   {"ruled", {5, 4}, false, false},       {"last", {3, 7}, false, false},
      {"bias", {6}, false, false}};
  std::vector<at::Tensor> expected, mean, square;
  std::vector<NamedParameter> named;
  for (const auto& [name, sizes, is_table, is_muon] : kinds) {
    named.push_back({name, torch::randn(sizes, at::kDouble).requires_grad_(), is_table});
    expected.push_back(named.back().tensor.detach().clone());
    mean.push_back(torch::zeros_like(expected.back())), square.push_back(torch::zeros_like(expected.back()));
  }
  const TrainingConfig config{.optimizer = config::Optimizer::kMuon,
                              .learning_rate = 0.02,
                              .momentum = 0.8,
                              .beta1 = 0.7,
                              .beta2 = 0.95,
                              .weight_decay = 0.1,
                              .parameters = {{.path = "free", .optimizer = config::ParameterOptimizer::kMuon},
                                             {.path = "ruled", .optimizer = config::ParameterOptimizer::kAdamW}}};
  const auto groups = groups_of(named, config);
  const auto optimizer = make_optimizer(groups, config);
  const at::NoGradGuard no_grad;
  for (int step = 1; step <= 3; ++step) {
    for (size_t i = 0; i < named.size(); ++i) {
      const at::Tensor gradient = torch::randn_like(expected[i]);
      named[i].tensor.mutable_grad() = gradient.clone();
      at::Tensor& w = expected[i];
      if (std::get<3>(kinds[i])) {
        mean[i] = 0.8 * mean[i] + 0.2 * gradient;
        const at::Tensor turned = orthogonal((0.2 * gradient + 0.8 * mean[i]).flatten(1));
        const auto widest = static_cast<double>(std::max(turned.size(0), turned.size(1)));
        w = w * (1 - 0.02 * 0.1) - 0.2 * std::sqrt(widest) * 0.02 * turned.reshape(w.sizes());
        continue;
      }
      mean[i] = 0.7 * mean[i] + 0.3 * gradient, square[i] = 0.95 * square[i] + 0.05 * gradient * gradient;
      const at::Tensor m = mean[i] / (1 - std::pow(0.7, step)), v = square[i] / (1 - std::pow(0.95, step));
      w = w * (1 - 0.02 * (w.dim() > 1 ? 0.1 : 0)) - 0.02 * m / (v.sqrt() + config.epsilon);
    }
    optimizer->step();
    for (size_t i = 0; i < named.size(); ++i)
      EXPECT_TRUE(torch::allclose(named[i].tensor, expected[i], 1e-9, 1e-10)) << named[i].name << " step " << step;
  }
  // What it keeps comes back.
  const State state = optimizer_state(*optimizer, named);
  EXPECT_TRUE(state.contains("filter.momentum_buffer") && state.contains("table.exp_avg") && state.contains("bias.step"));
  const auto other = make_optimizer(groups, config);
  ASSERT_TRUE(load_optimizer_state(*other, named, state).ok());
  EXPECT_TRUE(torch::equal(optimizer_state(*other, named).at("free.momentum_buffer"), state.at("free.momentum_buffer")));
}

TEST(Muon, KnowsTables) {
  torch::nn::Sequential net(torch::nn::Embedding(5, 4), nn::BitEmbedding(5, 4), torch::nn::Linear(4, 2));
  std::string tables;
  for (const NamedParameter& parameter : parameters_of(*net))
    if (parameter.is_table) tables += parameter.name + " ";
  EXPECT_EQ(tables, "0.weight 1.weight ");
}

}  // namespace
}  // namespace bitlab::train
