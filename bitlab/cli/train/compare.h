// A deployed model against its float32 twin in LibTorch: how fast, measured side by side.
#pragma once

#include "bitlab/data/image_spec.h"
#include "bitlab/models/model.h"
#include "bitlab/runtime/session.h"

namespace bitlab::cli {

struct Speed {
  double runtime_seconds = 0;   // a call of the deployed model
  double libtorch_seconds = 0;  // a call of the float32 model
};

// Medians over rounds that take turns, so that both see the same noise; both use as many threads as the session. `batch` random images a call.
// Errors: those of the runtime.
Result<Speed> compare_speed(runtime::Session& session, models::Model& float_model, const data::ImageSpec& image,
                            int64_t batch);

}  // namespace bitlab::cli
