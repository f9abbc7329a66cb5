#include "bitlab/data/internal/file_set.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <optional>

#include "bitlab/data/internal/byte_source.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlock = 512;
constexpr size_t kMaxUnpacked = size_t{8} << 30;

Error corrupt_tar(std::string_view expectation, const fs::path& path) {
  return make_error(ErrorCode::kCorrupt, "[tar] {}, got another (path={})", expectation, path.string());
}

// One header of a tar.
class TarHeader {
 public:
  explicit TarHeader(std::span<const uint8_t> block) : block_(block) {}

  bool is_end() const {
    return std::all_of(block_.begin(), block_.end(), [](uint8_t b) { return b == 0; });
  }
  // The sum of all bytes, with spaces in place of the sum itself.
  bool is_valid() const {
    const auto is_sum = [](size_t i) { return i >= 148 && i < 156; };
    size_t sum = 0;
    for (size_t i = 0; i < kBlock; ++i) sum += is_sum(i) ? ' ' : block_[i];
    return number(148, 8) == sum;
  }
  char type() const { return static_cast<char>(block_[156]); }
  // Nothing where it is no octal number, as sizes of more than 8 GiB are not.
  std::optional<size_t> size() const { return number(124, 12); }
  std::string name() const {
    const std::string prefix = text(257, 5) == "ustar" ? text(345, 155) : "";
    return prefix.empty() ? text(0, 100) : prefix + "/" + text(0, 100);
  }

 private:
  std::string text(size_t begin, size_t size) const {
    const auto field = block_.subspan(begin, size);
    return {field.begin(), std::find(field.begin(), field.end(), 0)};
  }
  std::optional<size_t> number(size_t begin, size_t size) const {
    std::string digits = text(begin, size);
    digits.erase(0, digits.find_first_not_of(' '));
    size_t value = 0;
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 8);
    const bool ends = end == digits.data() + digits.size() || *end == ' ';
    return failed == std::errc() && ends ? std::optional(value) : std::nullopt;
  }

  std::span<const uint8_t> block_;
};

// The path of a pax header: lines of "<length> key=value\n".
std::string pax_path(std::string_view records) {
  while (!records.empty()) {
    size_t length = 0;
    const auto [end, failed] = std::from_chars(records.data(), records.data() + records.size(), length);
    const auto head = static_cast<size_t>(end - records.data()) + 1;
    if (failed != std::errc() || length > records.size() || length <= head) return "";
    const std::string_view record = records.substr(head, length - head - 1);
    constexpr std::string_view kPath = "path=";
    if (record.starts_with(kPath)) return std::string(record.substr(kPath.size()));
    records.remove_prefix(length);
  }
  return "";
}

std::string cleaned(std::string name) {
  name.erase(std::find(name.begin(), name.end(), '\0'), name.end());
  while (name.starts_with("./")) name.erase(0, 2);
  return name;
}

}  // namespace

Status FileSet::list_folder() {
  std::error_code failed;
  for (auto it = fs::recursive_directory_iterator(path_, failed); !failed && it != fs::recursive_directory_iterator();
       it.increment(failed))
    if (it->is_regular_file(failed)) names_.push_back(it->path().lexically_relative(path_).generic_string());
  if (failed)
    return make_error(ErrorCode::kIoError, "[data] a folder to list, got '{}' (path={})", failed.message(), path_.string());
  std::sort(names_.begin(), names_.end());
  return {};
}

Status FileSet::list_tar() {
  BITLAB_TRY(file_, MappedFile::open(path_));
  bytes_ = file_->bytes();
  if (is_gzip(bytes_)) {
    ByteSource source(bytes_);
    unpacked_ = source.read_up_to(kMaxUnpacked);
    if (!source.complete()) return corrupt_tar("a whole gzip file of at most 8 GiB", path_);
    bytes_ = unpacked_;
  }
  std::map<std::string, Range> files;
  std::string long_name;
  for (size_t at = 0; at + kBlock <= bytes_.size();) {
    const TarHeader header(bytes_.subspan(at, kBlock));
    if (header.is_end()) break;
    const auto size = header.size();
    if (!header.is_valid() || !size || *size > bytes_.size() - at - kBlock)
      return corrupt_tar(fmt::format("a header and its content at byte {}", at), path_);
    const std::string_view content(reinterpret_cast<const char*>(bytes_.data()) + at + kBlock, *size);
    if (header.type() == 'L') {
      long_name = content;
    } else if (header.type() == 'x') {
      long_name = pax_path(content);
    } else {
      const std::string name = cleaned(long_name.empty() ? header.name() : long_name);
      if ((header.type() == '0' || header.type() == 0) && !name.empty()) files[name] = {at + kBlock, *size};
      long_name.clear();
    }
    at += kBlock + (*size + kBlock - 1) / kBlock * kBlock;
    if (at > bytes_.size()) return corrupt_tar("whole blocks", path_);
  }
  for (auto& [name, range] : files) names_.push_back(name), ranges_.push_back(range);
  return {};
}

Result<std::shared_ptr<const FileSet>> FileSet::open(const fs::path& path) {
  const std::shared_ptr<FileSet> set(new FileSet);
  set->path_ = path;
  std::error_code failed;
  set->is_tar_ = !fs::is_directory(path, failed);
  BITLAB_RETURN_IF_ERROR(set->is_tar_ ? set->list_tar() : set->list_folder());
  if (set->names_.empty())
    return make_error(ErrorCode::kNotFound, "[data] at least one file, got an empty {} (path={})",
                      set->is_tar_ ? "tar" : "folder", path.string());
  return std::shared_ptr<const FileSet>(set);
}

Result<std::vector<uint8_t>> FileSet::read(size_t index) const {
  if (is_tar_) {
    const auto content = bytes_.subspan(ranges_[index].begin, ranges_[index].size);
    return std::vector<uint8_t>(content.begin(), content.end());
  }
  BITLAB_TRY(const auto file, MappedFile::open(path_ / names_[index]));
  return std::vector<uint8_t>(file->bytes().begin(), file->bytes().end());
}

Result<size_t> FileSet::find(std::string_view name) const {
  for (size_t i = 0; i < names_.size(); ++i)
    if (names_[i] == name || names_[i].ends_with("/" + std::string(name))) return i;
  return make_error(ErrorCode::kNotFound, "[data] a file '{}', got none of that name (path={})", name, path_.string());
}

std::string FileSet::describe(size_t index) const {
  return is_tar_ ? path_.string() + ":" + names_[index] : (path_ / names_[index]).string();
}

}  // namespace bitlab::data
