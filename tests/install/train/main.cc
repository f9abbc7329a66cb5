// Builds a module of ternary layers and deploys it.
#include <torch/nn/module.h>
#include <torch/utils.h>

#include "bitlab/deploy/deploy.h"
#include "bitlab/models/model.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  torch::manual_seed(0);
  const auto model = bitlab::models::make_model("lenet5").value();
  return bitlab::deploy::save(*model, at::randn({2, 1, 28, 28}), argv[1]).value().parity.exact ? 0 : 1;
}
