#include "bitlab/deploy/capture.h"

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/internal/readers.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

// The program of the recordings; those at the largest sizes are made where a constant asks for them. `varied`: becomes true where masks ask for more
// samples.
Result<Captured> lower(torch::nn::Module& module, const Forward& forward, Recordings& recordings,
                       const NamedTensors& example, const CaptureOptions& options, bool& varied) {
  const auto names = tensor_names(module);
  Lowering lowering(names);
  Result<program::Program> program = lowering.lower(recordings, options.metadata);
  if (!program.ok() && lowering.wants_largest()) {
    const program::SymbolSizes largest = largest_sizes(recordings.signature.symbols, recordings.sizes);
    BITLAB_TRY(recordings.largest, record(forward, resized(recordings.signature, example, largest)));
    lowering = Lowering(names);
    program = lowering.lower(recordings, options.metadata);
  }
  varied = lowering.wants_variety();
  if (!program.ok()) return program.error();
  return Captured{*std::move(program),   {},
                  lowering.calls(),      static_cast<int64_t>(recordings.first.calls.size()),
                  lowering.live_calls(), lowering.constant_calls()};
}

}  // namespace

Result<Captured> capture_module(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                const CaptureOptions& options) {
  BITLAB_TRY(Recordings recordings, record_twice(module, forward, example, options.signature));
  bool varied = false;
  Result<Captured> lowered = lower(module, forward, recordings, example, options, varied);
  if (!lowered.ok() && varied) {
    BITLAB_TRY(recordings, record_twice(module, forward, example, options.signature, Samples::kVaried));
    lowered = lower(module, forward, recordings, example, options, varied);
  }
  if (!lowered.ok()) return lowered.error();
  Captured captured = *std::move(lowered);
  captured.unread = unread_modules(module, Readers(recordings.first));
  std::swap(recordings.first, recordings.twin);
  std::swap(recordings.sizes, recordings.twin_sizes);
  BITLAB_TRY(const Captured other, lower(module, forward, recordings, example, options, varied));
  if (print(captured.program) != print(other.program))
    return make_error(ErrorCode::kUnsupported,
                      "[capture] the same arguments for every batch size, got some for {} that differ from those for {}",
                      recordings.twin_sizes[0], recordings.sizes[0]);
  return captured;
}

Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                 const CaptureOptions& options) {
  BITLAB_TRY(Captured captured, capture_module(module, forward, example, options));
  return std::move(captured.program);
}

}  // namespace bitlab::deploy
