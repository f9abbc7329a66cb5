#include "bitlab/runtime/session.h"

#include <algorithm>
namespace bitlab::runtime {
namespace {

constexpr int kMaxThreads = 1024;

std::string show(const std::vector<int64_t>& shape) {
  program::Shape fixed;
  for (int64_t size : shape) fixed.push_back({size, false});
  return to_string(fixed);
}

constexpr int64_t kAnyBatch = -1;

// The batch for which `expected` is `found`; nothing where there is none.
std::optional<int64_t> match(const program::Shape& expected, const std::vector<int64_t>& found) {
  if (expected.size() != found.size()) return std::nullopt;
  int64_t batch = kAnyBatch;
  for (size_t i = 0; i < found.size(); ++i) {
    const program::Dim dim = expected[i];
    if (!dim.symbolic) {
      if (dim.size != found[i]) return std::nullopt;
      continue;
    }
    if (found[i] < 0 || found[i] % dim.size != 0 || (batch != kAnyBatch && batch != found[i] / dim.size))
      return std::nullopt;
    batch = found[i] / dim.size;
  }
  return batch;
}

// Whether an input brings the values that its shape promises.
Status check_values(const program::Value& expected, const TensorView& input) {
  const bool is_index = expected.dtype == program::DType::kInt64;
  const void* values = is_index ? static_cast<const void*>(input.indices) : input.data;
  const bool other = is_index ? input.data != nullptr : input.indices != nullptr;
  if (values != nullptr || std::find(input.shape.begin(), input.shape.end(), 0) != input.shape.end()) return {};
  return make_error(ErrorCode::kTypeMismatch, "[session] {} values, got {} (input={})", name(expected.dtype),
                    other ? (is_index ? "float32 ones" : "int64 ones") : "a null pointer", expected.name);
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model, SessionOptions options)
    : model_(std::move(model)),
      options_(std::move(options)),
      pool_(make_thread_pool(options_.threads == 0 ? this_machine().cores : options_.threads)) {}

Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<const Model> model, SessionOptions options) {
  if (options.threads < 0 || options.threads > kMaxThreads)
    return make_error(ErrorCode::kInvalidArgument, "[session] 0 to {} threads, got {}", kMaxThreads, options.threads);
  return std::unique_ptr<Session>(new Session(std::move(model), std::move(options)));
}

Result<int64_t> Session::batch_of(std::span<const TensorView> inputs) const {
  const program::Program& p = model_->program();
  if (inputs.size() != p.inputs.size())
    return make_error(ErrorCode::kInvalidArgument, "[session] {} inputs, got {}", p.inputs.size(), inputs.size());
  int64_t batch = kAnyBatch;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const program::Value& expected = p.value(p.inputs[i]);
    const std::optional<int64_t> found = match(expected.shape, inputs[i].shape);
    if (!found)
      return make_error(ErrorCode::kShapeMismatch, "[session] input {}, got {} (input={})", to_string(expected.shape),
                        show(inputs[i].shape), expected.name);
    if (*found != kAnyBatch && batch != kAnyBatch && *found != batch)
      return make_error(ErrorCode::kShapeMismatch,
                        "[session] input {} at the batch {} of those before it, got {} (input={})",
                        to_string(expected.shape), batch, show(inputs[i].shape), expected.name);
    BITLAB_RETURN_IF_ERROR(check_values(expected, inputs[i]));
    batch = std::max(batch, *found);
  }
  return batch == kAnyBatch ? 1 : batch;
}

Status Session::prepare(int64_t batch) {
  if (plan_.batch == batch) return {};
  plan_.batch = -1;  // no plan, should the following fail
  outputs_.clear();
  row_major_.clear();
  BITLAB_TRY(Plan plan, make_plan(*model_, batch, pool_->threads()));
  if (static_cast<int64_t>(arena_.size()) < plan.arena_bytes) {
    arena_ = {};
    BITLAB_TRY(arena_, AlignedBuffer::allocate(static_cast<size_t>(plan.arena_bytes)));
  }
  plan_ = std::move(plan);
  const program::Program& p = model_->program();
  for (program::ValueId id : p.outputs) {
    TensorView output{at_batch(p.value(id).shape, batch), buffer(id)};
    if (is_reordered(id)) {
      BITLAB_TRY(AlignedBuffer copy,
                 AlignedBuffer::allocate(static_cast<size_t>(elements(p.value(id).shape, batch)) * sizeof(float)));
      row_major_.push_back(std::move(copy));
      output.data = reinterpret_cast<const float*>(row_major_.back().data());
    }
    outputs_.push_back(std::move(output));
  }
  return {};
}

Status Session::run_steps() {
  for (const PlannedStep& planned : plan_.steps) {
    const TraceScope scope(options_.trace, "step", planned.node->name);
    StepBuffers buffers;
    size_t activations = 0;
    for (program::ValueId id : planned.node->inputs)
      if (id != program::kNone && plan_.offsets[static_cast<size_t>(id)] >= 0) buffers.inputs[activations++] = buffer(id);
    buffers.output = buffer(planned.node->output);
    buffers.scratch = arena_.data() + plan_.scratch_offset;
    buffers.pool = pool_.get();
    if (Status status = planned.step.run(buffers); !status.ok())
      return make_error(status.error().code, "{} (node={})", status.error().message, planned.node->name);
  }
  return {};
}

Result<std::span<const TensorView>> Session::run(std::span<const TensorView> inputs) {
  BITLAB_TRY(const int64_t batch, batch_of(inputs));
  BITLAB_RETURN_IF_ERROR(prepare(batch));
  const program::Program& p = model_->program();
  for (size_t i = 0; i < inputs.size(); ++i) {
    float* to = buffer(p.inputs[i]);
    if (p.value(p.inputs[i]).dtype == program::DType::kInt64) {
      std::copy_n(inputs[i].indices, elements(p.value(p.inputs[i]).shape, batch), reinterpret_cast<int64_t*>(to));
      continue;
    }
    const std::vector<int64_t> order = memory_order(inputs[i].shape.size(), plan_.layouts.of(p.inputs[i]));
    copy_strided(StridedView(inputs[i].shape, Layout::kRowMajor).permuted(order), inputs[i].data, to, *pool_);
  }
  BITLAB_RETURN_IF_ERROR(run_steps());
  size_t copied = 0;
  for (size_t i = 0; i < outputs_.size(); ++i)
    if (is_reordered(p.outputs[i]))
      copy_strided(StridedView(outputs_[i].shape, Layout::kChannelsLast), buffer(p.outputs[i]),
                   reinterpret_cast<float*>(row_major_[copied++].data()), *pool_);
  return std::span<const TensorView>(outputs_);
}

}  // namespace bitlab::runtime
