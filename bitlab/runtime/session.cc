#include "bitlab/runtime/session.h"

#include <algorithm>
#include <cstring>

#include "bitlab/runtime/internal/device_run.h"

namespace bitlab::runtime {
namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kMaxPlans = 16;        // that a session keeps
constexpr int64_t kFirstCapacity = 64;  // positions that states have room for at first

// Elements in front of a state's context and behind it.
struct StateShape {
  int64_t outer = 1, inner = 1;
};
StateShape state_shape(const program::Shape& shape, size_t context, const program::SymbolSizes& sizes) {
  StateShape counts;
  bool behind = false;
  for (const program::Dim& dim : shape) {
    if (uses(dim, context)) {
      behind = true;
    } else {
      (behind ? counts.inner : counts.outer) *= dim.at(sizes);
    }
  }
  return counts;
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model, SessionOptions options)
    : model_(std::move(model)),
      options_(std::move(options)),
      pool_(make_thread_pool(options_.threads == 0 ? this_machine().cores : options_.threads)) {
  const program::Program& p = model_->program();
  context_ = program::context_symbol(p);
  appended_ = program::appended_positions(p).value_or(program::Dim());
  state_of_.assign(p.values.size(), -1);
  for (size_t i = 0; i < p.states.size(); ++i) state_of_[static_cast<size_t>(p.states[i])] = static_cast<int64_t>(i);
  states_.resize(p.states.size());
  for (const program::Value& v : p.values)
    if (context_ && v.kind != program::ValueKind::kState && uses(v.shape, *context_)) context_is_visible_ = true;
}

Session::~Session() = default;
Session::Prepared::~Prepared() = default;

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<const Model> model, SessionOptions options) {
  if (options.threads < 0 || options.threads > kMaxThreads)
    return make_error(ErrorCode::kInvalidArgument, "[session] 0 to {} threads, got {}", kMaxThreads, options.threads);
  BITLAB_TRY(const std::optional<int> device, parse_device(options.device));
  options.device = device ? fmt::format("cuda:{}", *device) : "cpu";
  std::unique_ptr<Session> session(new Session(std::move(model), std::move(options)));
  if (device) {
    if constexpr (kHasDevices) {
      BITLAB_TRY(session->device_, DeviceRun::open(*session->model_, *device, session->states_.size()));
    } else {
      return make_error(ErrorCode::kUnsupported, "[session] the device 'cpu', which is all that this build has, got '{}'",
                        session->options_.device);
    }
  }
  return session;
}

int64_t Session::max_position() const { return context_ ? model_->program().symbols[*context_].max : 0; }

Status Session::truncate(int64_t length) {
  if (length < 0 || length > position_)
    return make_error(ErrorCode::kInvalidArgument, "[session] a length from 0 to the position {}, got {}", position_,
                      length);
  position_ = length;
  return {};
}

int64_t Session::state_bytes() const {
  int64_t bytes = 0;
  for (const AlignedBuffer& state : states_) bytes += static_cast<int64_t>(state.size());
  return bytes;
}

Result<Plan> Session::plan_for(const program::SymbolSizes& sizes) const {
  return make_plan(*model_, sizes, pool_->threads(), is_on_device() ? &device_->weights() : nullptr);
}

int64_t Session::device_bytes() const { return is_on_device() ? device_->bytes() : 0; }

// Takes the sizes of symbols from an input. What follows from them is compared later.
Status Session::bind(const program::Value& expected, const TensorView& input, program::SymbolSizes& sizes) const {
  const program::Program& p = model_->program();
  const program::Binding binding = bind_sizes(expected.shape, input.shape, sizes);
  if (binding.fits) return {};
  std::string condition;
  if (binding.conflict)
    condition = fmt::format(" at the {} {} of those before it", p.symbols[*binding.conflict].name, sizes[*binding.conflict]);
  return make_error(ErrorCode::kShapeMismatch, "[session] input {}{}, got {} (input={})", p.show(expected.shape), condition,
                    program::to_string(input.shape), expected.name);
}

Status Session::check_input(const program::Value& expected, const TensorView& input,
                            const program::SymbolSizes& sizes) const {
  if (!has_shape(input.shape, expected.shape, sizes))
    return make_error(ErrorCode::kShapeMismatch, "[session] input {}, which is {} here, got {} (input={})",
                      model_->program().show(expected.shape), program::to_string(shape_at(expected.shape, sizes)),
                      program::to_string(input.shape), expected.name);
  if (input.dtype != expected.dtype)
    return make_error(ErrorCode::kTypeMismatch, "[session] {} values, got {} ones (input={})", name(expected.dtype),
                      name(input.dtype), expected.name);
  if (input.data == nullptr && std::find(input.shape.begin(), input.shape.end(), 0) == input.shape.end())
    return make_error(ErrorCode::kTypeMismatch, "[session] {} values, got a null pointer (input={})", name(expected.dtype),
                      expected.name);
  return {};
}

// Whether the states have room for what this run appends, and are of its batch.
Status Session::check_context(const program::SymbolSizes& sizes) const {
  if (!context_) return {};
  if (sizes[*context_] > max_position())
    return make_error(ErrorCode::kInvalidArgument, "[session] at most {} positions, got {} behind {} (reset or truncate)",
                      max_position(), sizes[*context_] - position_, position_);
  if (position_ > 0 && sizes[0] != state_batch_)
    return make_error(ErrorCode::kShapeMismatch, "[session] the batch {} of the {} positions so far, got {}", state_batch_,
                      position_, sizes[0]);
  return {};
}

Result<program::SymbolSizes> Session::sizes_of(std::span<const TensorView> inputs) const {
  const program::Program& p = model_->program();
  if (inputs.size() != p.inputs.size())
    return make_error(ErrorCode::kInvalidArgument, "[session] {} inputs, got {}", p.inputs.size(), inputs.size());
  program::SymbolSizes sizes;
  sizes.fill(program::kUnbound);
  for (size_t i = 0; i < inputs.size(); ++i) BITLAB_RETURN_IF_ERROR(bind(p.value(p.inputs[i]), inputs[i], sizes));
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == program::kUnbound) sizes[i] = 1;  // nothing that enters has it
    if (i >= p.symbols.size() || i == context_ || (sizes[i] >= p.symbols[i].min && sizes[i] <= p.symbols[i].max)) continue;
    return make_error(ErrorCode::kInvalidArgument, "[session] {} from {} to {}, got {}", p.symbols[i].name, p.symbols[i].min,
                      p.symbols[i].max, sizes[i]);
  }
  if (context_) sizes[*context_] = position_ + appended_.at(sizes);
  for (size_t i = 0; i < inputs.size(); ++i) BITLAB_RETURN_IF_ERROR(check_input(p.value(p.inputs[i]), inputs[i], sizes));
  BITLAB_RETURN_IF_ERROR(check_context(sizes));
  return sizes;
}

// Gives the states room for the context of this run, and keeps what they hold.
Status Session::reserve(const program::SymbolSizes& sizes) {
  if (!context_) return {};
  const int64_t needed = sizes[*context_];
  if (needed <= capacity_ && sizes[0] == state_batch_) return {};
  const program::Program& p = model_->program();
  const int64_t capacity =
      needed <= capacity_ ? capacity_ : std::min(max_position(), std::max({needed, 2 * capacity_, kFirstCapacity}));
  program::SymbolSizes room = sizes;
  room[*context_] = capacity;
  if (is_on_device()) BITLAB_RETURN_IF_ERROR(device_->fetch_states(states_));
  std::vector<AlignedBuffer> grown;
  for (size_t i = 0; i < states_.size(); ++i) {
    BITLAB_RETURN_IF_ERROR(value_bytes(p.value(p.states[i]), room));
    const StateShape shape = state_shape(p.value(p.states[i]).shape, *context_, sizes);
    const auto bytes = static_cast<size_t>(shape.inner) * sizeof(float);
    BITLAB_TRY(grown.emplace_back(),
               AlignedBuffer::allocate(static_cast<size_t>(shape.outer) * static_cast<size_t>(capacity) * bytes));
    for (int64_t outer = 0; position_ > 0 && outer < shape.outer; ++outer)
      std::memcpy(grown[i].data() + static_cast<size_t>(outer * capacity) * bytes,
                  states_[i].data() + static_cast<size_t>(outer * capacity_) * bytes,
                  static_cast<size_t>(position_) * bytes);
  }
  if (is_on_device()) BITLAB_RETURN_IF_ERROR(device_->reserve_states(grown));
  states_ = std::move(grown);
  state_batch_ = sizes[0];
  if (capacity == capacity_) return {};
  capacity_ = capacity;
  current_ = nullptr;  // plans have scratch for fewer keys
  prepared_.clear();
  return {};
}

Result<std::unique_ptr<Session::Prepared>> Session::make_prepared(const program::SymbolSizes& sizes) const {
  auto prepared = std::make_unique<Prepared>();
  BITLAB_TRY(prepared->plan, plan_for(sizes));
  if (is_on_device()) prepared->on_device = std::make_unique<DevicePlan>(*model_, prepared->plan);
  const program::Program& p = model_->program();
  for (const program::ValueId id : p.inputs) {
    const std::vector<int64_t> shape = shape_at(p.value(id).shape, sizes);
    const std::vector<int64_t> order = memory_order(shape.size(), prepared->plan.layouts.of(id));
    prepared->inputs.push_back(StridedCopy::in_rows(StridedView(shape).permuted(order), size_of(p.value(id).dtype)));
  }
  for (const program::Output& output : p.outputs) {
    const program::Value& value = p.value(output.value);
    const std::vector<int64_t> shape = shape_at(value.shape, sizes);
    AlignedBuffer row_major;
    std::optional<StridedCopy> reordering;
    if (prepared->plan.layouts.of(output.value) == Layout::kChannelsLast) {
      BITLAB_TRY(row_major,
                 AlignedBuffer::allocate(static_cast<size_t>(elements(value.shape, sizes) * size_of(value.dtype))));
      reordering = StridedCopy::in_rows(view_of(shape, Layout::kChannelsLast), size_of(value.dtype));
    }
    prepared->outputs.emplace_back(shape, value.dtype, row_major.data());
    prepared->reorderings.push_back({std::move(row_major), std::move(reordering)});
  }
  return prepared;
}

Status Session::prepare(const program::SymbolSizes& actual) {
  program::SymbolSizes sizes = actual;
  // What only states have of the context is bounded by their capacity: a plan serves every position.
  if (context_ && !context_is_visible_) sizes[*context_] = capacity_;
  current_ = nullptr;
  const auto known = std::find_if(prepared_.begin(), prepared_.end(), [&](const auto& p) { return p->plan.sizes == sizes; });
  if (known != prepared_.end()) {
    std::rotate(known, known + 1, prepared_.end());
  } else {
    BITLAB_TRY(std::unique_ptr<Prepared> made, make_prepared(sizes));
    ++plans_made_;
    if (prepared_.size() == kMaxPlans) prepared_.erase(prepared_.begin());
    prepared_.push_back(std::move(made));
  }
  if (const int64_t bytes = prepared_.back()->plan.arena_bytes; arena_bytes() < bytes) {
    arena_ = {};  // before there is another one
    BITLAB_TRY(arena_, AlignedBuffer::allocate(static_cast<size_t>(bytes)));
  }
  if (is_on_device()) BITLAB_RETURN_IF_ERROR(device_->reserve(prepared_.back()->plan));
  current_ = prepared_.back().get();
  return {};
}

void Session::read_inputs(std::span<const TensorView> inputs) {
  const program::Program& p = model_->program();
  for (size_t i = 0; i < inputs.size(); ++i) current_->inputs[i].run(inputs[i].data, buffer(p.inputs[i]), *pool_);
}

// Where a step reads a value; null for weights of integers, which it has already.
const void* Session::source(program::ValueId id) const {
  if (id == program::kNone) return nullptr;
  const auto at = static_cast<size_t>(id);
  if (current_->plan.offsets[at] >= 0) return arena_.data() + current_->plan.offsets[at];
  return state_of_[at] >= 0 ? states_[static_cast<size_t>(state_of_[at])].data() : model_->plain(id);
}

Status Session::check_abort(const PlannedStep& planned) const {
  if (!options_.abort || !options_.abort()) return {};
  return make_error(ErrorCode::kCancelled, "[session] a run to its end, got a request to stop (node={})", planned.name());
}

// On the host.
Status Session::run_step(const PlannedStep& planned) {
  StepBuffers buffers;
  buffers.scratch = arena_.data() + current_->plan.scratch_offset;
  buffers.pool = pool_.get();
  buffers.position = position_, buffers.capacity = capacity_;
  step_inputs_.clear();
  step_outputs_.clear();
  for (const program::ValueId id : planned.inputs) step_inputs_.push_back(source(id));
  for (const program::ValueId id : planned.outputs) step_outputs_.push_back(buffer(id));
  buffers.inputs = step_inputs_, buffers.outputs = step_outputs_;
  if (Status status = planned.step.run(buffers); !status.ok())
    return make_error(status.error().code, "{} (node={})", status.error().message, planned.name());
  return {};
}

Status Session::run_steps() {
  for (const PlannedStep& planned : current_->plan.steps) {
    BITLAB_RETURN_IF_ERROR(check_abort(planned));
    const TraceScope scope(options_.trace, "step", planned.name());
    BITLAB_RETURN_IF_ERROR(run_step(planned));
  }
  return {};
}

Status Session::run_on_device(std::span<const TensorView> inputs) {
  const DeviceRun::Work work{.model = *model_,
                             .plan = current_->plan,
                             .own = *current_->on_device,
                             .arena = arena_.data(),
                             .states = states_,
                             .state_of = state_of_,
                             .position = position_,
                             .capacity = capacity_,
                             .trace = options_.trace,
                             .before = [this](const PlannedStep& planned) { return check_abort(planned); },
                             .run_on_host = [this](const PlannedStep& planned) { return run_step(planned); }};
  BITLAB_TRY(const bool succeeded, device_->run(work));
  if (succeeded) return {};
  BITLAB_RETURN_IF_ERROR(device_->fetch_states(states_));
  read_inputs(inputs);
  BITLAB_RETURN_IF_ERROR(run_steps());
  return make_error(ErrorCode::kInternal, "[session] the error of a run on {}, got none on the host", options_.device);
}

void Session::write_outputs() {
  const program::Program& p = model_->program();
  for (size_t i = 0; i < p.outputs.size(); ++i) {
    const uint8_t* from = buffer(p.outputs[i].value);
    Reordered& own = current_->reorderings[i];
    if (own.copy) {
      own.copy->run(from, own.row_major.data(), *pool_);
    } else {
      current_->outputs[i].data = from;
    }
  }
}

Result<std::span<const TensorView>> Session::run(std::span<const TensorView> inputs) {
  const TraceScope scope(options_.trace, "run", "run");
  has_outputs_ = false;
  BITLAB_TRY(const program::SymbolSizes sizes, sizes_of(inputs));
  BITLAB_RETURN_IF_ERROR(reserve(sizes));
  BITLAB_RETURN_IF_ERROR(prepare(sizes));
  read_inputs(inputs);
  BITLAB_RETURN_IF_ERROR(is_on_device() ? run_on_device(inputs) : run_steps());
  write_outputs();
  has_outputs_ = true;
  if (context_) position_ = sizes[*context_];
  return std::span<const TensorView>(current_->outputs);
}

Result<std::span<const TensorView>> Session::run(std::span<const NamedView> inputs) {
  const program::Program& p = model_->program();
  std::vector<TensorView> ordered;
  for (const program::ValueId id : p.inputs) {
    const std::string& wanted = p.value(id).name;
    const auto is_it = [&](const NamedView& input) { return input.name == wanted; };
    const auto found = std::find_if(inputs.begin(), inputs.end(), is_it);
    if (found == inputs.end() || std::count_if(inputs.begin(), inputs.end(), is_it) > 1)
      return make_error(ErrorCode::kInvalidArgument, "[session] an input called '{}', got {} of {} inputs", wanted,
                        std::count_if(inputs.begin(), inputs.end(), is_it), inputs.size());
    ordered.push_back(found->view);
  }
  for (const NamedView& input : inputs)
    if (std::none_of(p.inputs.begin(), p.inputs.end(), [&](program::ValueId id) { return p.value(id).name == input.name; }))
      return make_error(ErrorCode::kInvalidArgument, "[session] inputs of {}, got '{}' too", to_string(p.signature()),
                        input.name);
  return run(ordered);
}

Status Session::copy_output(size_t index, void* to, size_t bytes) const {
  const size_t count = has_outputs_ ? current_->outputs.size() : 0;
  if (index >= count)
    return make_error(ErrorCode::kInvalidArgument, "[session] an output below {} of a run that succeeded, got {}", count,
                      index);
  const TensorView& output = current_->outputs[index];
  auto expected = static_cast<size_t>(size_of(output.dtype));
  for (const int64_t size : output.shape) expected *= static_cast<size_t>(size);
  if (bytes != expected)
    return make_error(ErrorCode::kShapeMismatch, "[session] {} bytes for {} of {}, got {} (output={})", expected,
                      program::to_string(output.shape), name(output.dtype), bytes, model_->program().outputs[index].name);
  if (bytes > 0) std::memcpy(to, output.data, bytes);
  return {};
}

}  // namespace bitlab::runtime
