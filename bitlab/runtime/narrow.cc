#include "bitlab/runtime/internal/narrow.h"

#include <algorithm>

namespace bitlab::runtime {
namespace {

using program::Program;
using program::ValueId;

// What the readers of each value agree on; none where they do not, or where one is no convolution.
std::vector<Narrow> read_as(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes,
                            const std::vector<Fusion>& fusions) {
  const Program& p = model.program();
  std::vector<Narrow> wanted(p.values.size());
  std::vector<bool> refused(p.values.size());
  for (const program::Output& output : p.outputs) refused[static_cast<size_t>(output.value)] = true;
  for (const Fusion& fusion : fusions) {
    const Narrow own = narrow_input({model, layouts, fusion.head(), sizes, 1});
    for (size_t place = 0; place < fusion.inputs.size(); ++place) {
      if (fusion.inputs[place] == program::kNone) continue;
      const auto i = static_cast<size_t>(fusion.inputs[place]);
      if (place != 0 || !own || (wanted[i] && wanted[i] != own)) refused[i] = true;
      wanted[i] = own;
    }
  }
  for (size_t i = 0; i < wanted.size(); ++i)
    if (refused[i]) wanted[i] = {};
  return wanted;
}

}  // namespace

std::vector<Narrow> narrow_values(const Model& model, const Layouts& layouts, const program::SymbolSizes& sizes,
                                  const std::vector<Fusion>& fusions, const std::vector<Chain>& chains) {
  const std::vector<Narrow> wanted = read_as(model, layouts, sizes, fusions);
  std::vector<Narrow> narrow(wanted.size());
  for (size_t i = 0; i < fusions.size(); ++i) {
    if (fusions[i].outputs().size() != 1) continue;
    const auto id = static_cast<size_t>(fusions[i].outputs()[0]);
    const StepContext context{model, layouts, fusions[i].head(), sizes, 1, &chains[i]};
    if (wanted[id] && can_narrow(context)) narrow[id] = wanted[id];
  }
  return narrow;
}

}  // namespace bitlab::runtime
