// What layers return in a forward pass, of any network: by the operators that read their parameters.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/train/learner.h"

namespace bitlab::train {

// The paths of layers, each once, in the order of their parameters.
std::vector<std::string> layers_of(const std::vector<NamedParameter>& parameters);

// The output of a layer is the first result of the last outermost operator that reads one of its parameters, with its gradient function; a view of a parameter is
// none. A parameter that layers share is that of the first of them that is asked for.
class LayerOutputs : public ops::CallListener {
 public:
  LayerOutputs(const std::vector<NamedParameter>& parameters, const std::set<std::string>& layers);
  void enter(const at::RecordFunction& fn) override;
  void leave(const at::RecordFunction& fn) override;
  void rewritten() override {}

  // Forgets what was seen, as a forward pass begins.
  void clear();
  // Error (bitlab::Exception): InvalidArgument (a layer that was not called).
  const at::Tensor& of(const std::string& layer) const;

 private:
  const std::string* owner(const at::Tensor& tensor) const;

  std::unordered_map<const void*, std::string> owners_;  // by storage; empty: a layer that nobody asked for
  std::map<std::string, at::Tensor> outputs_;
  const std::string* layer_ = nullptr;  // of the outermost call under way
  int depth_ = 0;
};

}  // namespace bitlab::train
