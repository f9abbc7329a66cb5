// What a data set alone takes, as text (DataOptions::own).
#pragma once

#include <vector>

#include "bitlab/data/dataset.h"

namespace bitlab::data {

// Each: the fallback where the option is not given. Error: TypeMismatch, naming the set and the option.
Result<int64_t> whole_option(const DataOptions& options, std::string_view set, const std::string& key, int64_t fallback);
// Numbers between brackets, commas or spaces.
Result<std::vector<float>> floats_option(const DataOptions& options, std::string_view set, const std::string& key,
                                         std::vector<float> fallback);
std::string text_option(const DataOptions& options, const std::string& key, std::string_view fallback);

// Where nobody has split a data set, every tenth sample is one to test on.
constexpr bool is_in_split(size_t index, Split split) { return (index % 10 == 9) == (split == Split::kTest); }

// The option `errors`: whether samples that cannot be read are left out, with a warning that counts them ("skip"), or the first one is an error ("stop", without
// the option). Error: InvalidArgument.
Result<bool> skips_errors(const DataOptions& options, std::string_view set);
// The warning, where there is anything to warn of.
void warn_of_skipped(std::string_view set, int64_t skipped, int64_t all, std::string_view first);

}  // namespace bitlab::data
