// For tests of sessions on the device that the host plays, beside sessions of the CPU.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>

#include <gtest/gtest.h>

#include "bitlab/runtime/edges_test_support.h"
#include "bitlab/runtime/random_inputs.h"
#include "bitlab/runtime/test_support.h"

namespace bitlab::runtime {
namespace {

bool is_emulated() { return std::getenv("BITLAB_CUDA_PLUGIN") != nullptr; }
#define BITLAB_NEEDS_THE_EMULATED_DEVICE() \
  if (!is_emulated()) GTEST_SKIP() << "of the ctest entry runtime_test_device"

std::unique_ptr<Session> session_on(const std::shared_ptr<const Model>& model, std::string device) {
  return Session::create(model, {.threads = 1, .trace = {}, .abort = nullptr, .device = std::move(device)}).value();
}

// The bytes of all outputs, with one NaN for all, whose sign and payload are a processor's; or the error.
std::string outcome(Session& session, const program::SymbolSizes& sizes, const std::vector<std::vector<uint8_t>>& data) {
  const Program& p = session.model().program();
  std::vector<TensorView> views;
  for (size_t i = 0; i < p.inputs.size(); ++i) {
    const Value& v = p.value(p.inputs[i]);
    views.emplace_back(shape_at(v.shape, sizes), v.dtype, data[i].data());
  }
  const auto outputs = session.run(views);
  if (!outputs.ok()) return outputs.error().message;
  std::string bytes;
  for (const TensorView& view : *outputs) {
    const size_t begin = bytes.size();
    bytes.append(view.as<char>(), static_cast<size_t>(test::count_of(view.shape) * size_of(view.dtype)));
    for (size_t at = begin; at < bytes.size() && view.dtype == DType::kFloat32; at += sizeof(float))
      if (float value; std::memcpy(&value, bytes.data() + at, sizeof(value)), std::isnan(value))
        bytes.replace(at, sizeof(value), "NaN.");
  }
  return bytes;
}

// A device's session and one of the CPU, which get the same inputs.
class Pair {
 public:
  explicit Pair(const std::shared_ptr<const Model>& model)
      : cpu(session_on(model, "cpu")), device(session_on(model, "cuda")) {}
  explicit Pair(Program p) : Pair(Model::create(std::move(p)).value()) {}

  void expect_same(const program::SymbolSizes& sizes, const std::vector<std::vector<uint8_t>>& data) {
    const std::string expected = outcome(*cpu, sizes, data), found = outcome(*device, sizes, data);
    EXPECT_EQ(found.size(), expected.size());
    EXPECT_TRUE(found == expected) << (expected.starts_with("[") ? expected + " / " + found : std::string("other bits"));
  }
  // Runs with other inputs each, of which the first is put together step by step, and the second is a graph's.
  void expect_same_runs(const program::SymbolSizes& sizes, int runs = 3) {
    for (int i = 0; i < runs; ++i)
      expect_same(sizes, random_inputs(cpu->model().program(), sizes, static_cast<uint32_t>(i) + 1));
  }

  std::unique_ptr<Session> cpu, device;
};

// BITLAB_HOST_OPS for plans that are made meanwhile.
class HostOps {
 public:
  explicit HostOps(const std::string& names) { setenv("BITLAB_HOST_OPS", names.c_str(), 1); }
  ~HostOps() { unsetenv("BITLAB_HOST_OPS"); }
  HostOps(const HostOps&) = delete;
  HostOps& operator=(const HostOps&) = delete;
};

template <class T>
std::vector<uint8_t> as_bytes(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {bytes, bytes + values.size() * sizeof(T)};
}

}  // namespace
}  // namespace bitlab::runtime
