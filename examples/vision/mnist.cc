// Trains a ternary LeNet-5 on MNIST for one epoch and writes lenet5.bit, which bitlab-run classifies with:
//   bitlab-run run lenet5.bit --data mnist
#include <fmt/core.h>

#include "bitlab/data/dataset.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/models/model.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/trainer.h"

// docs: ten-lines
using namespace bitlab;

int main() {
  const auto [training, validation] = data::hold_out(data::load_dataset("mnist", data::Split::kTrain).value(), 0.05).value();
  const auto test = data::load_dataset("mnist", data::Split::kTest).value();
  const auto model = models::make_model("lenet5").value();  // ternary weights, int8 activations
  train::Classifier learner(*model);
  train::BitTrainer(learner, {.epochs = 1}).fit(training, validation).value();
  const auto picture = train::make_batch(*test, std::vector<int64_t>{0, 1, 2}).value().at("image");
  const auto file =
      deploy::save(*model, picture, "lenet5.bit", {.metadata = {{"image", test->preprocess().spec_json()}}}).value();
  fmt::print("{:.2f} %, {} bytes\n", 100 * train::evaluate(learner, test).value().at("accuracy"), file.file_bytes);
}
// docs: end
