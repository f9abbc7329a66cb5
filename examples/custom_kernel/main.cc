// Shows that selection finds a kernel of one's own, and that a model gives the same bits with it.
#include "skip_zeros.h"
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/runtime/session.h"
#include "bitlab/ternary/codes.h"

using namespace bitlab;

namespace {

// A product by the row that selection takes under `policy`; prints every verdict.
std::vector<float> product(const kernels::Policy& policy, int64_t tokens, int64_t rows, int64_t depth) {
  std::mt19937 random(1);
  std::vector<int8_t> t(static_cast<size_t>(rows * depth)), q(static_cast<size_t>(tokens * depth));
  for (int8_t& v : t) v = static_cast<int8_t>(random() % 8 < 7 ? 0 : random() % 2 == 0 ? 1 : -1);
  for (int8_t& v : q) v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(t, rows, depth, codes);

  const auto layout = kernels::select_ternary_layout(rows, depth, this_machine(), policy).value();
  const auto selection = kernels::explain_ternary_gemm({tokens, rows, depth}, layout, this_machine(), policy);
  for (const auto& v : selection.verdicts)
    std::printf("  %-24s %-16s %s\n", v.row.c_str(), std::string(kernels::name(v.verdict)).c_str(), v.reason.c_str());
  const auto weights = kernels::pack_ternary(codes, rows, depth, layout).value();
  const std::vector<float> a(static_cast<size_t>(tokens), 0.01F), scale{0.5F};
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  auto scratch = AlignedBuffer::allocate(static_cast<size_t>(ternary_gemm_scratch_bytes(*selection.row, depth))).value();
  ternary_gemm(*selection.row,
               {.weights = weights.data.data(),
                .rows = rows,
                .depth = depth,
                .scale = scale.data(),
                .q = q.data(),
                .q_stride = depth,
                .a = a.data(),
                .y = y.data(),
                .y_stride = rows},
               tokens, scratch.data(), *make_thread_pool(1));
  return y;
}

// The first logits of a model that takes images of 28 x 28, as bytes.
std::vector<float> logits(const char* path, const kernels::Policy& policy) {
  const auto model = runtime::Model::load(path, {this_machine(), policy}).value();
  auto session = runtime::Session::create(model).value();
  std::vector<float> pixels(28 * 28);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<float>(i % 17) / 17.0F;
  const runtime::TensorView input{{1, 1, 28, 28}, pixels.data()};
  const auto outputs = session->run({&input, 1}).value();
  return {outputs[0].as(), outputs[0].as() + 10};
}

bool same(const char* what, const std::vector<float>& a, const std::vector<float>& b) {
  const bool equal = a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  std::printf("%s: %s\n", what, equal ? "the same bits" : "DIFFERENT");
  return equal;
}

}  // namespace

int main(int argc, char** argv) {
  kernels::Policy with_own;
  with_own.add(kernels::ternary_gemm_kernels(), skip_zeros_row());
  std::printf("with a kernel of one's own:\n");
  const auto own = product(with_own, 5, 70, 400);
  std::printf("without:\n");
  bool equal = same("products", own, product({}, 5, 70, 400));
  if (argc > 1) equal = same("logits", logits(argv[1], with_own), logits(argv[1], {})) && equal;
  return equal ? 0 : 1;
}
