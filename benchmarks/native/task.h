// What bitlab-bench times: a task does the same work each time it is run.
#pragma once

#include <memory>
#include <string>

namespace bitlab::bench {

class Task {
 public:
  virtual ~Task() = default;
  virtual void run() = 0;
  double work = 0;  // operations (two a product) or bytes of one run
};

struct GemmCase {
  int64_t tokens, rows, depth, group = 0;
  bool from_float = false;  // activations are float32 and are quantized in the task
};

struct ConvCase {
  int64_t batch, channels, side, filters, kernel;
};

// Error text in *error and null where a row does not exist or does not run here. `kernel` is a row's name, or "" for what selection
// chooses; `rows` is a policy such as "ternary_gemm:x86_avx2" that restricts it.
std::unique_ptr<Task> make_gemm(const GemmCase& c, const std::string& policy, int threads, std::string* kernel,
                                std::string* error);
std::unique_ptr<Task> make_conv(const ConvCase& c, const std::string& policy, int threads, std::string* kernel,
                                std::string* error);
std::unique_ptr<Task> make_quant(int64_t values, const std::string& policy, std::string* kernel, std::string* error);
std::unique_ptr<Task> make_pack(int64_t rows, int64_t depth, std::string* error);

// Peaks of this machine (profile/roofs/roofs.def): "vpdpbusd" (AVX-512 VNNI), "vpmaddubsw" (AVX2, with the addition that its sums need), in operations;
// "read", in bytes of a buffer of `bytes`.
std::unique_ptr<Task> make_roof(const std::string& name, int64_t bytes, int threads, std::string* error);

}  // namespace bitlab::bench
