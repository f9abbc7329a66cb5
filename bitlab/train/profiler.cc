#include "bitlab/train/profiler.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include <ATen/Parallel.h>
#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/profiler/orchestration/observer.h>

#include "bitlab/base/machine.h"
#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/train/device.h"
#include "bitlab/train/internal/calls.h"
#include "bitlab/train/internal/optimizer.h"

namespace bitlab::train {
namespace {

using profile::Times;

constexpr size_t kNoRow = SIZE_MAX;
enum Phase : size_t { kData, kForward, kBackward, kOptimizer, kPhases };
constexpr std::array<const char*, kPhases> kPhaseNames{"data", "forward", "backward", "optimizer"};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const at::Tensor* tensor_at(c10::ArrayRef<const c10::IValue> values, size_t place) {
  return place < values.size() && values[place].isTensor() && values[place].toTensor().defined() ? &values[place].toTensor()
                                                                                                 : nullptr;
}

int64_t attention_macs(c10::ArrayRef<const c10::IValue> inputs) {
  const at::Tensor *q = tensor_at(inputs, 0), *k = tensor_at(inputs, 1), *v = tensor_at(inputs, 2);
  if (q == nullptr || k == nullptr || v == nullptr || q->dim() < 2 || k->dim() < 2 || q->numel() == 0) return 0;
  const int64_t queries = q->size(-2), keys = k->size(-2), heads = q->numel() / (queries * q->size(-1));
  int64_t pairs = queries * keys;
  if (inputs.size() > 5 && inputs[5].isBool() && inputs[5].toBool()) {
    pairs = 0;
    for (int64_t t = 0; t < queries; ++t) pairs += std::min(t + 1, keys);
  }
  return heads * pairs * (q->size(-1) + v->size(-1));
}

}  // namespace

// Multiply-accumulates of a call: `total`, and `per_output` for each element of its output. The formulas are those of profile/cost.h.
struct CallMacs {
  bool is_product = false;
  int64_t total = 0, per_output = 0;
};

namespace {

CallMacs macs_of(const std::string& op, c10::ArrayRef<const c10::IValue> inputs) {
  const at::Tensor *a = tensor_at(inputs, 0), *b = tensor_at(inputs, 1);
  if (a == nullptr || b == nullptr) return {};
  const auto depth = [&] { return b->dim() < 1 || b->size(0) == 0 ? 0 : b->numel() / b->size(0); };
  const bool is_transposed = op.starts_with("conv_transpose") ||
                             (op == "bit_conv" && inputs.size() > 6 && inputs[6].isBool() && inputs[6].toBool());
  if (is_transposed || op == "bit_recurrent") return {true, a->numel() * depth(), 0};
  if (op == "linear" || op == "bit_linear" || op == "bit_conv" || op.starts_with("conv")) return {true, 0, depth()};
  if (op == "matmul" || op == "mm" || op == "bmm" || op == "mv" || op == "dot")
    return {true, 0, a->dim() == 0 ? 0 : a->size(-1)};
  if (op == "addmm" || op == "baddbmm") return {true, 0, b->dim() == 0 ? 0 : b->size(-1)};
  if (op == "scaled_dot_product_attention") return {true, attention_macs(inputs), 0};
  return {};
}

}  // namespace

// Blocks of memory that a step allocates on the device, as LibTorch's allocator reports them. A profiler's state that records nothing, so that LibTorch takes no
// other profiler to be on.
class AllocatedBlocks : public torch::profiler::impl::ProfilerStateBase {
 public:
  explicit AllocatedBlocks(c10::Device device)
      : ProfilerStateBase(torch::profiler::impl::ProfilerConfig(torch::profiler::impl::ProfilerState::Disabled)),
        device_(device) {}
  torch::profiler::impl::ActiveProfilerType profilerType() override {
    return torch::profiler::impl::ActiveProfilerType::NONE;
  }
  bool memoryProfilingEnabled() const override { return true; }
  void reportMemoryUsage(void* block, int64_t size, size_t, size_t, c10::Device device) override {
    if (device != device_) return;
    const std::lock_guard lock(mutex_);
    if (size > 0) {
      blocks_[block] = {size, owner_};
      live_ += size;
      peak_ = std::max(peak_, live_);
    } else if (const auto found = blocks_.find(block); found != blocks_.end()) {
      live_ -= found->second.size;
      blocks_.erase(found);
    }
  }
  // What is allocated from now on is this owner's.
  void belong_to(size_t row) {
    const std::lock_guard lock(mutex_);
    owner_ = row;
  }
  int64_t live() const {
    const std::lock_guard lock(mutex_);
    return live_;
  }
  int64_t peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  // Those of an owner that live.
  int64_t live_of(size_t row) const {
    const std::lock_guard lock(mutex_);
    int64_t bytes = 0;
    for (const auto& [place, block] : blocks_) bytes += block.owner == row ? block.size : 0;
    return bytes;
  }

 private:
  struct Block {
    int64_t size;
    size_t owner;
  };
  const c10::Device device_;
  mutable std::mutex mutex_;  // a device's functions of autograd have a thread of their own
  size_t owner_ = kNoRow;
  int64_t live_ = 0, peak_ = 0;
  std::unordered_map<void*, Block> blocks_;
};

struct LayerRow {
  std::string name;
  std::vector<std::string> ops{};
  std::string output{};
  struct {
    int64_t ns[kPhases] = {}, calls = 0, macs = 0;
  } step{};  // of the step under way
  std::vector<double> seconds[kPhases] = {}, both{};
  profile::TrainingCost cost{};
  int64_t macs = 0;
};

class TrainingProfiler::Watch : public ops::CallListener {
 public:
  explicit Watch(const TrainingProfileOptions& options) : options_(options) {}

  bool sees_backward() const override { return true; }
  void enter(const at::RecordFunction& fn) override;
  void leave(const at::RecordFunction& fn) override;
  void rewritten() override {}
  void enter(const std::string& path);
  void leave_scope();

  bool is_done() const { return measured_ >= options_.steps; }
  // A step has begun, and its batch alone was made.
  bool is_waiting_for_forward() const { return is_open_ && memory_ == nullptr; }
  // From now on the times are those of this device.
  void measure(c10::Device device) { device_ = device; }
  void begin_step();
  void begin(StepContext& step);
  void end_step();
  void start(Phase phase);
  void stop();
  void note_activations();
  void note_gradients(const StepContext& step);
  void note_optimizer(const StepContext& step);
  Result<profile::Profile> profile() const;

 private:
  struct Frame {
    size_t row;
    uint64_t sequence;
    CallMacs macs;
    bool is_within_product;
  };
  struct Made {
    uint64_t begin, end;  // numbers of functions of autograd
    size_t row;
  };

  size_t row(const std::string& name);
  size_t row_of(const at::RecordFunction& fn) const;  // kNoRow: it reads no parameter
  size_t row_of_backward(const at::RecordFunction& fn) const;
  // Forward every call; backward the functions of autograd, which LibTorch's engine wraps in calls of its own.
  bool watches(const at::RecordFunction& fn) const {
    return phase_ == kForward || (phase_ == kBackward && fn.scope() == at::RecordScope::BACKWARD_FUNCTION);
  }
  // When all that was asked of the device is done; operators of the CPU are when they return.
  int64_t time() const {
    wait_for(device_);
    return now_ns();
  }
  // Whether a call is under way on another thread. Autograd has one for each device, and calls that run side by side count to the first.
  bool is_busy_elsewhere() const { return !frames_.empty() && thread_ != std::this_thread::get_id(); }
  void charge(size_t row);  // the time since the last charge
  void collect();
  profile::StepProfile layer(const LayerRow& row) const;

  const TrainingProfileOptions options_;
  int64_t taken_ = 0, measured_ = 0;  // steps: begun, and behind the warm-up
  bool is_open_ = false;              // a step
  c10::Device device_ = c10::kCPU;
  size_t phase_ = kPhases;
  int64_t phase_begin_ = 0, charged_until_ = 0, step_begin_ = 0, step_end_ = 0;
  int64_t phase_ns_[kPhases] = {};
  std::vector<double> phase_seconds_[kPhases], step_seconds_;
  std::vector<LayerRow> rows_;
  std::unordered_map<std::string, size_t> row_by_name_;
  std::unordered_map<const void*, size_t> row_by_storage_;
  std::mutex mutex_;        // of calls
  std::thread::id thread_;  // that makes those of frames_
  std::vector<Frame> frames_;
  std::vector<size_t> scopes_;
  std::vector<Made> made_;
  size_t last_backward_ = kNoRow;
  std::shared_ptr<AllocatedBlocks> memory_;
  int64_t static_bytes_ = 0, parameter_bytes_ = 0, optimizer_bytes_ = 0, items_ = 0, peak_bytes_ = 0;
  std::vector<profile::StepMemory> timeline_;
  std::vector<profile::Event> events_;
  int threads_ = 1;
  // What ends first stands last.
  std::optional<c10::DebugInfoGuard> memory_guard_;
  std::optional<ops::CallObserver> observer_;
};

size_t TrainingProfiler::Watch::row(const std::string& name) {
  const auto [found, is_new] = row_by_name_.emplace(name, rows_.size());
  if (is_new) rows_.push_back({.name = name});
  return found->second;
}

size_t TrainingProfiler::Watch::row_of(const at::RecordFunction& fn) const {
  size_t row = kNoRow;
  for_each_tensor(ops::inputs_of(fn), [&](const at::Tensor& tensor) {
    if (row != kNoRow || !tensor.has_storage()) return;
    const auto found = row_by_storage_.find(tensor.storage().unsafeGetStorageImpl());
    if (found != row_by_storage_.end()) row = found->second;
  });
  return row;
}

size_t TrainingProfiler::Watch::row_of_backward(const at::RecordFunction& fn) const {
  const auto number = static_cast<uint64_t>(fn.seqNr());
  const auto after =
      std::upper_bound(made_.begin(), made_.end(), number, [](uint64_t at, const Made& made) { return at < made.begin; });
  if (fn.seqNr() >= 0 && after != made_.begin() && number < std::prev(after)->end) return std::prev(after)->row;
  return last_backward_;  // where gradients are accumulated, right behind what computed them
}

void TrainingProfiler::Watch::charge(size_t row) {
  const int64_t now = time();
  if (row != kNoRow) {
    rows_[row].step.ns[phase_] += now - charged_until_;
    events_.push_back({kPhaseNames[phase_], rows_[row].name, charged_until_, now});
  }
  charged_until_ = now;
}

void TrainingProfiler::Watch::enter(const at::RecordFunction& fn) {
  const std::lock_guard lock(mutex_);
  if (!watches(fn) || is_busy_elsewhere()) return;
  thread_ = std::this_thread::get_id();
  const std::string op = short_name(fn.name());
  Frame frame{kNoRow, at::sequence_number::peek(), {}, !frames_.empty() && frames_.back().is_within_product};
  if (phase_ == kForward && !frame.is_within_product) frame.macs = macs_of(op, ops::inputs_of(fn));
  frame.is_within_product = frame.is_within_product || frame.macs.is_product;
  if (frames_.empty()) {
    if (phase_ == kBackward) {
      frame.row = last_backward_ = row_of_backward(fn);
    } else {
      frame.row = scopes_.empty() ? row_of(fn) : scopes_.back();
      if (frame.row == kNoRow) frame.row = row(op);
      LayerRow& layer = rows_[frame.row];
      if (scopes_.empty()) ++layer.step.calls;
      if (std::find(layer.ops.begin(), layer.ops.end(), op) == layer.ops.end()) layer.ops.push_back(op);
    }
    charge(scopes_.empty() ? frame.row : scopes_.back());
    memory_->belong_to(phase_ == kForward ? frame.row : kNoRow);
  } else {
    frame.row = frames_.front().row;
  }
  frames_.push_back(frame);
}

void TrainingProfiler::Watch::leave(const at::RecordFunction& fn) {
  const std::lock_guard lock(mutex_);
  if (!watches(fn) || frames_.empty() || is_busy_elsewhere()) return;
  const Frame frame = frames_.back();
  frames_.pop_back();
  const bool is_outermost = frames_.empty();
  if (phase_ == kForward) {
    const auto outputs = ops::outputs_of(fn);
    const at::Tensor* output = tensor_at(outputs, 0);
    rows_[frame.row].step.macs += frame.macs.total + (output == nullptr ? 0 : frame.macs.per_output * output->numel());
    if (is_outermost && output != nullptr) rows_[frame.row].output = fmt::format("[{}]", fmt::join(output->sizes(), ", "));
  }
  if (!is_outermost) return;
  if (phase_ == kForward) made_.push_back({frame.sequence, at::sequence_number::peek(), frame.row});
  charge(frame.row);
  if (frame.row != kNoRow) timeline_.push_back({rows_[frame.row].name, static_bytes_ + memory_->live()});
  memory_->belong_to(scopes_.empty() ? kNoRow : scopes_.back());
}

void TrainingProfiler::Watch::enter(const std::string& path) {
  if (phase_ != kForward) return;
  const size_t entered = row(path.empty() ? "(model)" : path);
  charge(scopes_.empty() ? entered : scopes_.back());
  ++rows_[entered].step.calls;
  scopes_.push_back(entered);
  memory_->belong_to(entered);
}

void TrainingProfiler::Watch::leave_scope() {
  if (phase_ != kForward || scopes_.empty()) return;
  charge(scopes_.back());
  scopes_.pop_back();
  memory_->belong_to(scopes_.empty() ? kNoRow : scopes_.back());
}

void TrainingProfiler::Watch::begin_step() {
  if (is_open_) end_step();
  if (is_done()) return;
  is_open_ = true;
  ++taken_;
  std::fill(std::begin(phase_ns_), std::end(phase_ns_), 0);
  for (LayerRow& row : rows_) row.step = {};
  step_begin_ = step_end_ = time();
}

// The batch is there.
void TrainingProfiler::Watch::begin(StepContext& step) {
  row_by_storage_.clear();
  parameter_bytes_ = optimizer_bytes_ = 0;
  int64_t gradients = 0, batch = 0;
  for (const NamedParameter& parameter : step.parameters) {
    row_by_storage_[parameter.tensor.storage().unsafeGetStorageImpl()] = row(owner_of(parameter.name));
    parameter_bytes_ += static_cast<int64_t>(parameter.tensor.nbytes());
    optimizer_bytes_ += optimizer_bytes(step.optimizer, parameter);
    if (parameter.tensor.grad().defined()) gradients += static_cast<int64_t>(parameter.tensor.grad().nbytes());
  }
  for (const auto& [name, tensor] : step.batch) batch += static_cast<int64_t>(tensor.nbytes());
  static_bytes_ = parameter_bytes_ + optimizer_bytes_ + gradients + batch;
  items_ = step.items;
  threads_ = at::get_num_threads();
  frames_.clear(), scopes_.clear(), made_.clear(), timeline_.clear();
  memory_ = std::make_shared<AllocatedBlocks>(device_);
  memory_guard_.emplace(c10::DebugInfoKind::PROFILER_STATE, memory_);
  observer_.emplace(*this);
}

void TrainingProfiler::Watch::start(Phase phase) {
  phase_ = phase;
  phase_begin_ = charged_until_ = time();
  last_backward_ = kNoRow;
}

void TrainingProfiler::Watch::stop() {
  if (phase_ == kPhases) return;
  step_end_ = time();
  phase_ns_[phase_] += step_end_ - phase_begin_;
  events_.push_back({"phase", kPhaseNames[phase_], phase_begin_, step_end_});
  phase_ = kPhases;
}

void TrainingProfiler::Watch::note_activations() {
  for (size_t i = 0; i < rows_.size(); ++i) rows_[i].cost.activation_bytes = memory_->live_of(i);
}

void TrainingProfiler::Watch::note_gradients(const StepContext& step) {
  for (LayerRow& row : rows_) row.cost.gradient_bytes = row.cost.parameter_bytes = 0;
  for (const NamedParameter& parameter : step.parameters) {
    profile::TrainingCost& cost = rows_[row(owner_of(parameter.name))].cost;
    cost.parameter_bytes += static_cast<int64_t>(parameter.tensor.nbytes());
    if (parameter.tensor.grad().defined()) cost.gradient_bytes += static_cast<int64_t>(parameter.tensor.grad().nbytes());
  }
}

void TrainingProfiler::Watch::note_optimizer(const StepContext& step) {
  for (LayerRow& row : rows_) row.cost.optimizer_bytes = 0;
  for (const NamedParameter& parameter : step.parameters)
    rows_[row(owner_of(parameter.name))].cost.optimizer_bytes += optimizer_bytes(step.optimizer, parameter);
}

void TrainingProfiler::Watch::end_step() {
  observer_.reset();
  memory_guard_.reset();
  is_open_ = false;
  phase_ = kPhases;
  const bool is_whole = memory_ != nullptr && phase_ns_[kForward] > 0 && phase_ns_[kBackward] > 0;
  if (!is_whole || taken_ <= options_.warmup) {
    if (!is_whole) --taken_;  // asked for a batch at the end of an epoch
    if (is_whole) events_.clear();
  } else {
    collect();
  }
  memory_.reset();
}

void TrainingProfiler::Watch::collect() {
  ++measured_;
  for (size_t phase = 0; phase < kPhases; ++phase)
    phase_seconds_[phase].push_back(static_cast<double>(phase_ns_[phase]) * 1e-9);
  step_seconds_.push_back(static_cast<double>(step_end_ - step_begin_) * 1e-9);
  peak_bytes_ = static_bytes_ + memory_->peak();
  for (LayerRow& row : rows_) {
    const double forward = static_cast<double>(row.step.ns[kForward]) * 1e-9,
                 backward = static_cast<double>(row.step.ns[kBackward]) * 1e-9;
    row.seconds[kForward].push_back(forward);
    row.seconds[kBackward].push_back(backward);
    row.both.push_back(forward + backward);
    row.macs = row.step.macs;
    row.cost.calls = row.step.calls;
  }
}

profile::StepProfile TrainingProfiler::Watch::layer(const LayerRow& row) const {
  profile::StepProfile layer{.name = row.name, .ops = fmt::format("{}", fmt::join(row.ops, " + ")), .output = row.output};
  layer.times = profile::times_of(row.both);
  layer.cost = {.macs = row.macs};
  layer.training = row.cost;
  layer.training->forward = profile::times_of(row.seconds[kForward]);
  layer.training->backward = profile::times_of(row.seconds[kBackward]);
  return layer;
}

Result<profile::Profile> TrainingProfiler::Watch::profile() const {
  if (measured_ == 0)
    return make_error(ErrorCode::kInvalidArgument, "[profile] a step of training behind {} of warm-up, got {} steps",
                      options_.warmup, taken_);
  profile::Profile result{
      .cpu = this_machine().cpu, .device = device_.str(), .threads = threads_, .sizes = {{"batch", items_}}};
  result.runs = profile::times_of(step_seconds_);
  const auto share = [&](const Times& times) { return times.seconds / result.runs.seconds; };
  for (size_t phase = 0; phase < kPhases; ++phase) {
    const Times times = profile::times_of(phase_seconds_[phase]);
    result.phases.push_back({kPhaseNames[phase], times, share(times)});
  }
  for (const LayerRow& row : rows_) {
    profile::StepProfile& added = result.steps.emplace_back(layer(row));
    added.share = share(added.times);
  }
  result.memory.weight_bytes = parameter_bytes_;
  result.memory.arena_bytes = peak_bytes_;
  result.memory.steps = timeline_;
  result.events = events_;
  return result;
}

TrainingProfiler::TrainingProfiler(const TrainingProfileOptions& options) : watch_(std::make_unique<Watch>(options)) {}
TrainingProfiler::~TrainingProfiler() = default;

void TrainingProfiler::enter(const std::string& path) { watch_->enter(path); }
void TrainingProfiler::leave() { watch_->leave_scope(); }
bool TrainingProfiler::is_done() const { return watch_->is_done(); }
Result<profile::Profile> TrainingProfiler::profile() const { return watch_->profile(); }

void TrainingProfiler::before_batch() {
  watch_->begin_step();
  if (!is_done()) watch_->start(kData);
}

void TrainingProfiler::before_forward(StepContext& step) {
  watch_->measure(device_of(step.parameters));
  watch_->stop();
  if (!watch_->is_waiting_for_forward()) watch_->begin_step();
  if (is_done()) return;
  watch_->begin(step);
  watch_->start(kForward);
}

void TrainingProfiler::after_forward(StepContext&) {
  if (is_done()) return;
  watch_->stop();
  watch_->note_activations();
}

void TrainingProfiler::before_backward(StepContext&) {
  if (!is_done()) watch_->start(kBackward);
}

void TrainingProfiler::after_backward(StepContext& step) {
  if (is_done()) return;
  watch_->stop();
  watch_->note_gradients(step);
}

void TrainingProfiler::before_update(StepContext&) {
  if (!is_done()) watch_->start(kOptimizer);
}

void TrainingProfiler::after_update(StepContext& step) {
  if (is_done()) return;
  watch_->stop();
  watch_->note_optimizer(step);
  watch_->end_step();
}

}  // namespace bitlab::train
