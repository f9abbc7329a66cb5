#include "bitlab/runtime/internal/device_run.h"

#include <algorithm>
#include <iterator>

namespace bitlab::runtime {

using program::ValueId;

namespace {

using Range = DevicePlan::Range;

// The memory of one value, in which others may lie: what of it the side reads that did not write it. That is copied there at once, before the first step
// that reads any of it: nothing twice, and nothing that is not read.
struct OwnedMemory {
  bool is_device_s = false;  // who wrote it
  size_t first_reader = 0;   // on the other side
  std::vector<Range> read_there;

  void read(bool on_device, size_t step, Range range) {
    if (on_device == is_device_s) return;
    if (read_there.empty()) first_reader = step;
    read_there.push_back(range);
  }
};

// Without bytes that several have, and those as one that follow each other.
std::vector<Range> merged(std::vector<Range> ranges) {
  std::ranges::sort(ranges, {}, &Range::begin);
  std::vector<Range> all;
  for (const Range& range : ranges) {
    if (all.empty() || range.begin > all.back().end) {
      all.push_back(range);
    } else {
      all.back().end = std::max(all.back().end, range.end);
    }
  }
  return all;
}

}  // namespace

DevicePlan::DevicePlan(const Model& model, const Plan& plan) : before_(plan.steps.size() + 1) {
  const program::Program& p = model.program();
  std::vector<OwnedMemory> owned(p.values.size());
  const auto read = [&](ValueId id, bool on_device, size_t step) {
    const int64_t begin = id == program::kNone ? -1 : plan.offsets[static_cast<size_t>(id)];
    if (begin < 0) return;
    const auto owner = static_cast<size_t>(plan.owners[static_cast<size_t>(id)]);
    owned[owner].read(on_device, step, {begin, begin + plan.bytes_of(p, id)});
  };
  bool host = false, device = false;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const PlannedStep& step = plan.steps[i];
    if (step.is_view) continue;
    (step.is_on_device() ? device : host) = true;
    for (const ValueId id : step.inputs) read(id, step.is_on_device(), i);
    for (const ValueId id : step.outputs) owned[static_cast<size_t>(id)].is_device_s = step.is_on_device();
  }
  takes_graph_ = device && !host;
  for (const program::Output& output : p.outputs) read(output.value, false, plan.steps.size());
  for (size_t i = 0; i < owned.size(); ++i) {
    std::vector<Range>& copies = p.values[i].kind == program::ValueKind::kInput ? inputs_ : before_[owned[i].first_reader];
    std::ranges::copy(merged(std::move(owned[i].read_there)), std::back_inserter(copies));
  }
}

void DevicePlan::forget_graph(const kernels::CudaPlugin* plugin) {
  if (graph_ != nullptr) plugin_->release_graph(graph_);
  graph_ = nullptr;
  plugin_ = plugin;
}

Result<std::unique_ptr<DeviceRun>> DeviceRun::open(const Model& model, int device, size_t states) {
  std::unique_ptr<DeviceRun> run(new DeviceRun);
  BITLAB_TRY(run->stream_, DeviceStream::open(device));
  const DeviceScope scope = run->stream_->use();
  run->weights_ = model.on_device(run->stream_->plugin(), device);
  BITLAB_TRY(run->word_, DeviceMemory::allocate(run->stream_->plugin(), sizeof(Word)));
  run->states_.resize(states);
  run->state_on_device_.resize(states);
  return run;
}

DeviceRun::~DeviceRun() {
  if (stream_ == nullptr) return;
  const DeviceScope scope = stream_->use();
  static_cast<void>(stream_->synchronize());
}

int64_t DeviceRun::bytes() const {
  int64_t bytes = word_.size() + arena_.size() + weights_->bytes();
  for (const DeviceMemory& state : states_) bytes += state.size();
  return bytes;
}

Status DeviceRun::reserve(const Plan& plan) {
  if (arena_.size() >= plan.device_bytes) return {};
  const DeviceScope scope = stream_->use();
  BITLAB_RETURN_IF_ERROR(scope.status());
  BITLAB_RETURN_IF_ERROR(stream_->synchronize());
  arena_ = {};  // before there is another one
  ++generation_;
  BITLAB_TRY(arena_, DeviceMemory::allocate(stream_->plugin(), plan.device_bytes));
  return {};
}

Status DeviceRun::reserve_states(const std::vector<AlignedBuffer>& states) {
  const DeviceScope scope = stream_->use();
  BITLAB_RETURN_IF_ERROR(scope.status());
  BITLAB_RETURN_IF_ERROR(stream_->synchronize());
  std::vector<DeviceMemory> grown;
  for (const AlignedBuffer& state : states) {
    BITLAB_TRY(grown.emplace_back(), DeviceMemory::allocate(stream_->plugin(), static_cast<int64_t>(state.size())));
  }
  ++generation_;
  states_ = std::move(grown);
  state_on_device_.assign(states.size(), false);
  return {};
}

Status DeviceRun::fetch_states(std::vector<AlignedBuffer>& states) {
  const DeviceScope scope = stream_->use();
  BITLAB_RETURN_IF_ERROR(scope.status());
  for (size_t i = 0; i < states.size(); ++i) {
    if (state_on_device_[i])
      BITLAB_RETURN_IF_ERROR(stream_->copy(states[i].data(), states_[i].data(), static_cast<int64_t>(states[i].size())));
    state_on_device_[i] = false;
  }
  return stream_->synchronize();
}

Status DeviceRun::copy_over(const Work& work, const std::vector<Range>& ranges, bool to_device) {
  for (const Range& range : ranges) {
    uint8_t *host = work.arena + range.begin, *device = arena_.data() + range.begin;
    BITLAB_RETURN_IF_ERROR(stream_->copy(to_device ? device : host, to_device ? host : device, range.end - range.begin));
  }
  return {};
}

// States are where the last step that read them ran.
Status DeviceRun::bring_states(const Work& work, const PlannedStep& planned) {
  for (const ValueId id : planned.inputs) {
    const int64_t state = id == program::kNone ? -1 : work.state_of[static_cast<size_t>(id)];
    if (state < 0) continue;
    const auto i = static_cast<size_t>(state);
    if (state_on_device_[i] == planned.is_on_device()) continue;
    AlignedBuffer& host = work.states[i];
    const auto bytes = static_cast<int64_t>(host.size());
    BITLAB_RETURN_IF_ERROR(planned.is_on_device() ? stream_->copy(states_[i].data(), host.data(), bytes)
                                                  : stream_->copy(host.data(), states_[i].data(), bytes));
    state_on_device_[i] = planned.is_on_device();
  }
  return {};
}

// What a step reads, to its side. In front of one on the host the device is done.
Status DeviceRun::bring(const Work& work, const PlannedStep& planned, size_t index) {
  BITLAB_RETURN_IF_ERROR(copy_over(work, work.own.before_[index], planned.is_on_device()));
  BITLAB_RETURN_IF_ERROR(bring_states(work, planned));
  return planned.is_on_device() ? Status() : stream_->synchronize();
}

Status DeviceRun::run_step(const Work& work, const PlannedStep& planned) {
  inputs_.clear();
  outputs_.clear();
  for (size_t place = 0; place < planned.inputs.size(); ++place) {
    const ValueId id = planned.inputs[place];
    const auto i = static_cast<size_t>(id);
    if (id == program::kNone) {
      inputs_.push_back(nullptr);
    } else if (work.plan.offsets[i] >= 0) {
      inputs_.push_back(at(work, id));
    } else {
      inputs_.push_back(work.state_of[i] >= 0 ? states_[static_cast<size_t>(work.state_of[i])].data()
                                              : planned.device_constants[place]);
    }
  }
  for (const ValueId id : planned.outputs) outputs_.push_back(at(work, id));
  auto* word = reinterpret_cast<Word*>(word_.data());
  DeviceBuffers buffers;
  buffers.inputs = inputs_, buffers.outputs = outputs_;
  buffers.scratch = arena_.data() + round_up(work.plan.scratch_offset, kDeviceAlignment);
  buffers.plugin = &stream_->plugin(), buffers.stream = stream_->get();
  buffers.position = &word->position, buffers.failed = &word->failed, buffers.capacity = work.capacity;
  const Status status = device_status(planned.step.device.run(buffers));
  if (!status.ok()) return make_error(status.error().code, "{} (node={})", status.error().message, planned.name());
  return {};
}

Status DeviceRun::run_steps(const Work& work) {
  for (size_t i = 0; i < work.plan.steps.size(); ++i) {
    const PlannedStep& planned = work.plan.steps[i];
    BITLAB_RETURN_IF_ERROR(work.before(planned));
    const TraceScope scope(work.trace, "step", planned.name());
    if (planned.is_view) continue;
    BITLAB_RETURN_IF_ERROR(bring(work, planned, i));
    BITLAB_RETURN_IF_ERROR(planned.is_on_device() ? run_step(work, planned) : work.run_on_host(planned));
    if (work.trace) BITLAB_RETURN_IF_ERROR(stream_->synchronize());
  }
  return {};
}

// The steps as one piece of work, which is written down once: behind a first run, when everything that a kernel needs is on the device. Where the driver
// makes no graph of it, steps run one by one for ever.
Status DeviceRun::run_graph(const Work& work) {
  DevicePlan& own = work.own;
  for (const PlannedStep& planned : work.plan.steps) BITLAB_RETURN_IF_ERROR(bring_states(work, planned));
  const kernels::CudaPlugin& plugin = stream_->plugin();
  if (own.graph_ == nullptr) {
    own.forget_graph(&plugin);
    Status made = device_status(plugin.begin_graph(stream_->get()));
    if (made.ok()) {
      for (const PlannedStep& planned : work.plan.steps)
        if (made.ok() && !planned.is_view) made = run_step(work, planned);
      const Status ended = device_status(plugin.end_graph(stream_->get(), &own.graph_));
      if (made.ok()) made = ended;
    }
    if (!made.ok()) {
      own.forget_graph(nullptr);
      own.takes_graph_ = false;
      return run_steps(work);
    }
  }
  return device_status(plugin.run_graph(own.graph_, stream_->get()));
}

Result<bool> DeviceRun::run(const Work& work) {
  const DeviceScope scope = stream_->use();
  BITLAB_RETURN_IF_ERROR(scope.status());
  Word word{work.position, 0, 0};
  BITLAB_RETURN_IF_ERROR(stream_->copy(word_.data(), &word, sizeof(word)));
  BITLAB_RETURN_IF_ERROR(copy_over(work, work.own.inputs_, true));
  DevicePlan& own = work.own;
  const bool ran_before = own.generation_ == generation_;
  if (!ran_before) own.forget_graph(nullptr);
  const bool as_graph = own.takes_graph_ && ran_before && !work.trace;
  if (as_graph) BITLAB_RETURN_IF_ERROR(work.before(work.plan.steps.front()));
  Status status = as_graph ? run_graph(work) : run_steps(work);
  // A step on the host may fail by what failed on the device before, which is the error to tell then.
  if (status.ok()) status = copy_over(work, own.before_.back(), false);
  BITLAB_RETURN_IF_ERROR(stream_->copy(&word, word_.data(), sizeof(word)));
  BITLAB_RETURN_IF_ERROR(stream_->synchronize());
  if (!status.ok() && status.error().code == ErrorCode::kCancelled) return status.error();
  if (word.failed != 0) return false;
  BITLAB_RETURN_IF_ERROR(status);
  own.generation_ = generation_;
  return true;
}

}  // namespace bitlab::runtime
