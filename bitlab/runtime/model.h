// A loaded network: its graph, and its weights in the layouts that the machine's kernels read. Immutable; any number of sessions
// share one.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "bitlab/base/machine.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_gemm/pack.h"
#include "bitlab/program/program.h"

namespace bitlab::kernels {
struct CudaPlugin;
}

namespace bitlab::runtime {

class DeviceWeights;

struct LoadOptions {
  Machine machine = this_machine();
  kernels::Policy policy = kernels::Policy::from_environment();
};

// How weights of integers are packed for a reader.
struct Packing {
  kernels::TernaryLayout layout = kernels::TernaryLayout::kRows;
  int64_t groups = 1;     // of a convolution's channels
  bool is_table = false;  // rows are looked up
  bool operator==(const Packing&) const = default;
};

// A constant as it stays in memory: its elements, or packed codes with scales.
struct ResidentConstant {
  Packing packing{};
  AlignedBuffer plain;                                  // the elements of constants that are no weights of integers
  AlignedBuffer panels;                                 // those of weights of float products, in the layout of float_gemm
  program::Storage storage = program::Storage::kPlain;  // of `plain`: floats in 16 bits are kept for tables alone
  kernels::PackedTernary packed;                        // ternary constants, and those in int8
  AlignedBuffer scale, scale_neg;
  int64_t scale_stride = 0;   // 0 per tensor, 1 per output channel
  AlignedBuffer group_scale;  // float16 [groups, rows], instead of scale
  int64_t group = 0;
  int64_t bytes() const {
    return static_cast<int64_t>(plain.size() + panels.size() + packed.data.size() + scale.size() + scale_neg.size() +
                                group_scale.size());
  }
};

class Model {
 public:
  // Reads a .bit file, verifies it, packs its weights and releases the file. Errors: those of format::bit::load, NoKernel,
  // OutOfMemory.
  static Result<std::shared_ptr<const Model>> load(const std::filesystem::path& path, const LoadOptions& options = {});
  // The same from the bytes of one, which are copied.
  static Result<std::shared_ptr<const Model>> load_memory(std::span<const uint8_t> bytes, const LoadOptions& options = {});
  // The same from a program in memory, which is verified again.
  static Result<std::shared_ptr<const Model>> create(program::Program program, const LoadOptions& options = {});

  // The graph; its constants' data is gone.
  const program::Program& program() const { return program_; }
  // The copies of a constant in memory: one, but for weights that products read in different layouts (a convolution with groups and one
  // without). A table that is also the weight of a product, as a tied embedding is, shares the product's copy.
  std::span<const ResidentConstant> constant(program::ValueId id) const { return constants_[static_cast<size_t>(id)]; }
  // The copy that a node of program() reads as its weight of integers.
  const ResidentConstant& weight(const program::Node& node) const {
    return *weights_[static_cast<size_t>(&node - program_.nodes.data())];
  }
  // The weight of a float product, in panels; null for other values.
  const float* panels(program::ValueId id) const {
    return reinterpret_cast<const float*>(constants_[static_cast<size_t>(id)][0].panels.data());
  }
  // The elements of a constant that is no weight of integers, nor one that float products alone read; null for other values.
  const void* plain(program::ValueId id) const {
    const auto& copies = constants_[static_cast<size_t>(id)];
    return copies.empty() || copies[0].plain.size() == 0 ? nullptr : copies[0].plain.data();
  }
  const LoadOptions& options() const { return options_; }
  // What sessions on a device share of the model; made for the first of them, and gone with the last. `plugin`: of that device.
  std::shared_ptr<DeviceWeights> on_device(const kernels::CudaPlugin& plugin, int device) const;
  // Bytes that the weights take in memory: codes, scales and float constants.
  int64_t weight_bytes() const;
  // Bytes that the same weights take as float32.
  int64_t float32_weight_bytes() const;

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

 private:
  Model() = default;
  program::Program program_;
  std::vector<std::vector<ResidentConstant>> constants_;  // by value
  std::vector<const ResidentConstant*> weights_;          // by node
  LoadOptions options_;
  mutable std::mutex device_mutex_;
  mutable std::map<int, std::weak_ptr<DeviceWeights>> on_devices_;
};

}  // namespace bitlab::runtime
