// The zip file that torch.save writes: a pickle, and a record for each storage.
#pragma once

#include <caffe2/serialize/inline_container.h>
#include <memory>
#include <string>

#include <c10/core/Storage.h>

#include "bitlab/base/file.h"

namespace bitlab::train {

// Errors travel as exceptions, without the path, up to PytorchFile: LibTorch's reader throws, too.
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
  throw Exception(make_error(code, text, std::forward<Args>(args)...));
}

// The beginning of a text from a file, for a message of one line.
std::string printable(std::string_view text, size_t most_letters = 100);

class PytorchArchive {
 public:
  // Refuses what is no such file, and says what it is.
  explicit PytorchArchive(std::shared_ptr<const MappedFile> file);
  std::string text(const std::string& record);
  c10::Storage storage(const std::string& record);

 private:
  std::tuple<at::DataPtr, size_t> read(const std::string& record);

  caffe2::serialize::PyTorchStreamReader reader_;
  size_t
      budget_;  // PyTorch stores records as they are, so together they are no longer than the file: what claims more is a bomb
};

}  // namespace bitlab::train
