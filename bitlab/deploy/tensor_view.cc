#include "bitlab/deploy/internal/tensor_view.h"

namespace bitlab::deploy {

Result<NamedTensors> run(runtime::Session& session, const NamedTensors& inputs) {
  std::vector<at::Tensor> kept;
  std::vector<runtime::NamedView> views;
  for (const auto& [name, tensor] : inputs) {
    kept.push_back(tensor.to(scalar_type(input_dtype(tensor.scalar_type()))).contiguous());
    views.push_back({name, view_of(kept.back())});
  }
  BITLAB_TRY(const auto outputs, session.run(views));
  NamedTensors results;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor result = at::empty(outputs[i].shape, scalar_type(outputs[i].dtype));
    BITLAB_RETURN_IF_ERROR(session.copy_output(i, result.mutable_data_ptr(), static_cast<int64_t>(result.nbytes())));
    results.set(session.model().program().outputs[i].name, result);
  }
  return results;
}

Result<NamedTensors> run(const program::Program& program, const NamedTensors& inputs) {
  BITLAB_TRY(auto model, runtime::Model::create(program));
  BITLAB_TRY(auto session, runtime::Session::create(model));
  return run(*session, inputs);
}

}  // namespace bitlab::deploy
