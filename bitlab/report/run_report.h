// The page of a training run: what its folder tells.
#pragma once

#include <filesystem>
#include <string>

#include "bitlab/base/result.h"

namespace bitlab::report {

// Curves of the losses, the metrics and the learning rate, statistics of layers, the confusion matrix, time by phase, environment and config, from
// log.jsonl, report.json, environment.json and config.yaml; what is not there is left out. A run that goes on, or that was killed, has a page, too:
// a line of the log that is not whole is passed over. Errors: NotFound (neither a log nor a report), IoError, Corrupt (a file that is there and is not
// JSON of its form).
Result<std::string> run_page(const std::filesystem::path& folder);

}  // namespace bitlab::report
