// Several checkpoints under the name of one: "best-000120.ckpt" beside "best.ckpt".
#pragma once

#include <filesystem>

#include "bitlab/train/learner.h"

namespace bitlab::train {

// The file of a step of the optimizer beside `path`.
std::filesystem::path path_of_step(const std::filesystem::path& path, int64_t step);

// Makes `path` the file of a step, which exists: a hard link, or a copy where the file system has none; atomically. Error: IoError.
Status point_to_step(const std::filesystem::path& path, int64_t step);

// Nothing where there is none.
void remove_step(const std::filesystem::path& path, int64_t step);

}  // namespace bitlab::train
