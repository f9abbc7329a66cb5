// Loads a model by the C++ interface and prints the logits of an input of zeros.
#include <cstdio>
#include <vector>

#include "bitlab/runtime/session.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto model = bitlab::runtime::Model::load(argv[1]);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.error().message.c_str());
    return 1;
  }
  auto session = bitlab::runtime::Session::create(*model).value();
  const std::vector<float> zeros(28 * 28);
  const bitlab::runtime::TensorView input{{1, 1, 28, 28}, zeros.data()};
  const auto outputs = session->run({&input, 1}).value();
  for (int i = 0; i < 10; ++i) std::printf("%a\n", static_cast<double>(outputs[0].as()[i]));
}
