// Sinks of training's events, for the trainer.
#pragma once

#include "bindings.h"
#include <memory>
#include <vector>

#include "bitlab/train/sink.h"

namespace bitlab::python {

// Those of BitLab as they are, other objects by their write().
std::vector<std::shared_ptr<train::Sink>> sinks_of(const nanobind::list& objects);

// Metrics, or the numbers of events, by name.
nanobind::dict dict_of(const std::vector<train::Metric>& metrics);

void bind_sinks(nanobind::module_& m);

}  // namespace bitlab::python
