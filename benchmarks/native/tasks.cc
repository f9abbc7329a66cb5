// BitLab's own kernels as tasks: chosen by selection, as a plan would.
#include "benchmarks/native/task.h"

#include <fmt/format.h>

#include "bitlab/base/internal/float_environment.h"
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::bench {
namespace {

using namespace kernels;

AlignedBuffer buffer(int64_t bytes) { return AlignedBuffer::allocate(static_cast<size_t>(bytes)).value(); }

// A random ternary weight as a model has it in memory.
struct Weight {
  PackedTernary packed;
  std::vector<float> scale;
  AlignedBuffer group_scale;
  TernaryWeight view;

  Weight(int64_t rows, int64_t depth, int64_t group, TernaryLayout layout)
      : packed(
            pack_ternary(test::packed(test::random_int8(rows * depth, 1, -1, 1), rows, depth), rows, depth, layout).value()),
        scale(test::random_floats(rows, 2, 0.1F)) {
    view = {.packed = &packed, .scale = scale.data(), .scale_stride = 1, .group = group};
    if (group == 0) return;
    const std::vector<uint16_t> halves(static_cast<size_t>(rows * ceil_div(depth, group)), 0x2C00);
    group_scale = pack_group_scales(halves, rows, ceil_div(depth, group)).value();
    view.group_scale = reinterpret_cast<const uint16_t*>(group_scale.data());
  }
};

class Gemm final : public Task {
 public:
  Gemm(const GemmCase& c, TernaryLayout layout, const TernaryKernels& kernels, int threads)
      : c_(c),
        kernels_(kernels),
        weight_(c.rows, c.depth, c.group, layout),
        pool_(make_thread_pool(threads)),
        stride_(round_up(c.depth, kVnStep)),
        q_(static_cast<size_t>(c.tokens * stride_)),
        x_(test::random_floats(c.tokens * c.depth, 3)),
        a_(static_cast<size_t>(c.tokens), 0.01F),
        y_(static_cast<size_t>(c.tokens * c.rows)),
        scratch_(buffer(ternary_linear_scratch_bytes(kernels, weight_.view, c.tokens, threads))) {
    work = 2.0 * static_cast<double>(c.tokens * c.rows * c.depth);
    const auto values = test::random_int8(c.tokens * c.depth, 4, -127, 127);
    for (int64_t m = 0; m < c.tokens; ++m) std::copy_n(values.begin() + m * c.depth, c.depth, q_.begin() + m * stride_);
  }
  void run() override {
    if (c_.from_float) {
      (void)ternary_linear(kernels_, weight_.view, {}, x_.data(), c_.tokens, y_.data(), scratch_.data(), *pool_);
      return;
    }
    TernaryGemmArgs args = weight_.view.arguments();
    args.q = q_.data();
    args.q_stride = stride_;
    args.a = a_.data();
    args.y = y_.data();
    args.y_stride = c_.rows;
    ternary_gemm(*kernels_.get<TernaryGemmRow>(), args, c_.tokens, scratch_.data(), *pool_);
  }

 private:
  GemmCase c_;
  TernaryKernels kernels_;
  Weight weight_;
  std::unique_ptr<ThreadPool> pool_;
  int64_t stride_;
  std::vector<int8_t> q_;
  std::vector<float> x_, a_, y_;
  AlignedBuffer scratch_;
};

ConvGeometry geometry(const ConvCase& c) {
  const int64_t half = c.kernel / 2;
  return {.batch = c.batch,
          .channels = c.channels,
          .input = {1, c.side, c.side},
          .kernel = {1, c.kernel, c.kernel},
          .padding = {0, half, half}};
}

// int8 channels-last in and out, static scales, bias and ReLU.
class Conv final : public Task {
 public:
  Conv(const ConvCase& c, TernaryLayout layout, const TernaryKernels& kernels, int threads)
      : g_(geometry(c)),
        kernels_(kernels),
        weight_(c.filters, g_.depth(), 0, layout),
        bias_(test::random_floats(c.filters, 5)),
        pool_(make_thread_pool(threads)),
        q_(test::random_int8(c.batch * g_.sample_values(), 6, -127, 127)),
        y_(static_cast<size_t>(c.batch * g_.positions() * c.filters)) {
    weight_.view.bias = bias_.data();
    weight_.view.relu = true;
    scratch_ = buffer(ternary_conv_scratch_bytes(kernels, weight_.view, g_, threads));
    work = 2.0 * static_cast<double>(c.batch * g_.positions() * c.filters * g_.depth());
  }
  void run() override {
    (void)ternary_conv(kernels_, weight_.view, g_, {.q = q_.data(), .a = &a_}, {.y_q = y_.data(), .y_inv = 3.0F},
                       scratch_.data(), *pool_);
  }

 private:
  ConvGeometry g_;
  TernaryKernels kernels_;
  Weight weight_;
  std::vector<float> bias_;
  std::unique_ptr<ThreadPool> pool_;
  std::vector<int8_t> q_, y_;
  AlignedBuffer scratch_;
  float a_ = 0.01F;
};

class Quant final : public Task {
 public:
  Quant(int64_t values, const ActivationQuantRow* row)
      : row_(row), x_(test::random_floats(values, 7)), q_(static_cast<size_t>(values)), pool_(make_thread_pool(1)) {
    work = static_cast<double>(values) * 4;
  }
  void run() override {
    const int64_t columns = std::min<int64_t>(2048, static_cast<int64_t>(x_.size())),
                  rows = static_cast<int64_t>(x_.size()) / columns;
    if (a_.empty()) a_.resize(static_cast<size_t>(rows));
    (void)activation_quant(*row_, "bench", x_.data(), rows, columns, columns, q_.data(), columns, a_.data(), *pool_);
  }

 private:
  const ActivationQuantRow* row_;
  std::vector<float> x_, a_;
  std::vector<int8_t> q_;
  std::unique_ptr<ThreadPool> pool_;
};

class Pack final : public Task {
 public:
  Pack(int64_t rows, int64_t depth)
      : rows_(rows), depth_(depth), codes_(test::packed(test::random_int8(rows * depth, 8, -1, 1), rows, depth)) {
    work = static_cast<double>(codes_.size());
  }
  void run() override { (void)pack_ternary(codes_, rows_, depth_, TernaryLayout::kVn).value(); }

 private:
  int64_t rows_, depth_;
  std::vector<uint8_t> codes_;
};

}  // namespace

std::unique_ptr<Task> make_gemm(const GemmCase& c, const std::string& policy, int threads, std::string* kernel,
                                std::string* error) {
  const auto layout = select_ternary_layout(c.rows, c.depth, this_machine(), {policy});
  const auto chosen = layout.ok() ? select_ternary(ternary::ActKind::kInt8, {c.tokens, c.rows, c.depth, c.group}, *layout,
                                                   this_machine(), {policy})
                                  : Result<TernaryKernels>(layout.error());
  if (!chosen.ok()) {
    *error = chosen.error().message;
    return nullptr;
  }
  *kernel = chosen->get<TernaryGemmRow>()->name;
  return std::make_unique<Gemm>(c, *layout, *chosen, threads);
}

std::unique_ptr<Task> make_conv(const ConvCase& c, const std::string& policy, int threads, std::string* kernel,
                                std::string* error) {
  const ConvGeometry g = geometry(c);
  const auto layout = select_ternary_conv_layout(g, {c.filters}, this_machine(), {policy});
  const auto chosen = layout.ok() ? select_ternary_conv(g, {c.filters}, *layout, this_machine(), {policy})
                                  : Result<TernaryKernels>(layout.error());
  if (!chosen.ok()) {
    *error = chosen.error().message;
    return nullptr;
  }
  *kernel = chosen->get<TernaryGemmRow>()->name;
  return std::make_unique<Conv>(c, *layout, *chosen, threads);
}

std::unique_ptr<Task> make_quant(int64_t values, const std::string& policy, std::string* kernel, std::string* error) {
  const auto row = select(activation_quant_kernels(), this_machine(), {policy});
  if (!row.ok()) {
    *error = row.error().message;
    return nullptr;
  }
  *kernel = (*row)->name;
  return std::make_unique<Quant>(values, *row);
}

std::unique_ptr<Task> make_pack(int64_t rows, int64_t depth, std::string*) { return std::make_unique<Pack>(rows, depth); }

}  // namespace bitlab::bench
