#include "bitlab/deploy/internal/readers.h"

#include <algorithm>

#include "bitlab/ops/weight_cache.h"

namespace bitlab::deploy {
namespace {

const std::vector<const Call*>& find(const std::unordered_map<const void*, std::vector<const Call*>>& map, const void* key) {
  static const std::vector<const Call*> none;
  const auto found = map.find(key);
  return found == map.end() ? none : found->second;
}

}  // namespace

Readers::Readers(const Recording& recording) : outputs_(recording.outputs) {
  const std::vector<bool> live = live_parts(recording).calls;
  for (size_t i = 0; i < recording.calls.size(); ++i) {
    if (!live[i]) continue;
    const Call& call = recording.calls[i];
    for (const Argument& argument : call.arguments)
      for_each_tensor(argument.value, [&](const at::Tensor& tensor) {
        if (!tensor.defined() || !tensor.has_storage()) return;
        by_tensor_[tensor.unsafeGetTensorImpl()].push_back(&call);
        by_memory_[memory_of(tensor)].push_back(&call);
        for (const at::Tensor& source : ops::sources_of(tensor)) by_memory_[memory_of(source)].push_back(&call);
      });
  }
}

const std::vector<const Call*>& Readers::of(const at::Tensor& tensor) const {
  return find(by_tensor_, tensor.unsafeGetTensorImpl());
}

const std::vector<const Call*>& Readers::of_memory(const at::Tensor& tensor) const {
  return find(by_memory_, memory_of(tensor));
}

std::vector<std::string> unread_modules(const torch::nn::Module& module, const Readers& readers) {
  std::vector<std::string> unread;
  for (const auto& item : module.named_modules(std::string(), false)) {
    const auto parameters = item.value()->parameters(false);
    const auto is_unread = [&](const at::Tensor& p) { return p.defined() && readers.of_memory(p).empty(); };
    if (!parameters.empty() && std::all_of(parameters.begin(), parameters.end(), is_unread)) unread.push_back(item.key());
  }
  return unread;
}

}  // namespace bitlab::deploy
