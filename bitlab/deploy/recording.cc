#include "bitlab/deploy/internal/recording.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include "bitlab/deploy/internal/lowering.h"
#include "bitlab/ops/internal/call_observer.h"

namespace bitlab::deploy {
namespace {

std::string full_name(const at::RecordFunction& fn) {
  const auto schema = fn.operator_schema();
  return schema ? c10::toString(schema->operator_name()) : std::string(fn.name());
}

using Sizes = std::vector<int64_t>;

// Copying is no call of the module's.
at::Tensor copy_of(const at::Tensor& tensor) {
  const ops::ObservationPause pause;
  return tensor.clone();
}

// All the memory that a tensor is a part of.
at::Tensor copy_of_memory(const at::Tensor& tensor) {
  const ops::ObservationPause pause;
  return tensor.as_strided({static_cast<int64_t>(tensor.storage().nbytes() / tensor.element_size())}, {1}, 0).clone();
}

// What nothing was written to is the same in every recording.
void clear_unwritten(const Call& call) {
  constexpr std::string_view kNames[] = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided"};
  if (std::find(std::begin(kNames), std::end(kNames), call.function()) == std::end(kNames)) return;
  const ops::ObservationPause pause;
  call.outputs.at(0).toTensor().zero_();
}

// Operators that look at a tensor's shape, dtype and device alone.
bool reads_shapes(const Call& call) {
  constexpr std::string_view kNames[] = {
      "aten::empty_like", "aten::zeros_like",   "aten::ones_like",          "aten::full_like",         "aten::new_empty",
      "aten::new_zeros",  "aten::new_ones",     "aten::new_full",           "aten::new_empty_strided", "aten::rand_like",
      "aten::randn_like", "aten::randint_like", "aten::cudnn_is_acceptable"};
  return std::find(std::begin(kNames), std::end(kNames), call.function()) != std::end(kNames);
}

// The bytes of a tensor's memory, as one number.
size_t digest_of(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  return std::hash<std::string_view>()({static_cast<const char*>(storage.data()), storage.nbytes()});
}

// A tensor of torch.func, around another one: the operators on it call those on what is in it, which are recorded.
bool is_wrapper(const at::Tensor& tensor) {
  return tensor.defined() && (tensor.key_set().has(c10::DispatchKey::FuncTorchBatched) ||
                              tensor.key_set().has(c10::DispatchKey::FuncTorchGradWrapper));
}
bool have_wrapper(c10::ArrayRef<const c10::IValue> values) {
  bool found = false;
  for (const c10::IValue& value : values)
    for_each_tensor(value, [&](const at::Tensor& tensor) { found = found || is_wrapper(tensor); });
  return found;
}

// Whether tensors of one memory are the same part of it.
bool is_alike(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.strides() == b.strides() &&
         a.storage_offset() == b.storage_offset();
}

bool takes_by_mask(const Call& call) {
  if (call.op != "aten::index.Tensor") return false;
  const auto indices = call.arguments.at(1).value.toListRef();
  return !indices.empty() && indices[0].isTensor() && indices[0].toTensor().defined() &&
         indices[0].toTensor().scalar_type() == at::kBool;
}

// An operator that reads values of an argument as numbers, beside the calls that it makes.
bool reads_numbers(const Call& call) { return call.op == "aten::tensor_split.tensor_indices_or_sections"; }

// Another name for one operator, which may make a table of a constant.
bool is_shell(const Call& call) { return (is_upsampling(call) && call.overload() == "vec") || call.op == "aten::diag"; }

thread_local std::function<std::string()> line_of_call;

class Recorder final : public ops::CallListener {
 public:
  Recorder(nn::NamedTensors inputs, Keep keep) : keep_(keep) {
    recording.inputs = std::move(inputs);
    for (const auto& [name, tensor] : recording.inputs) {
      mark(tensor);
      see(tensor);
    }
  }

  void enter(const at::RecordFunction& fn) override {
    Frame& frame = frames_.emplace_back();
    if (frames_.size() > 1) {
      const Frame& outer = frames_[frames_.size() - 2];
      if (!outer.recorded || outer.is_whole) return;
    }
    frame.recorded = true;
    Call& call = frame.call;
    call.op = full_name(fn);
    if (frames_.size() > 1) call.within = frames_.front().call.op, call.line = frames_.front().call.line;
    if (frames_.size() == 1 && line_of_call) call.line = line_of_call();
    const auto schema = fn.operator_schema();
    frame.is_operator = schema.has_value();
    const auto given = ops::inputs_of(fn);
    if (have_wrapper(given)) {
      frame.is_operator = false;
      return;
    }
    std::vector<c10::IValue> inputs(given.begin(), given.end());
    for (c10::IValue& input : inputs) {
      if (input.isTensor()) input = known(input.toTensor());
      for_each_tensor(input, [&](const at::Tensor& tensor) { see(tensor); });
    }
    if (frames_.size() > 1)
      frames_[frames_.size() - 2].check_unchanged(c10::ArrayRef<const c10::IValue>(inputs.data(), inputs.size()));
    for (size_t i = 0; i < inputs.size(); ++i)
      call.arguments.push_back({schema && i < schema->arguments().size() ? schema->arguments()[i].name() : "?", inputs[i]});
    frame.is_whole = has_lowering(call);
    if (takes_by_mask(call)) call.read = copy_of(inputs[0].toTensor());
    if (!call.is_in_place() || inputs.empty() || !inputs[0].isTensor()) return;
    const at::Tensor& changed = inputs[0].toTensor();
    call.before = copy_of(changed);
    if (changed.has_storage() && changed.nbytes() < changed.storage().nbytes()) call.memory = copy_of_memory(changed);
  }

  void leave(const at::RecordFunction& fn) override {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    if (!frame.recorded) return;
    std::vector<Call>& calls = frames_.empty() ? recording.calls : frames_.back().inner;
    const auto outputs = ops::outputs_of(fn);
    Call& call = frame.call;
    if (have_wrapper(outputs)) frame.is_whole = frame.is_operator = false;
    call.outputs.assign(outputs.begin(), outputs.end());
    if (call.is_in_place())
      for (c10::IValue& output : call.outputs)
        if (output.isTensor()) output = known(output.toTensor());
    for (const c10::IValue& output : call.outputs)
      call.shapes.push_back(output.isTensor() && output.toTensor().defined() ? output.toTensor().sizes().vec() : Sizes());
    clear_unwritten(call);
    if (frame.rewritten || gives_way(frame)) {
      std::move(frame.inner.begin(), frame.inner.end(), std::back_inserter(calls));
      if (!frames_.empty()) frames_.back().digests.insert(frame.digests.begin(), frame.digests.end());
      return;
    }
    if (!frames_.empty() && frames_.back().is_operator) frames_.back().remember(call);
    if (keep_ == Keep::kCopies && !outputs.empty() && outputs[0].isTensor()) call.copy = copy_of(outputs[0].toTensor());
    if (reads_activations(call)) mark(call);
    if (makes_table(call) || reads_any(call, [&](const at::Tensor& tensor) { return is_of_table(tensor); }))
      for (const c10::IValue& output : call.outputs)
        for_each_tensor(output, [&](const at::Tensor& tensor) {
          if (tensor.defined()) tables_.insert(memory_of(tensor));
        });
    for (const c10::IValue& output : call.outputs) for_each_tensor(output, [&](const at::Tensor& tensor) { see(tensor); });
    calls.push_back(std::move(call));
  }

  // The call under way gives way to those that it is replaced by.
  void rewritten() override {
    if (frames_.empty() || !frames_.back().recorded) return;
    Frame& frame = frames_.back();
    frame.rewritten = true;
    frame.is_whole = false;
    frame.inner.clear();
  }

  // x.data of Python is another tensor of the same memory, which no operator makes: the one that it was taken of stands for it.
  at::Tensor known(const at::Tensor& tensor) const {
    if (!tensor.defined() || !is_activation(tensor) || seen_.contains(tensor.unsafeGetTensorImpl())) return tensor;
    const auto found = by_memory_.find(memory_of(tensor));
    if (found == by_memory_.end()) return tensor;
    // What a factory of Python returns is another tensor than its operator made, too, and comes behind it.
    for (auto it = found->second.rbegin(); it != found->second.rend(); ++it)
      if (is_alike(*it, tensor)) return *it;
    return tensor;
  }
  Recording recording;

  void remember_tables() {
    for (const Call& call : recording.calls) {
      if (call.outputs.size() != 1 || !call.outputs[0].isTensor()) continue;
      const at::Tensor& made = call.outputs[0].toTensor();
      if (!makes_filled(call) && !is_of_table(made)) continue;
      for (const at::Tensor& other : by_memory_[memory_of(made)])
        if (!other.is_same(made) && is_alike(other, made)) recording.returned[made.unsafeGetTensorImpl()].push_back(other);
    }
  }

 private:
  struct Frame {
    Call call;
    std::vector<Call> inner;   // the calls that it makes, unless it is whole
    bool recorded = false;     // no call around it is whole
    bool is_whole = false;     // can be lowered
    bool is_operator = false;  // rather than a name for the calls that it makes, as a torch.autograd.Function has
    bool rewritten = false;    // other calls stand in its place
    bool writes = false;       // computes something beside the calls that it makes
    std::unordered_map<const void*, size_t> digests;  // of what the inner calls made, by memory

    void remember(const Call& made) {
      for (const c10::IValue& output : made.outputs)
        for_each_tensor(output, [&](const at::Tensor& tensor) {
          if (!tensor.defined() || !tensor.has_storage()) return;
          const auto [known, is_new] = digests.try_emplace(memory_of(tensor));
          if (is_new || made.is_in_place() || made.is_into_given()) known->second = digest_of(tensor);
        });
    }
    // What inner calls made must be as they left it where another one reads it.
    void check_unchanged(c10::ArrayRef<const c10::IValue> read) {
      for (const c10::IValue& value : read)
        for_each_tensor(value,
                        [&](const at::Tensor& tensor) { writes = writes || (tensor.defined() && has_changed(tensor)); });
    }
    // Whether it wrote into what an inner call made.
    bool has_changed(const at::Tensor& tensor) const {
      const auto found = tensor.has_storage() ? digests.find(memory_of(tensor)) : digests.end();
      return found != digests.end() && found->second != digest_of(tensor);
    }
  };

  void see(const at::Tensor& tensor) {
    if (tensor.defined() && tensor.has_storage() && seen_.insert(tensor.unsafeGetTensorImpl()).second)
      by_memory_[memory_of(tensor)].push_back(tensor);
  }

  bool is_activation(const at::Tensor& tensor) const { return tensor.defined() && activations_.contains(memory_of(tensor)); }
  void mark(const at::Tensor& tensor) {
    if (tensor.defined()) activations_.insert(memory_of(tensor));
  }
  bool is_of_table(const at::Tensor& tensor) const { return tensor.defined() && tables_.contains(memory_of(tensor)); }
  bool reads_activations(const Call& call) const {
    return reads_any(call, [&](const at::Tensor& tensor) { return is_activation(tensor); });
  }
  void mark(const Call& call) {
    for (const c10::IValue& output : call.outputs) for_each_tensor(output, [&](const at::Tensor& tensor) { mark(tensor); });
  }
  // A call that computes something of activations, or of tables, gives way to calls that make all that it returns: others compute in a kernel of their own.
  bool gives_way(const Frame& frame) const {
    if (!frame.is_operator || (is_shell(frame.call) && !frame.inner.empty())) return true;
    if (frame.is_whole || frame.inner.empty() || makes_table(frame.call) || reads_numbers(frame.call) || frame.writes)
      return false;
    bool makes_all = !frame.call.outputs.empty();
    for (const c10::IValue& output : frame.call.outputs) {
      makes_all = makes_all && (output.isTensor() || output.isTensorList());
      for_each_tensor(output, [&](const at::Tensor& tensor) {
        makes_all = makes_all && (is_activation(tensor) || is_of_table(tensor)) && !frame.has_changed(tensor);
      });
    }
    return makes_all;
  }

  Keep keep_;
  std::vector<Frame> frames_;                                           // the calls under way
  std::unordered_set<const void*> seen_;                                // tensors that are inputs or that calls made
  std::unordered_map<const void*, std::vector<at::Tensor>> by_memory_;  // the same
  std::unordered_set<const void*> activations_;  // by memory: the inputs, and what calls that read activations make
  std::unordered_set<const void*>
      tables_;  // by memory: what calls make that are given numbers alone, and calls that read that
};

// MKL-DNN computes recurrent layers in one call.
class PlainBackends {
 public:
  PlainBackends() : mkldnn_(at::globalContext().userEnabledMkldnn()) { at::globalContext().setUserEnabledMkldnn(false); }
  ~PlainBackends() { at::globalContext().setUserEnabledMkldnn(mkldnn_); }
  PlainBackends(const PlainBackends&) = delete;
  PlainBackends& operator=(const PlainBackends&) = delete;

 private:
  bool mkldnn_;
};

}  // namespace

std::string Call::function() const { return op.substr(0, op.find('.')); }

std::string Call::overload() const {
  const size_t dot = op.find('.');
  return dot == std::string::npos ? "" : op.substr(dot + 1);
}

bool Call::is_in_place() const { return function().ends_with('_'); }

bool Call::is_overwriting() const {
  const std::string name = function();
  return name == "aten::copy_" || name == "aten::fill_" || name == "aten::zero_";
}

bool Call::is_into_given() const { return overload().find("out") != std::string::npos; }

at::IntArrayRef Call::shape_of(const at::Tensor& output) const {
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].isTensor() && outputs[i].toTensor().is_same(output)) return shapes[i];
  return output.sizes();  // one of a list
}

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

bool makes_table(const Call& call) {
  const std::string function = call.function();
  return function == "aten::arange" || function == "aten::linspace" || function == "aten::eye";
}

bool is_upsampling(const Call& call) {
  const std::string function = call.function();
  return function.starts_with("aten::upsample_") || function.starts_with("aten::_upsample_");
}

bool makes_filled(const Call& call) {
  constexpr std::string_view kNames[] = {"aten::zeros",      "aten::ones",      "aten::full",
                                         "aten::new_zeros",  "aten::new_ones",  "aten::new_full",
                                         "aten::zeros_like", "aten::ones_like", "aten::full_like"};
  return std::find(std::begin(kNames), std::end(kNames), call.function()) != std::end(kNames);
}

bool reads_any(const Call& call, const std::function<bool(const at::Tensor&)>& contains) {
  if (reads_shapes(call)) return false;
  bool reads = false;
  for (const Argument& argument : call.arguments)
    for_each_tensor(argument.value, [&](const at::Tensor& tensor) { reads = reads || contains(tensor); });
  return reads;
}

Live live_parts(const Recording& recording, bool with_tables) {
  Live live{std::vector<bool>(recording.calls.size()), {}, {}};
  auto& read = live.tensors;
  std::unordered_map<const void*, std::vector<const void*>> made;  // by what is returned of it
  for (const auto& [maker, list] : recording.returned)
    for (const at::Tensor& tensor : list)
      if (with_tables) made[tensor.unsafeGetTensorImpl()].push_back(maker);
  const auto add = [&](std::unordered_set<const void*>& to, const at::Tensor& tensor) {
    to.insert(tensor.unsafeGetTensorImpl());
    if (const auto found = made.find(tensor.unsafeGetTensorImpl()); found != made.end())
      to.insert(found->second.begin(), found->second.end());
  };
  for (const auto& [name, output] : recording.outputs) {
    add(read, output);
    add(live.read, output);
  }
  for (size_t i = recording.calls.size(); i-- > 0;) {
    const Call& call = recording.calls[i];
    bool needed = call.is_in_place() || call.outputs.empty();
    for (const c10::IValue& output : call.outputs) {
      needed = needed || !(output.isTensor() || output.isTensorList());
      for_each_tensor(output,
                      [&](const at::Tensor& tensor) { needed = needed || read.contains(tensor.unsafeGetTensorImpl()); });
    }
    live.calls[i] = needed;
    if (!needed) continue;
    for (const Argument& argument : call.arguments)
      for_each_tensor(argument.value, [&](const at::Tensor& tensor) {
        add(read, tensor);
        if (&argument != &call.arguments.front() || !call.is_overwriting()) add(live.read, tensor);
      });
  }
  return live;
}

LineScope::LineScope(std::function<std::string()> line) : before_(std::exchange(line_of_call, std::move(line))) {}
LineScope::~LineScope() { line_of_call = std::move(before_); }

Result<Recording> record(const nn::Forward& forward, const nn::NamedTensors& inputs, Keep keep) {
  Recorder recorder(inputs.clone(), keep);
  try {
    const at::NoGradGuard no_grad;
    const PlainBackends plain;
    const ops::CallObserver observer(recorder);
    for (const auto& [name, output] : forward(recorder.recording.inputs))
      recorder.recording.outputs.set(name, recorder.known(output));
  } catch (const Exception& error) {
    return error.error();
  } catch (const c10::Error& error) {
    return make_error(ErrorCode::kInvalidArgument, "[capture] a forward pass that succeeds, got '{}'",
                      error.what_without_backtrace());
  }
  recorder.remember_tables();
  for (const auto& [name, tensor] : recorder.recording.outputs)
    if (!tensor.defined())
      return make_error(ErrorCode::kInvalidArgument, "[capture] tensors as outputs, got an undefined one (output={})", name);
  return std::move(recorder.recording);
}

}  // namespace bitlab::deploy
