// Values that are derived from tensors, kept as long as the tensors live and stay as they are.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitlab::ops {

// What tells whether a tensor is the one that was seen, with the values that it had. A change shows in the version (in-place operators, copy_
// of load_state_dict) or in storage and data (set_data, Module::to, torch::load). Weak references keep addresses from being used again.
class SeenTensor {
 public:
  SeenTensor();
  explicit SeenTensor(const at::Tensor& tensor);

  bool is(const at::Tensor& tensor) const;
  bool expired() const { return defined_ && tensor_.expired(); }
  // The tensor, where it still lives.
  at::Tensor lock() const;

  // Whether a change of the tensor can be seen: inference tensors have no version.
  static bool is_traceable(const at::Tensor& tensor) { return !tensor.defined() || !tensor.is_inference(); }

 private:
  bool defined_ = false;
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor_;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_;
  const void* data_ = nullptr;
  int64_t version_ = 0;
  std::vector<int64_t> sizes_, strides_;
};

// Thread-safe. Two threads that miss at the same time both make the value, and the later one is kept. `Use`, with ==, is whatever else a value
// depends on: a tensor may have a value for each use.
template <class Use, class Value>
class TensorCache {
 public:
  // The value for `sources`, whose first tensor is defined, and `use`; that of `make()`, a shared_ptr, where none is kept. Values of inference
  // tensors, which change unseen, are made each time.
  template <class Make>
  std::shared_ptr<const Value> get(const std::vector<at::Tensor>& sources, const Use& use, Make make) {
    if (!keeps(sources)) return make();
    if (auto kept = find(sources, use)) return kept;
    Entry entry{{sources.begin(), sources.end()}, use, nullptr};  // as the sources are before they are read
    entry.value = make();
    return keep(sources[0].unsafeGetTensorImpl(), std::move(entry));
  }

  // Whether a value for these sources is kept.
  static bool keeps(const std::vector<at::Tensor>& sources) {
    return std::all_of(sources.begin(), sources.end(), SeenTensor::is_traceable);
  }

  // The value for one tensor and `use`, where one is kept.
  std::shared_ptr<const Value> find(const at::Tensor& tensor, const Use& use) const {
    return SeenTensor::is_traceable(tensor) ? find(std::vector<at::Tensor>{tensor}, use) : nullptr;
  }

  // Drops what was derived from tensors the first of which is `tensor`.
  void forget(const at::Tensor& tensor) {
    const std::lock_guard lock(mutex_);
    entries_.erase(tensor.unsafeGetTensorImpl());
  }

  // How many values are kept; those of dead tensors leave when another is added.
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  struct Entry {
    std::vector<SeenTensor> sources;
    Use use;
    std::shared_ptr<const Value> value;

    bool has_expired() const {
      return std::any_of(sources.begin(), sources.end(), [](const SeenTensor& seen) { return seen.expired(); });
    }
  };

  std::shared_ptr<const Value> find(const std::vector<at::Tensor>& sources, const Use& use) const {
    const std::lock_guard lock(mutex_);
    const auto [first, last] = entries_.equal_range(sources.at(0).unsafeGetTensorImpl());
    for (auto i = first; i != last; ++i) {
      const Entry& entry = i->second;
      const auto same = [](const SeenTensor& seen, const at::Tensor& tensor) { return seen.is(tensor); };
      if (entry.use == use && std::equal(entry.sources.begin(), entry.sources.end(), sources.begin(), sources.end(), same))
        return entry.value;
    }
    return nullptr;
  }

  std::shared_ptr<const Value> keep(const c10::TensorImpl* key, Entry entry) {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [&](const auto& old) {
      return old.second.has_expired() || (old.first == key && old.second.use == entry.use);
    });
    return entries_.emplace(key, std::move(entry))->second.value;
  }

  mutable std::mutex mutex_;
  std::unordered_multimap<const c10::TensorImpl*, Entry> entries_;  // by the first source
};

}  // namespace bitlab::ops
