// Files of known content from the network, by the command `curl`, into a folder of this user (docs/decisions/0026).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::data {

struct RemoteFile {
  std::string_view name;
  int64_t bytes = 0;
  std::string_view sha256;        // in hexadecimal
  std::vector<std::string> urls;  // mirrors, tried in this order
};

// Where downloads go: $BITLAB_CACHE_DIR, else $XDG_CACHE_HOME/bitlab, else ~/.cache/bitlab. Empty where none of these variables is set.
std::filesystem::path cache_folder();

// The file in `folder`, which is made where it is missing: as it is there if its checksum is right, else fetched from the first mirror that has the right
// content. A transfer that was interrupted goes on where it stopped (<name>.part). Nothing is fetched where $BITLAB_OFFLINE is set. Errors: NotFound, naming the
// file, its mirrors, what each said, and where to put the file by hand; Corrupt (a file that is there with another checksum), IoError.
Result<std::filesystem::path> fetch(const RemoteFile& file, const std::filesystem::path& folder);

}  // namespace bitlab::data
