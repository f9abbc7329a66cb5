#include "bitlab/train/internal/pytorch_archive.h"

#include <algorithm>
#include <caffe2/serialize/read_adapter_interface.h>
#include <cstring>

#include "bitlab/base/text.h"

namespace bitlab::train {
namespace {

using Bytes = std::span<const uint8_t>;

// Why bytes that do not begin like a zip file cannot be read.
void check_format(Bytes bytes) {
  constexpr std::string_view kZip = "PK\x03\x04", kLegacy = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 64));
  if (head.starts_with(kZip)) return;
  if (head.size() > 2 && head.substr(2).starts_with(kLegacy))
    fail(
        ErrorCode::kUnsupported,
        "the zip format of torch.save, got the format before PyTorch 1.6; convert it with torch.save(torch.load(old), new)");
  uint64_t header = 0;
  head.copy(reinterpret_cast<char*>(&header), sizeof header);
  if (head.size() > 8 && head[8] == '{' && header < bytes.size())
    fail(ErrorCode::kUnsupported,
         "the zip format of torch.save, got safetensors; convert it with torch.save(safetensors.torch.load_file(old), new)");
  fail(ErrorCode::kCorrupt, "a zip file as torch.save writes, got {} bytes that begin with '{}'", bytes.size(),
       printable(head.substr(0, 8)));
}

class Memory final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit Memory(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}
  size_t size() const override { return file_->bytes().size(); }
  size_t read(uint64_t position, void* to, size_t count, const char*) const override {
    const Bytes bytes = file_->bytes();
    if (position > bytes.size()) return 0;
    count = std::min(count, bytes.size() - position);
    std::memcpy(to, bytes.data() + position, count);
    return count;
  }

 private:
  std::shared_ptr<const MappedFile> file_;
};

std::shared_ptr<Memory> checked(std::shared_ptr<const MappedFile> file) {
  check_format(file->bytes());
  return std::make_shared<Memory>(std::move(file));
}

}  // namespace

std::string printable(std::string_view text, size_t most_letters) { return one_line(text.substr(0, most_letters)); }

PytorchArchive::PytorchArchive(std::shared_ptr<const MappedFile> file)
    : reader_(checked(file)), budget_(file->bytes().size()) {
  if (reader_.hasRecord("constants.pkl"))
    fail(ErrorCode::kUnsupported,
         "a state_dict, got a TorchScript archive; save with torch.save(module.state_dict(), path)");
  if (!reader_.hasRecord("byteorder")) return;
  if (const std::string order = text("byteorder"); order != "little")
    fail(ErrorCode::kUnsupported, "little-endian tensors, got '{}'", printable(order));
}

std::string PytorchArchive::text(const std::string& record) {
  const auto [data, size] = read(record);
  return {static_cast<const char*>(data.get()), size};
}

c10::Storage PytorchArchive::storage(const std::string& record) {
  auto [data, size] = read(record);
  return {c10::Storage::use_byte_size_t(), size, std::move(data)};
}

std::tuple<at::DataPtr, size_t> PytorchArchive::read(const std::string& record) {
  if (!reader_.hasRecord(record)) fail(ErrorCode::kCorrupt, "a record '{}', got none", printable(record));
  const size_t size = reader_.getRecordSize(record);
  if (size > budget_) fail(ErrorCode::kCorrupt, "records within the file, got {} bytes for '{}'", size, printable(record));
  budget_ -= size;
  return reader_.getRecord(record);
}

}  // namespace bitlab::train
