// Every architecture of models.def: shapes, gradients to every parameter, refusal of what it cannot take.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/models/model.h"

namespace bitlab::models {
namespace {

TEST(Models, ListHasEveryRow) { EXPECT_EQ(model_list().size(), 2U); }

TEST(Models, MapImagesToLogitsAndTrain) {
  for (const ModelInfo& info : model_list())
    for (const BitQuantConfig& quant : {BitQuantConfig{}, BitQuantConfig::none()}) {
      const auto model =
          make_model(
              {.name = std::string(info.name), .channels = 3, .height = 17, .width = 20, .classes = 7, .quant = quant})
              .value();
      const at::Tensor logits = model->forward(torch::randn({2, 3, 17, 20}));
      EXPECT_EQ(logits.sizes(), at::IntArrayRef({2, 7})) << info.name;
      logits.square().sum().backward();
      for (const auto& parameter : model->named_parameters())
        EXPECT_GT(parameter.value().grad().abs().sum().item<float>(), 0) << info.name << "." << parameter.key();
    }
}

TEST(Models, LeNet5HasTheSizesOfThePaper) {
  const auto model = make_model({}).value();
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) count += parameter.numel();
  EXPECT_EQ(count, (25 + 1) * 20 + (500 + 1) * 50 + (800 + 1) * 500 + (500 + 1) * 10);
}

TEST(Models, RefuseWhatTheyCannotTake) {
  EXPECT_EQ(make_model({.name = "lenet6"}).error().message, "[model] one of {lenet5, mlp}, got 'lenet6'");
  EXPECT_EQ(make_model({.height = 15}).error().message, "[lenet5] images of at least 16x16, got 15x28");
  EXPECT_EQ(make_model({.classes = 0}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace bitlab::models
