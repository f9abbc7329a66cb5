#include "bitlab/train/peers.h"

#include <charconv>
#include <cstdlib>
#include <dlfcn.h>
#include <exception>
#include <string>

#include <ATen/ops/empty.h>

#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO  // LibTorch is built with it, and does not say so to others
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "bitlab/base/plugin.h"
#include "bitlab/base/text.h"
#include "bitlab/train/internal/device_group.h"

namespace bitlab::train {
namespace {

// Null where there is none. Error: Unsupported, of one that the environment names, or that is something else.
Result<MakeDeviceGroup*> find_device_group() {
  constexpr const char* kVariable = "BITLAB_NCCL_PLUGIN";
  const Result<void*> library = open_plugin("libbitlab_nccl.so", kVariable);
  if (!library.ok()) {
    if (std::getenv(kVariable) != nullptr) return library.error();  // NOLINT(concurrency-mt-unsafe): nothing sets it here
    return nullptr;
  }
  constexpr const char* kFunction = "bitlab_device_group";
  if (void* function = dlsym(*library, kFunction); function != nullptr) return reinterpret_cast<MakeDeviceGroup*>(function);
  return make_error(ErrorCode::kUnsupported, "[train] {} in the plug-in for processes on devices, got none", kFunction);
}

class C10dPeers final : public Peers {
 public:
  C10dPeers(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size)
      : rank_(static_cast<int>(rank)), size_(static_cast<int>(size)), store_(std::move(store)) {
    const auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    options->threads = 2;
    host_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, rank_, size_, options);
  }
  // Without a word to the others, who may be gone; what was sent has been waited for.
  ~C10dPeers() override {
    if (device_ && device_ != host_) try {
        device_->abort();
      } catch (const std::exception&) {
      }
  }
  C10dPeers(const C10dPeers&) = delete;
  C10dPeers& operator=(const C10dPeers&) = delete;
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  std::function<void()> begin_sum(at::Tensor values) override {
    return begin(std::move(values), [](c10d::Backend& group, auto& list) { return group.allreduce(list); });
  }
  void broadcast(at::Tensor values) override {
    begin(std::move(values), [](c10d::Backend& group, auto& list) { return group.broadcast(list); })();
  }
  at::Tensor gather(const at::Tensor& values) override {
    std::vector<int64_t> shape{size_};
    shape.insert(shape.end(), values.sizes().begin(), values.sizes().end());
    const at::Tensor all = at::empty(shape, values.options());
    std::vector<std::vector<at::Tensor>> outputs{all.unbind()};
    std::vector<at::Tensor> inputs{values};
    tell([&] { host_->allgather(outputs, inputs)->wait(); });
    return all;
  }

 private:
  // start(group, values), whose results become the values: where they are, or on the host.
  template <class Start>
  std::function<void()> begin(at::Tensor values, Start start) {
    c10d::Backend& group = group_of(values.device());
    std::vector<at::Tensor> list{&group == host_.get() ? values.cpu() : values};
    c10::intrusive_ptr<c10d::Work> work;
    tell([&] { work = start(group, list); });
    return [this, work, list, values] {
      tell([&] { work->wait(); });
      if (!list[0].is_same(values)) values.copy_(list[0]);
    };
  }
  // That of a device comes with the first tensor there, and is the host's where nothing else is to be had.
  c10d::Backend& group_of(at::Device device) {
    if (device.is_cpu()) return *host_;
    if (!device_) {
      device_ = host_;
      if (MakeDeviceGroup* make = find_device_group().value(); make != nullptr) try {
          make(device_, c10::make_intrusive<c10d::PrefixStore>("device", store_), rank_, size_, device);
        } catch (const std::exception& error) {
          throw Exception(
              make_error(ErrorCode::kUnsupported,
                         "[train] {} processes that exchange what is on their devices, got: {} (rank={}, device={})", size_,
                         first_line(error.what()), rank_, device.str()));
        }
    }
    return *device_;
  }
  template <class F>
  void tell(F work) const try {
    work();
  } catch (const std::exception& error) {
    throw Exception(make_error(ErrorCode::kIoError, "[train] all {} processes, got one that is gone: {} (rank={})", size_,
                               first_line(error.what()), rank_));
  }

  int rank_, size_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::Backend> host_, device_;  // the latter from the first tensor there
};

// Empty where it is not set.
std::string variable(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it here
  return text == nullptr ? "" : text;
}

Result<int64_t> number_of(const char* name) {
  const std::string view = variable(name);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error == std::errc() && end == view.data() + view.size() && value >= 0) return value;
  return make_error(ErrorCode::kInvalidArgument, "[train] a number in {}, as torchrun sets it, got '{}'", name, view);
}

}  // namespace

Result<std::shared_ptr<Peers>> torchrun_peers() {
  if (variable("WORLD_SIZE").empty()) return std::shared_ptr<Peers>();
  BITLAB_TRY(const int64_t size, number_of("WORLD_SIZE"));
  if (size <= 1) return std::shared_ptr<Peers>();
  BITLAB_TRY(const int64_t rank, number_of("RANK"));
  BITLAB_TRY(const int64_t port, number_of("MASTER_PORT"));
  const std::string address = variable("MASTER_ADDR");
  if (rank >= size || address.empty())
    return make_error(ErrorCode::kInvalidArgument, "[train] RANK below WORLD_SIZE, and MASTER_ADDR, got {} of {} at '{}'",
                      rank, size, address);
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.numWorkers = static_cast<size_t>(size);
  options.waitWorkers = false;
  options.multiTenant = true;  // Python may have made the same one
  try {
    const auto store =
        c10::make_intrusive<c10d::PrefixStore>("bitlab", c10::make_intrusive<c10d::TCPStore>(address, options));
    return std::shared_ptr<Peers>(std::make_shared<C10dPeers>(store, rank, size));
  } catch (const std::exception& error) {
    return make_error(ErrorCode::kIoError, "[train] {} processes that meet at {}:{}, got '{}' (rank={})", size, address,
                      port, first_line(error.what()), rank);
  }
}

}  // namespace bitlab::train
