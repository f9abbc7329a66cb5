#include "bitlab/train/peers.h"

#include <charconv>
#include <cstdlib>
#include <exception>
#include <string>

#include <ATen/ops/empty.h>

#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO  // LibTorch is built with it, and does not say so to others
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace bitlab::train {
namespace {

// Without LibTorch's stack of calls.
std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

class GlooPeers final : public Peers {
 public:
  GlooPeers(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank, int64_t size) : rank_(rank), size_(size) {
    const auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    options->threads = 2;
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(rank), static_cast<int>(size), options);
  }
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void sum(at::Tensor values) override {
    on_host(values, [&](std::vector<at::Tensor>& list) { return group_->allreduce(list); });
  }
  void broadcast(at::Tensor values) override {
    on_host(values, [&](std::vector<at::Tensor>& list) { return group_->broadcast(list); });
  }
  at::Tensor gather(const at::Tensor& values) override {
    std::vector<int64_t> shape{size_};
    shape.insert(shape.end(), values.sizes().begin(), values.sizes().end());
    const at::Tensor all = at::empty(shape, values.options());
    std::vector<std::vector<at::Tensor>> outputs{all.unbind()};
    std::vector<at::Tensor> inputs{values};
    wait([&] { return group_->allgather(outputs, inputs); });
    return all;
  }

 private:
  // start(values on the CPU), whose results become the values.
  template <class Start>
  void on_host(const at::Tensor& values, Start start) const {
    std::vector<at::Tensor> list{values.cpu()};
    wait([&] { return start(list); });
    if (!values.is_cpu()) values.copy_(list[0]);
  }
  template <class Start>
  void wait(Start start) const try {
    start()->wait();
  } catch (const std::exception& error) {
    throw Exception(make_error(ErrorCode::kIoError, "[train] all {} processes, got one that is gone: {} (rank={})", size_,
                               first_line(error), rank_));
  }

  int64_t rank_, size_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
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
    return std::shared_ptr<Peers>(std::make_shared<GlooPeers>(store, rank, size));
  } catch (const std::exception& error) {
    return make_error(ErrorCode::kIoError, "[train] {} processes that meet at {}:{}, got '{}' (rank={})", size, address,
                      port, first_line(error), rank);
  }
}

}  // namespace bitlab::train
