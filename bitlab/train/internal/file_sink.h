// A sink that is one file of records, one behind the other.
#pragma once

#include "bitlab/base/file.h"
#include "bitlab/train/sink.h"

namespace bitlab::train {

class FileSink : public Sink {
 public:
  FileSink(std::filesystem::path path, int64_t every) : path_(std::move(path)), every_(every) {}
  Status begin(const EventPosition& position) final;
  Status write(const Event& event) final;

 protected:
  // How many bytes at the beginning of the file are records behind `position`.
  virtual size_t behind(std::string_view bytes, const EventPosition& position) = 0;
  virtual std::string opening() { return ""; }  // of a file without records
  virtual Result<std::string> record(const Event& event) = 0;
  // Puts other content in place of the file's, atomically.
  Status replace(const std::string& content);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int64_t every_;
  AppendFile file_;
};

}  // namespace bitlab::train
