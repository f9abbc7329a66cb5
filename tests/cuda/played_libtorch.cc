// LibTorch's device "cuda" as the host plays it, in a LibTorch for the CPU alone: a library that is loaded before a program asks for the device, whose
// training then runs as it stands. For tests alone. An operator runs on the CPU's kernel over the device's memory, which is that of the plug-in that the
// host plays (emulated_plugin.cc), so that BitLab's own kernels are the plug-in's. What it finds are tensors of two devices in one call, operators
// that no device has, and each place where the host waits for the device: BITLAB_PLAYED_WAITS names a file that gets a line for each. What it cannot
// show: streams, time but that of events, and LibTorch's kernels for CUDA.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/library.h>

#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/train/internal/device_group.h"

namespace bitlab::played {
namespace {

using c10::IValue;
using torch::jit::Stack;

const c10::Device kDevice(c10::kCUDA, 0);

const kernels::CudaPlugin& plugin() {
  static const kernels::CudaPlugin* const table = [] {
    const char* path = std::getenv("BITLAB_CUDA_PLUGIN");
    void* library = path == nullptr ? nullptr : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(library != nullptr, "BITLAB_CUDA_PLUGIN with a plug-in that the host plays");
    return reinterpret_cast<const kernels::CudaPlugin* (*)()>(dlsym(library, "bitlab_cuda_plugin"))();
  }();
  return *table;
}

// LibTorch's operators read and write what they are given at once; of what the plug-in has begun before, that is the end.
void end_work() { static_cast<void>(plugin().synchronize(nullptr)); }

// Says so when the host has waited for the device.
std::atomic<int64_t> waits_so_far = 0;
// Operators that it ran.
std::atomic<int64_t> operators = 0;

// Milliseconds. BITLAB_PLAYED_SECONDS is how long each operator takes, if it is set.
double clock_of_device() {
  static const char* const seconds = std::getenv("BITLAB_PLAYED_SECONDS");
  if (seconds != nullptr) return 1e3 * std::strtod(seconds, nullptr) * static_cast<double>(operators);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void wait_for(const std::string& what) {
  ++waits_so_far;
  static std::FILE* const file = [] {
    const char* path = std::getenv("BITLAB_PLAYED_WAITS");
    return path == nullptr ? nullptr : std::fopen(path, "a");
  }();
  if (file == nullptr) return;
  std::fprintf(file, "%s\n", what.c_str());
  std::fflush(file);
}

// --- Memory

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = nullptr;
    if (bytes > 0) {
      TORCH_CHECK(plugin().allocate(static_cast<int64_t>(bytes), &memory) == nullptr, "memory of the device");
      const std::lock_guard lock(mutex);
      sizes[memory] = bytes;
      report(memory, static_cast<int64_t>(bytes));
    }
    return {memory, memory, raw_deleter(), kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override;
  // To the profiler that may be on, as LibTorch's allocator does.
  void report(void* block, int64_t bytes) {
    used += bytes;
    c10::reportMemoryUsageToProfiler(block, bytes, static_cast<size_t>(used), static_cast<size_t>(used), kDevice);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  std::mutex mutex;
  std::map<void*, size_t> sizes;
  int64_t used = 0;
};
Memory memory;
c10::DeleterFnPtr Memory::raw_deleter() const {
  return [](void* block) {
    if (block == nullptr) return;
    {
      const std::lock_guard lock(memory.mutex);
      memory.report(block, -static_cast<int64_t>(memory.sizes.extract(block).mapped()));
    }
    plugin().release(block);
  };
}

// Memory of the host that a device copies from while the host goes on.
struct Pinned final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(std::max<size_t>(bytes, 1));
    const std::lock_guard lock(mutex);
    known[data] = bytes;
    return {data, data, raw_deleter(), c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool has(const void* data) const {
    const std::lock_guard lock(mutex);
    const auto after = known.upper_bound(const_cast<void*>(data));
    return after != known.begin() &&
           static_cast<const char*>(data) < static_cast<char*>(std::prev(after)->first) + std::prev(after)->second;
  }
  mutable std::mutex mutex;
  std::map<void*, size_t> known;
};
Pinned pinned;
c10::DeleterFnPtr Pinned::raw_deleter() const {
  return [](void* data) {
    {
      const std::lock_guard lock(pinned.mutex);
      pinned.known.erase(data);
    }
    std::free(data);
  };
}

at::Generator& generator() {
  static at::Generator own = at::make_generator<at::CPUGeneratorImpl>();
  return own;
}

// --- Tensors

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::CUDA);

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, c10::ScalarType type) {
  return at::detail::empty_strided_generic(sizes, strides, &memory, kKeys, type);
}

// The same memory as a tensor of the CPU.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) return tensor;
  end_work();
  const auto options = at::TensorOptions(tensor.scalar_type());
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

// A copy on the device, which lies in memory as the tensor does.
at::Tensor on_device(const at::Tensor& tensor) {
  const at::Tensor own = empty_strided(tensor.sizes(), tensor.strides(), tensor.scalar_type());
  if (tensor.numel() > 0)
    std::memcpy(own.data_ptr(), tensor.data_ptr(),
                at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize()));
  return own;
}

// change(tensor) of each tensor within.
template <class Change>
IValue changed(const IValue& value, Change change) {
  if (value.isTensor()) return value.toTensor().defined() ? IValue(change(value.toTensor())) : value;
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(tensor.defined() ? change(tensor) : tensor);
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector())
      list.push_back(tensor && tensor->defined() ? std::optional(change(*tensor)) : tensor);
    return list;
  }
  return value;
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// Which of its arguments an operator's result is.
size_t written_as(const c10::FunctionSchema& schema, const c10::Argument& result) {
  for (size_t i = 0; i < schema.arguments().size(); ++i)
    if (is_written(schema.arguments()[i]) && *schema.arguments()[i].alias_info() == *result.alias_info()) return i;
  TORCH_CHECK(false, "an argument that ", schema.name(), " returns");
}

// What reads values to know its result's size, or gives them to the host.
bool waits(const c10::FunctionSchema& schema, const Stack& arguments) {
  static const std::set<std::string> kNames{"aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2"};
  if (kNames.contains(schema.name())) return true;
  if (schema.name() != "aten::index") return false;
  const auto indices = arguments.at(1).toOptionalTensorVector();
  return std::any_of(indices.begin(), indices.end(),
                     [](const auto& index) { return index && index->defined() && index->scalar_type() == at::kBool; });
}

// Random numbers are the device's, whichever generator the CPU's kernel takes.
class Randomness {
 public:
  explicit Randomness(const c10::FunctionSchema& schema) : is_on_(schema.name().find("dropout") != std::string::npos) {
    for (const c10::Argument& argument : schema.arguments()) is_on_ = is_on_ || argument.name() == "generator";
    if (is_on_) exchange();
  }
  ~Randomness() {
    if (is_on_) exchange();
  }
  Randomness(const Randomness&) = delete;

 private:
  static void exchange() {
    at::Generator host = at::detail::getDefaultCPUGenerator();
    const at::Tensor state = host.get_state();
    host.set_state(generator().get_state());
    generator().set_state(state);
  }
  bool is_on_;
};

// Any operator.
void play(const c10::OperatorHandle& op, Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const size_t count = schema.arguments().size();
  const Stack arguments(stack->end() - static_cast<int64_t>(count), stack->end());
  torch::jit::drop(*stack, count);
  Stack own;
  for (size_t i = 0; i < count; ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    static_cast<void>(changed(arguments[i], [&](const at::Tensor& tensor) {
      // LibTorch's kernels take a number from the host, and nothing else.
      TORCH_CHECK(tensor.is_cuda() || tensor.dim() == 0, schema.name(), ": tensors of one device, got ", argument.name(),
                  " on ", tensor.device());
      return tensor;
    }));
    own.push_back(argument.name() == "device"      ? IValue(c10::Device(c10::kCPU))
                  : argument.name() == "generator" ? IValue()
                                                   : changed(arguments[i], on_host));
  }
  if (waits(schema, arguments)) wait_for(schema.name());
  ++operators;
  const Stack given = own;
  {
    const Randomness randomness(schema);
    const at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(own);
  }
  // What an operator gave another size.
  for (size_t i = 0; i < count; ++i)
    if (is_written(schema.arguments()[i]) && arguments[i].isTensor() && arguments[i].toTensor().is_cuda()) {
      const at::Tensor target = arguments[i].toTensor(), result = given[i].toTensor();
      if (target.numel() == 0 && result.numel() > 0) {
        target.resize_(result.sizes());
        on_host(target).copy_(result);
      }
    }
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    const c10::Argument& result = schema.returns()[i];
    if (result.alias_info() == nullptr) {
      torch::jit::push(*stack, changed(own[i], on_device));
    } else {
      TORCH_CHECK(result.alias_info()->isWrite(), "a view that this file knows, got that of ", schema.name());
      torch::jit::push(*stack, arguments[written_as(schema, result)]);
    }
  }
}

// --- What needs more than values

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
                 std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, type.value_or(at::kFloat), format);
}

at::Tensor empty_with_strides(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> type,
                              std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return empty_strided(size, stride, type.value_or(at::kFloat));
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat>) {
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const size_t bytes =
      at::detail::computeStorageNbytesContiguous(size, self.itemsize(), static_cast<size_t>(self.storage_offset()));
  if (bytes > impl->storage().nbytes()) {
    end_work();
    c10::DataPtr data = memory.allocate(bytes);
    if (impl->storage().nbytes() > 0) std::memcpy(data.get(), impl->storage().data(), impl->storage().nbytes());
    impl->storage().set_data_ptr(std::move(data));
    impl->storage().set_nbytes(bytes);
  }
  return self;
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& from, bool non_blocking) {
  const bool is_down = !self.is_cuda(), is_up = !from.is_cuda();
  if (is_down && !(non_blocking && self.is_pinned())) wait_for("copy to the host");
  if (is_up && from.dim() > 0 && !(non_blocking && from.is_pinned())) wait_for("copy from the host");
  on_host(self).copy_(on_host(from));
  return self;
}

at::Scalar number(const at::Tensor& self) {
  wait_for("aten::item");
  return on_host(self).item();
}

int64_t attention_kind(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double,
                       bool, std::optional<double>, bool) {
  return 0;  // of plain operators
}

// Tensors that alias themselves, of other sizes.
at::Tensor as_strided(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

// --- The device

// Processes of one device each, as NCCL's: tensors of the device are summed where they are, over gloo.
class Group final : public c10d::Backend {
 public:
  Group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size) : Backend(rank, size) {
    const auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    gloo_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    auto memory = on_host(tensors);
    return gloo_->allreduce(memory, options);
  }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override {
    auto memory = on_host(tensors);
    return gloo_->broadcast(memory, options);
  }

 private:
  static std::vector<at::Tensor> on_host(const std::vector<at::Tensor>& tensors) {
    std::vector<at::Tensor> memory;
    for (const at::Tensor& tensor : tensors) {
      TORCH_CHECK(tensor.is_cuda() && tensor.is_non_overlapping_and_dense(),
                  "a dense tensor of the device expected, as NCCL does");
      wait_for("sum on the device");
      end_work();
      memory.push_back(at::from_blob(tensor.mutable_data_ptr(), {tensor.numel()}, tensor.options().device(at::kCPU)));
    }
    return memory;
  }
  c10::intrusive_ptr<c10d::Backend> gloo_;
};

struct Event {
  bool knows_time;
  double milliseconds = 0;
  int64_t waits = 0;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::kCUDA;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream getDefaultStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  void* getStreamNativeHandle(const c10::Stream) const override { return nullptr; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag flag) const override {
    if (*event == nullptr) *event = new Event{flag == c10::EventFlag::BACKEND_DEFAULT};
    const auto own = static_cast<Event*>(*event);
    own->milliseconds = clock_of_device(), own->waits = waits_so_far;
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    return event == nullptr || waits_so_far > static_cast<Event*>(event)->waits;
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    const auto first = static_cast<Event*>(from), second = static_cast<Event*>(to);
    TORCH_CHECK(first != nullptr && second != nullptr && first->knows_time && second->knows_time, "events with a time");
    TORCH_CHECK(queryEvent(first) && queryEvent(second), "events that the device has passed");
    return second->milliseconds - first->milliseconds;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { wait_for("synchronize"); }
  void synchronizeEvent(void*) const override { wait_for("synchronize"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait_for("synchronize"); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

}  // namespace
}  // namespace bitlab::played

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  bool compiledWithCuDNN() const override { return false; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return bitlab::played::generator(); }
  Allocator* getPinnedMemoryAllocator() const override { return &bitlab::played::pinned; }
  bool isPinnedPtr(const void* data) const override { return bitlab::played::pinned.has(data); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, bitlab::played::Guard)
}  // namespace c10::impl

using namespace bitlab::played;

// This library is the plug-in for NCCL, too, where BITLAB_NCCL_PLUGIN names it.
extern "C" void bitlab_device_group(c10::intrusive_ptr<c10d::Backend>& group, const c10::intrusive_ptr<c10d::Store>& store,
                                    int rank, int size, c10::Device device) {
  TORCH_CHECK(device == kDevice, "the played device expected");
  group = c10::make_intrusive<Group>(store, rank, size);
}

static_assert(std::is_same_v<decltype(bitlab_device_group), bitlab::train::MakeDeviceGroup>);

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&play>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_with_strides);
  m.impl("resize_", resize);
  m.impl("copy_", copy);
  m.impl("_local_scalar_dense", number);
  m.impl("_fused_sdp_choice", attention_kind);
  // These would choose kernels by the device's kind.
  m.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&play>());
  m.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&play>());
  m.impl("as_strided", as_strided);
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
}
