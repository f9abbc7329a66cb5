// Precompiled for every target above the torch line. Sources still include what they use.
#pragma once
#include <fmt/core.h>
#include <torch/torch.h>
