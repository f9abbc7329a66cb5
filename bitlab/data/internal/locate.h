// Where the files of a data set by name are.
#pragma once

#include <initializer_list>

#include "bitlab/data/dataset.h"
#include "bitlab/data/download.h"

namespace bitlab::data {

// The first of `names` that is in one of the folders, in order: `root` alone where it is given, else $BITLAB_DATA_DIR/<set>, data/<set> of the checkout
// and of the installation, <set> of the cache; else `remote`, fetched into the cache. Errors: NotFound, those of fetch().
Result<std::filesystem::path> locate(std::string_view set, const std::filesystem::path& root,
                                     std::initializer_list<std::string> names, const RemoteFile* remote = nullptr);

}  // namespace bitlab::data
