#include "bitlab/deploy/internal/recording.h"

#include <algorithm>
#include <unordered_set>

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include "bitlab/ops/internal/call_observer.h"

namespace bitlab::deploy {
namespace {

std::string full_name(const at::RecordFunction& fn) {
  const auto schema = fn.operator_schema();
  return schema ? c10::toString(schema->operator_name()) : std::string(fn.name());
}

// Copying is no call of the module's.
at::Tensor copy_of(const at::Tensor& tensor) {
  const ops::ObservationPause pause;
  return tensor.clone();
}

class Recorder final : public ops::CallListener {
 public:
  explicit Recorder(Keep keep) : keep_(keep) {}

  void enter(const at::RecordFunction& fn) override {
    const bool recorded = frames_.empty() || frames_.back().rewritten;
    frames_.push_back({recorded, false});
    if (!recorded) return;
    Call call{full_name(fn), {}, {}, {}, {}};
    const auto schema = fn.operator_schema();
    const auto inputs = fn.inputs();
    for (size_t i = 0; i < inputs.size(); ++i)
      call.arguments.push_back({schema && i < schema->arguments().size() ? schema->arguments()[i].name() : "?", inputs[i]});
    if (call.is_in_place() && !inputs.empty() && inputs[0].isTensor()) call.before = copy_of(inputs[0].toTensor());
    recording.calls.push_back(std::move(call));
  }

  void leave(const at::RecordFunction& fn) override {
    const Frame frame = frames_.back();
    frames_.pop_back();
    if (!frame.recorded || frame.rewritten) return;
    const auto outputs = fn.outputs();
    Call& call = recording.calls.back();
    call.outputs.assign(outputs.begin(), outputs.end());
    if (keep_ == Keep::kCopies && !outputs.empty() && outputs[0].isTensor()) call.copy = copy_of(outputs[0].toTensor());
  }

  // The call under way gives way to those that it is replaced by.
  void rewritten() override {
    if (frames_.empty() || !frames_.back().recorded || frames_.back().rewritten) return;
    frames_.back().rewritten = true;
    recording.calls.pop_back();
  }

  Recording recording;

 private:
  struct Frame {
    bool recorded;   // a call of the recording
    bool rewritten;  // other calls stand in its place
  };

  Keep keep_;
  std::vector<Frame> frames_;  // the calls under way
};

}  // namespace

bool Call::is_in_place() const { return op.substr(0, op.find('.')).ends_with('_'); }

const c10::IValue& Call::argument(const std::string& name) const {
  const auto found = std::find_if(arguments.begin(), arguments.end(), [&](const Argument& a) { return a.name == name; });
  TORCH_CHECK(found != arguments.end(), "[capture] an argument '", name, "' of ", op, ", got none");
  return found->value;
}

at::Tensor Call::tensor(const std::string& name) const {
  const c10::IValue& value = argument(name);
  return value.isTensor() ? value.toTensor() : at::Tensor();
}

void for_each_tensor(const c10::IValue& value, const std::function<void(const at::Tensor&)>& visit) {
  if (value.isTensor()) return visit(value.toTensor());
  if (!value.isList()) return;
  for (const c10::IValue& item : value.toListRef())
    if (item.isTensor()) visit(item.toTensor());
}

std::vector<bool> live_calls(const Recording& recording) {
  std::vector<bool> live(recording.calls.size());
  std::unordered_set<const void*> read;
  for (const auto& [name, output] : recording.outputs) read.insert(output.unsafeGetTensorImpl());
  for (size_t i = recording.calls.size(); i-- > 0;) {
    const Call& call = recording.calls[i];
    bool needed = call.is_in_place() || call.outputs.empty();
    for (const c10::IValue& output : call.outputs) {
      needed = needed || !(output.isTensor() || output.isTensorList());
      for_each_tensor(output,
                      [&](const at::Tensor& tensor) { needed = needed || read.contains(tensor.unsafeGetTensorImpl()); });
    }
    live[i] = needed;
    if (!needed) continue;
    for (const Argument& argument : call.arguments)
      for_each_tensor(argument.value, [&](const at::Tensor& tensor) { read.insert(tensor.unsafeGetTensorImpl()); });
  }
  return live;
}

Result<Recording> record(const nn::Forward& forward, const nn::NamedTensors& inputs, Keep keep) {
  Recorder recorder(keep);
  try {
    at::NoGradGuard no_grad;
    recorder.recording.inputs = inputs.clone();
    const ops::CallObserver observer(recorder);
    recorder.recording.outputs = forward(recorder.recording.inputs);
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[capture] a forward pass that succeeds, got '{}'",
                      error.what_without_backtrace());
  }
  for (const auto& [name, tensor] : recorder.recording.outputs)
    if (!tensor.defined())
      return make_error(ErrorCode::kInvalidArgument, "[capture] tensors as outputs, got an undefined one (output={})", name);
  return std::move(recorder.recording);
}

}  // namespace bitlab::deploy
