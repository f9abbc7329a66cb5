#include "bitlab/deploy/capture.h"

#include <algorithm>
#include <exception>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/deploy/internal/readers.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

// The program of the recordings; those at the largest sizes are made where a constant asks for them. `varied`: becomes true where masks ask for more
// samples.
Result<Captured> lower(torch::nn::Module& module, const Forward& forward, Recordings& recordings,
                       const NamedTensors& example, const CaptureOptions& options, Samples samples, bool& varied) {
  constexpr size_t kMostOthers = 10;
  const auto names = tensor_names(module);
  bool computes_tables = false;
  std::optional<Error> refused;  // where constants are taken as they are
  size_t refused_at = 0;
  Lowering lowering(names, computes_tables);
  const std::optional<Error> beyond = recordings.beyond;
  Result<program::Program> program = lowering.lower(recordings, options.metadata);
  while (!program.ok()) {
    if (lowering.wants_largest() && !recordings.largest) {
      recordings.largest_sizes = largest_sizes(recordings.signature.symbols, recordings.sizes);
      BITLAB_RETURN_IF_ERROR(record_largest(forward, example, recordings));
    } else if (lowering.wants_sizes() && recordings.others.size() < kMostOthers) {
      if (!record_other(forward, example, *lowering.wants_sizes(), samples, recordings)) break;
    } else if (lowering.wants_tables() && !computes_tables) {
      computes_tables = true;
      refused = program.error();
      refused_at = lowering.failed_at();
    } else {
      break;
    }
    lowering = Lowering(names, computes_tables);
    program = lowering.lower(recordings, options.metadata);
  }
  if (!program.ok() && refused && lowering.failed_at() <= refused_at) return *refused;
  varied = lowering.wants_variety();
  if (!program.ok()) return program.error();
  if (beyond) return *beyond;
  return Captured{*std::move(program),   {},
                  lowering.calls(),      static_cast<int64_t>(recordings.first.calls.size()),
                  lowering.live_calls(), lowering.constant_calls()};
}

// What capture_module() does with the recordings of such samples.
Result<Captured> capture_of(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                            const CaptureOptions& options, Samples samples, bool& varied) {
  BITLAB_TRY(Recordings recordings, record_all(module, forward, example, options.signature, samples));
  BITLAB_TRY(Captured captured, lower(module, forward, recordings, example, options, samples, varied));
  captured.unread = unread_modules(module, Readers(recordings.first));
  std::swap(recordings.first, recordings.twin);
  std::swap(recordings.sizes, recordings.twin_sizes);
  BITLAB_TRY(const Captured other, lower(module, forward, recordings, example, options, samples, varied));
  if (print(captured.program) != print(other.program))
    return make_error(ErrorCode::kUnsupported,
                      "[capture] the same arguments for every batch size, got some for {} that differ from those for {}",
                      recordings.twin_sizes[0], recordings.sizes[0]);
  return captured;
}

// The first recordings again in another way, where that does better; what failed in the first one tells more.
Result<Captured> or_again(const Result<Captured>& first, torch::nn::Module& module, const Forward& forward,
                          const NamedTensors& example, const CaptureOptions& options, Samples samples) {
  bool varied = false;
  try {
    Result<Captured> again = capture_of(module, forward, example, options, samples, varied);
    return again.ok() ? std::move(again) : first.error();
  } catch (const std::exception&) {  // of Python
    return first.error();
  }
}

}  // namespace

Result<Captured> capture_module(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                const CaptureOptions& options) {
  const LineScope lines(options.line);
  bool varied = false;
  Result<Captured> captured = capture_of(module, forward, example, options, Samples::kFew, varied);
  if (captured.ok()) return captured;
  if (varied) return or_again(captured, module, forward, example, options, Samples::kVaried);
  const bool has_sizes = options.signature && options.signature->symbols.size() > 1;
  return has_sizes ? or_again(captured, module, forward, example, options, Samples::kLarge) : captured;
}

Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                 const CaptureOptions& options) {
  BITLAB_TRY(Captured captured, capture_module(module, forward, example, options));
  return std::move(captured.program);
}

}  // namespace bitlab::deploy
