#include "bitlab/base/file.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitlab/base/version.h"

namespace bitlab {
namespace {

namespace fs = std::filesystem;

Failure system_error(const fs::path& path, std::string_view expectation) {
  const int code = errno;
  return make_error(code == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIoError, "[file] {}, got '{}' (path={})",
                    expectation, std::strerror(code), path.string());
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  bool close() {
    const bool closed = fd_ < 0 || ::close(fd_) == 0;
    fd_ = -1;
    return closed;
  }

 private:
  int fd_;
};

bool write_all(int fd, const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(fd, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

bool sync(const fs::path& path, int flags) {
  Descriptor fd(::open(path.c_str(), flags | O_CLOEXEC));
  return fd.valid() && ::fsync(fd.get()) == 0;
}

// Creates a uniquely named file next to `path`; O_CREAT honours the umask, which mkstemp would not.
int create_temporary(const fs::path& path, std::string& name) {
  static std::atomic<unsigned> counter{0};
  int fd = -1;
  do {
    name = fmt::format("{}.tmp.{}.{}", path.string(), ::getpid(), counter++);
    fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EEXIST);
  return fd;
}

// Whether a file of that name is there which a rename must not take away: a device or a pipe.
bool is_special(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

// Where links lead, if there is anything.
fs::path behind_links(const fs::path& path) {
  std::error_code none;
  if (!fs::is_symlink(path, none)) return path;
  const fs::path target = fs::canonical(path, none);
  return none ? path : target;
}

Status write_special(const fs::path& path, std::span<const uint8_t> content) {
  Descriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && write_all(fd.get(), content.data(), content.size()) && fd.close()) return {};
  return system_error(path, "a file that can be written");
}

}  // namespace

Result<std::string> read_file(const fs::path& path) {
  BITLAB_TRY(auto file, MappedFile::open(path));
  return std::string(file->bytes().begin(), file->bytes().end());
}

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const fs::path& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return system_error(path, "a readable file");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return system_error(path, "a readable file");
  if (!S_ISREG(info.st_mode))
    return make_error(ErrorCode::kIoError, "[file] a regular file, got a folder or device (path={})", path.string());
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ == 0) return std::shared_ptr<const MappedFile>(file);
  void* memory = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (memory == MAP_FAILED) {
    file->size_ = 0;
    return system_error(path, "a file that can be mapped");
  }
  file->data_ = static_cast<const uint8_t*>(memory);
  return std::shared_ptr<const MappedFile>(file);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

Status replace_file(const fs::path& path, const fs::path& temporary) {
  const bool replaced = sync(temporary, O_RDONLY) && ::rename(temporary.c_str(), path.c_str()) == 0;
  if (!replaced) {
    const Error error = system_error(path, "the whole content on disk");
    ::unlink(temporary.c_str());
    return error;
  }
  // A rename is on disk only once its folder is synced.
  if (!sync(folder_of(path), O_RDONLY | O_DIRECTORY)) return system_error(path, "a folder that can be synced");
  return {};
}

Status write_file_atomic(const fs::path& path, std::span<const uint8_t> content) {
  if (is_special(path)) return write_special(path, content);
  const fs::path target = behind_links(path);
  std::string temporary;
  Descriptor fd(create_temporary(target, temporary));
  if (!fd.valid()) return system_error(path, "a folder that can be written");
  if (write_all(fd.get(), content.data(), content.size()) && fd.close()) return replace_file(target, temporary);
  const Error error = system_error(path, "the whole content on disk");
  ::unlink(temporary.c_str());
  return error;
}

Status write_file_atomic(const fs::path& path, std::string_view content) {
  return write_file_atomic(path, std::span(reinterpret_cast<const uint8_t*>(content.data()), content.size()));
}

Result<AppendFile> AppendFile::open(const fs::path& path, size_t kept) {
  AppendFile file;
  file.path_ = path;
  file.fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  struct stat info {};
  const bool cut = file.fd_ >= 0 && ::fstat(file.fd_, &info) == 0 &&
                   (static_cast<size_t>(info.st_size) <= kept || ::ftruncate(file.fd_, static_cast<off_t>(kept)) == 0);
  if (!cut) return system_error(path, "a file that can be written");
  return file;
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status AppendFile::append(std::string_view bytes) {
  if (write_all(fd_, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size())) return {};
  return system_error(path_, "a file that can be written");
}

Status ensure_writable_folder(const fs::path& folder) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code)
    return make_error(ErrorCode::kIoError, "[file] a folder that can be created, got '{}' (path={})", code.message(),
                      folder.string());
  std::string temporary;
  Descriptor fd(create_temporary(folder / "probe", temporary));
  if (!fd.valid()) return system_error(folder, "a folder that can be written");
  ::unlink(temporary.c_str());
  return {};
}

fs::path installed_prefix() {
  Dl_info own;
  if (::dladdr(reinterpret_cast<const void*>(&installed_prefix), &own) == 0 || own.dli_fname == nullptr) return {};
  std::error_code code;
  // A program's own name may be one that a shell looked up.
  const std::string_view file = own.dli_fname;
  const fs::path path =
      file.find('/') == std::string_view::npos ? fs::read_symlink("/proc/self/exe", code) : fs::canonical(file, code);
  return code ? fs::path() : path.parent_path().parent_path();
}

std::vector<fs::path> shipped_folders(const fs::path& name) {
  std::vector<fs::path> folders{fs::path(source_dir()) / name};
  if (const fs::path prefix = installed_prefix(); !prefix.empty()) folders.push_back(prefix / "share" / "bitlab" / name);
  return folders;
}

}  // namespace bitlab
