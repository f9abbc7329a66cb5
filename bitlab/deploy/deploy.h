// From a trained module to a .bit file, or one of another format, with the proof that both compute the same.
#pragma once

#include <filesystem>

#include "bitlab/deploy/capture.h"
#include "bitlab/format/formats.h"

namespace bitlab::deploy {

// How far results may be from LibTorch's, relative to their largest magnitude: of a bounded node that is fed exactly, and of whatever stands
// behind it. A rounding in front of a quantizer can move an activation by one of its 127 steps.
inline constexpr double kBoundOfNode = 1e-3, kBoundBehindQuantizers = 2e-2;

struct Parity {
  bool exact = false;         // no bounded node: the outputs are equal bit by bit
  double max_difference = 0;  // largest |module - runtime| of any output on the example
  double max_magnitude = 0;   // largest |module|
  double sensitivity = 0;     // largest |program(x) - program(x) with other roundings|, where it had to be asked for
};

// Runs the program in the runtime and the module in eval on `example`. Error: Internal where an exact program differs in a bit, or a bounded one by
// more than kBoundBehindQuantizers; of a deep network, which makes more than that of roundings, by more than kSensitivities times as much as
// the program itself moves where each bounded node's results move by a rounding or two, relative 2^-22.
inline constexpr double kSensitivities = 4;
Result<Parity> check_parity(const program::Program& program, torch::nn::Module& module, const Forward& forward,
                            const NamedTensors& example);

// The same for the example's first sample alone, of a signature with a batch: a network that asks how many samples there are may compute something else
// then. It may leave out sizes of 1, as squeeze() does, or take no single sample. Error: Unsupported.
Status check_one_sample(const program::Program& program, torch::nn::Module& module, const Forward& forward,
                        const NamedTensors& example, const Signature& signature);

struct Deployment {
  int64_t file_bytes = 0;            // of the whole file, or of all files
  int64_t weight_file_bytes = 0;     // of the weights in a .bit file: codes, scales, float constants
  int64_t weight_bytes = 0;          // of the weights in memory on this machine
  int64_t float32_weight_bytes = 0;  // the same weights as float32
  Parity parity;
  std::vector<std::string> unread;  // modules that the file leaves out, since eval does not read them (capture.h)
};

// Captures, checks parity on `example`, writes the file in the format and variant of `written`, or that of the path's extension (format/formats.def,
// torch_formats.def). Errors: those of capture(), check_parity() and the format, IoError.
Result<Deployment> save(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                        const std::filesystem::path& path, const CaptureOptions& options = {},
                        const format::WriteOptions& written = {});

// For a module with a forward(NamedTensors) or forward(Tensor) of its own. One tensor is an example, too.
template <class Module>
Result<Deployment> save(Module& module, const NamedTensors& example, const std::filesystem::path& path,
                        const CaptureOptions& options = {}, const format::WriteOptions& written = {}) {
  return save(module, nn::forward_of(module), example, path, options, written);
}
}  // namespace bitlab::deploy
