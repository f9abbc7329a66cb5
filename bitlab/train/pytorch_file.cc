#include "bitlab/train/pytorch_file.h"

#include <algorithm>

#include "bitlab/base/text.h"
#include "bitlab/train/internal/pickle.h"
#include "bitlab/train/internal/pytorch_archive.h"
#include "bitlab/train/internal/pytorch_tensor.h"

namespace bitlab::train {
namespace {

using Kind = PickleValue::Kind;

// A small pickle can stand for a tree of any size.
constexpr size_t kMostTensors = 100'000;
constexpr uint64_t kMostEntries = 100'000;  // and one for each byte of the pickle

std::string type_name(const PickleValue& value) {
  if (value.kind != Kind::kObject) return kind_name(value);
  return is_tensor(value) ? "tensor" : maker(value);
}

bool has_key(std::span<const PickleValue* const> entries, std::string_view key) {
  for (size_t i = 0; i < entries.size(); i += 2)
    if (entries[i]->kind == Kind::kString && entries[i]->text == key) return true;
  return false;
}

bool is_container(const PickleValue& value) {
  return value.kind == Kind::kDict || value.kind == Kind::kSequence || (!is_tensor(value) && !value.entries().empty());
}

// What stands at a key of a container.
struct Item {
  std::string name;  // with the names of the containers that it is in
  const std::string& container;
  const PickleValue& value;
  std::string skipped;  // why nothing in it can be wanted: its type; "": a tensor or a container
};

// Visits what containers hold, from the root on. `visit(item)` answers whether to go on into a container.
template <class Visit>
class Walk {
 public:
  Walk(uint64_t pickle_size, Visit visit) : most_(kMostEntries + pickle_size), visit_(std::move(visit)) {}

  void enter(const PickleValue& container, const std::string& name) {
    path_.push_back(&container);
    if (container.kind == Kind::kSequence) {
      for (size_t i = 0; i < container.items.size(); ++i)
        take(name, std::to_string(i), /*has_name=*/true, *container.items[i]);
    } else {
      const auto entries = container.entries();
      for (size_t i = 0; i < entries.size(); i += 2)
        take(name, text_of(*entries[i]), has_name(*entries[i]), *entries[i + 1]);
    }
    path_.pop_back();
  }

 private:
  static constexpr size_t kMostLetters = 512, kMostDeep = 16;

  static bool has_name(const PickleValue& key) {
    return key.kind == Kind::kInt || (key.kind == Kind::kString && printable(key.text, kMostLetters) == key.text);
  }
  static std::string text_of(const PickleValue& key) {
    if (key.kind == Kind::kInt) return std::to_string(key.integer);
    return key.kind == Kind::kString ? printable(key.text, kMostLetters) : fmt::format("<{}>", printable(type_name(key)));
  }

  void take(const std::string& container, const std::string& key, bool has_name, const PickleValue& value) {
    count(1);
    Item item{container.empty() ? key : container + "." + key, container, value, {}};
    if (!has_name || item.name.size() > kMostLetters || key == "_extra_state" || key.ends_with("._extra_state"))
      item.skipped = type_name(value);
    else if (!is_tensor(value))
      item.skipped = why_not_into(value);
    if (visit_(item) && item.skipped.empty() && !is_tensor(value)) enter(value, item.name);
  }

  void count(uint64_t entries) {
    entries_ += entries;
    if (entries_ > most_) fail(ErrorCode::kCorrupt, "at most {} entries, got more", most_);
  }

  std::string why_not_into(const PickleValue& value) {
    if (!is_container(value)) return type_name(value);
    if (std::find(path_.begin(), path_.end(), &value) != path_.end()) return type_name(value) + " that it is in";
    if (path_.size() > kMostDeep) return fmt::format("{}, more than {} deep", type_name(value), kMostDeep);
    count(value.entries().size() / 2);  // an entry takes two bytes of the pickle or more, so that each may be counted twice
    return has_key(value.entries(), "param_groups") ? "state of an optimizer" : "";
  }

  const uint64_t most_;
  Visit visit_;
  uint64_t entries_ = 0;
  std::vector<const PickleValue*> path_;  // the containers that enter() is in
};

// Errors of a file's content travel as exceptions up to here.
template <class Function>
auto with_path(const std::filesystem::path& path, std::string_view name, const Function& function)
    -> Result<decltype(function())> {
  const std::string where = (name.empty() ? "" : fmt::format(" (name={})", name)) + fmt::format(" (path={})", path.string());
  try {
    return function();
  } catch (const Exception& error) {
    return make_error(error.code(), "[state_dict] {}{}", error.what(), where);
  } catch (const std::exception& error) {
    return make_error(ErrorCode::kCorrupt, "[state_dict] a file of torch.save, got '{}'{}",
                      printable(first_line(error.what())), where);
  }
}

}  // namespace

struct PytorchFile::Content {
  Content(const std::filesystem::path& path, const std::shared_ptr<const MappedFile>& file)
      : path(path), archive(file), tensors(archive, file->bytes().size()) {
    const std::string text = archive.text("data.pkl");
    pickle_size = text.size();
    pickle = Pickle::parse(text).value();
    root = &without_type_tag(pickle->root());
    if (!is_container(*root))
      fail(ErrorCode::kUnsupported,
           "a dictionary of tensors, got '{}'; save a module with torch.save(module.state_dict(), path)",
           printable(is_tensor(*root) ? maker(*root) : type_name(*root)));
  }

  std::filesystem::path path;
  PytorchArchive archive;
  TensorReader tensors;
  uint64_t pickle_size = 0;
  std::optional<Pickle> pickle;
  const PickleValue* root = nullptr;
};

Result<PytorchFile> PytorchFile::open(const std::filesystem::path& path) {
  BITLAB_TRY(std::shared_ptr<const MappedFile> mapped, MappedFile::open(path));
  return with_path(path, "", [&] {
    PytorchFile file;
    file.content_ = std::make_shared<Content>(path, mapped);
    const auto take = [&file](const Item& item) {
      if (!item.skipped.empty() || !is_tensor(item.value)) return true;
      if (file.entries_.size() == kMostTensors) fail(ErrorCode::kCorrupt, "at most {} tensors, got more", kMostTensors);
      file.entries_.push_back({item.name, item.container, sizes_of(item.value), &item.value});
      return true;
    };
    Walk(file.content_->pickle_size, take).enter(*file.content_->root, "");
    return file;
  });
}

Result<at::Tensor> PytorchFile::read(const Entry& entry) {
  return with_path(content_->path, entry.name,
                   [&] { return content_->tensors.read(*static_cast<const PickleValue*>(entry.identity)); });
}

std::vector<std::string> PytorchFile::skipped(const std::set<std::string>& wanted) const {
  constexpr size_t kMostLines = 100;
  std::vector<std::string> lines;
  size_t more = 0;
  const auto take = [&](const Item& item) {
    const auto inner = wanted.lower_bound(item.name + ".");
    const bool has_wanted = inner != wanted.end() && inner->starts_with(item.name + ".");
    if (item.skipped.empty() && (is_tensor(item.value) ? wanted.contains(item.name) : has_wanted)) return true;
    const std::string why = printable(item.skipped.empty() ? type_name(item.value) : item.skipped);
    if (lines.size() < kMostLines)
      lines.push_back(fmt::format("{} ({})", printable(item.name), why));
    else
      ++more;
    return false;
  };
  Walk(content_->pickle_size, take).enter(*content_->root, "");
  if (more > 0) lines.push_back(fmt::format("and {} more", more));
  return lines;
}

Result<State> read_pytorch_file(const std::filesystem::path& path) {
  BITLAB_TRY(PytorchFile file, PytorchFile::open(path));
  State state;
  for (const auto& entry : file.entries()) {
    BITLAB_TRY(at::Tensor tensor, file.read(entry));
    if (!state.emplace(entry.name, std::move(tensor)).second)
      return make_error(ErrorCode::kCorrupt, "[state_dict] each name once, got '{}' twice (path={})", entry.name,
                        path.string());
  }
  return state;
}

}  // namespace bitlab::train
