#include "bitlab/train/pytorch_file.h"

#include <algorithm>
#include <optional>

#include <ATen/ops/empty.h>
#include <c10/util/safe_numerics.h>

#include "bitlab/train/pickle.h"
#include "bitlab/train/pytorch_archive.h"

namespace bitlab::train {
namespace {

using Kind = PickleValue::Kind;

const PickleValue& argument(const PickleValue& sequence, size_t index, Kind kind, std::string_view what) {
  if (index >= sequence.items.size() || sequence.items[index]->kind != kind)
    fail(ErrorCode::kCorrupt, "{} in a pickled tensor, got another value", what);
  return *sequence.items[index];
}

std::vector<int64_t> sizes_of(const PickleValue& sequence) {
  constexpr size_t kMaxDimensions = 64;
  if (sequence.items.size() > kMaxDimensions)
    fail(ErrorCode::kCorrupt, "at most {} dimensions, got {}", kMaxDimensions, sequence.items.size());
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    sizes.push_back(argument(sequence, i, Kind::kInt, "sizes and strides").integer);
    if (sizes.back() < 0) fail(ErrorCode::kCorrupt, "sizes and strides of at least 0, got {}", sizes.back());
  }
  return sizes;
}

// The dtype of "torch.FloatStorage" or "torch.float32".
at::ScalarType dtype_of(const std::string& name) {
  constexpr std::string_view kModule = "torch.";
  for (int i = 0; i < static_cast<int>(at::ScalarType::NumOptions); ++i) {
    const auto type = static_cast<at::ScalarType>(i);
    if (name == fmt::format("torch.{}Storage", c10::toString(type))) return type;
  }
  const auto& types = c10::getStringToDtypeMap();
  const auto found = name.starts_with(kModule) ? types.find(name.substr(kModule.size())) : types.end();
  if (found == types.end()) fail(ErrorCode::kUnsupported, "a dtype of LibTorch, got '{}'", printable(name));
  return found->second;
}

bool is_plain(at::ScalarType type) {
  return at::isFloatingType(type) || at::isComplexType(type) || at::isIntegralType(type, /*includeBool=*/true);
}

// The name of what makes an object: its class, as far as the pickle tells.
std::string maker(const PickleValue& object) {
  const PickleValue& callee = *object.items[0];
  const auto& arguments = object.items[1]->items;
  const bool generic = callee.text == "copyreg._reconstructor" && !arguments.empty() && arguments[0]->kind == Kind::kGlobal;
  return generic ? arguments[0]->text : callee.text;
}

bool makes_tensor(const PickleValue& value) {
  return value.kind == Kind::kObject &&
         (maker(value).starts_with("torch._utils._rebuild") || maker(value).starts_with("torch._tensor._rebuild"));
}

class TensorReader {
 public:
  TensorReader(PytorchArchive& archive, uint64_t file_size) : archive_(archive), budget_(kValuesPerByte * file_size) {}

  at::Tensor read(const PickleValue& object) { return rebuild(object.items[0]->text, *object.items[1], 0); }

 private:
  static constexpr uint64_t kValuesPerByte = 64;  // views may repeat values (expand), but not without end

  // `callee` is a function of PyTorch's module torch/_utils.py.
  at::Tensor rebuild(const std::string& callee, const PickleValue& arguments, int depth) {
    constexpr int kMaxDepth = 4;  // a parameter of a subclass of a tensor
    if (depth > kMaxDepth || arguments.kind != Kind::kSequence)
      fail(ErrorCode::kCorrupt, "a pickled tensor, got a nest of {}", printable(callee));
    if (callee == "torch._utils._rebuild_parameter" || callee == "torch._utils._rebuild_parameter_with_state") {
      const PickleValue& data = argument(arguments, 0, Kind::kObject, "a tensor");
      return rebuild(data.items[0]->text, *data.items[1], depth + 1);
    }
    if (callee == "torch._tensor._rebuild_from_type_v2")
      return rebuild(argument(arguments, 0, Kind::kGlobal, "a function").text,
                     argument(arguments, 2, Kind::kSequence, "arguments"), depth + 1);
    if (callee == "torch._utils._rebuild_tensor" || callee == "torch._utils._rebuild_tensor_v2")
      return strided(arguments, {});
    if (callee == "torch._utils._rebuild_tensor_v3")
      return strided(arguments, dtype_of(argument(arguments, 6, Kind::kGlobal, "a dtype").text));
    fail(ErrorCode::kUnsupported, "dense tensors, got one that {} makes", printable(callee));
  }

  // (storage, offset, sizes, strides, ...), the storage as ("storage", its class, its record, device, count).
  at::Tensor strided(const PickleValue& arguments, std::optional<at::ScalarType> dtype) {
    const PickleValue& id = *argument(arguments, 0, Kind::kPersistent, "a storage").items[0];
    const at::ScalarType type = dtype ? *dtype : dtype_of(argument(id, 1, Kind::kGlobal, "the class of a storage").text);
    if (!is_plain(type)) fail(ErrorCode::kUnsupported, "dense tensors, got {}", c10::toString(type));
    const c10::Storage& storage = storage_of(argument(id, 2, Kind::kString, "the name of a storage").text);
    const int64_t offset = argument(arguments, 1, Kind::kInt, "an offset").integer;
    const auto sizes = sizes_of(argument(arguments, 2, Kind::kSequence, "sizes"));
    const auto strides = sizes_of(argument(arguments, 3, Kind::kSequence, "strides"));
    if (count_values(storage.nbytes() / c10::elementSize(type), offset, sizes, strides) == 0) return at::empty(sizes, type);
    return at::empty({0}, type).set_(storage, offset, sizes, strides).contiguous();
  }

  const c10::Storage& storage_of(const std::string& key) {
    const auto found = storages_.find(key);
    return found != storages_.end() ? found->second : storages_.emplace(key, archive_.storage("data/" + key)).first->second;
  }

  // Those of a tensor, which must lie within the `available` ones of its storage.
  uint64_t count_values(uint64_t available, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides) {
    if (offset < 0 || sizes.size() != strides.size())
      fail(ErrorCode::kCorrupt, "a stride for each dimension and an offset of at least 0, got {} strides and {}",
           strides.size(), offset);
    uint64_t count = 1, last = static_cast<uint64_t>(offset);
    bool overflow = false;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto size = static_cast<uint64_t>(sizes[i]), stride = static_cast<uint64_t>(strides[i]);
      uint64_t step = 0;
      overflow |= c10::mul_overflows(count, size, &count);
      overflow |= size > 0 && c10::mul_overflows(size - 1, stride, &step);
      overflow |= c10::add_overflows(last, step, &last);
    }
    if (overflow || (count > 0 && last >= available))
      fail(ErrorCode::kCorrupt, "tensors within their storages, got sizes {} with strides {} from {} on in one of {} values",
           c10::str(sizes), c10::str(strides), offset, available);
    if (count > budget_) fail(ErrorCode::kCorrupt, "at most {} values for each byte of the file, got more", kValuesPerByte);
    budget_ -= count;
    return count;
  }

  PytorchArchive& archive_;
  uint64_t budget_;
  std::map<std::string, c10::Storage> storages_;
};

// --- names
std::string type_name(const PickleValue& value) {
  switch (value.kind) {
    case Kind::kInt:
      return "int";
    case Kind::kString:
      return "str";
    case Kind::kSequence:
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kObject:
      return maker(value);
    default:
      return value.text;
  }
}

const PickleValue* find(const PickleValue& dict, std::string_view key) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2)
    if (dict.items[i]->kind == Kind::kString && dict.items[i]->text == key) return dict.items[i + 1];
  return nullptr;
}

class Flattening {
 public:
  explicit Flattening(TensorReader& tensors) : tensors_(tensors) {}

  StateDict run(const PickleValue& root) {
    for (const std::string_view wrapper : {"state_dict", "model_state_dict", "model"})
      if (const PickleValue* inner = find(root, wrapper); inner != nullptr && inner->kind == Kind::kDict) {
        for (size_t i = 0; i < root.items.size(); i += 2)
          if (root.items[i + 1] != inner) skip(key_of(*root.items[i]), type_name(*root.items[i + 1]));
        take_all(*inner, "", 0);
        return std::move(found_);
      }
    take_all(root, "", 0);
    return std::move(found_);
  }

 private:
  void take_all(const PickleValue& dict, const std::string& prefix, int depth) {
    constexpr int kMaxDepth = 16;  // dictionaries may hold themselves
    if (depth > kMaxDepth) fail(ErrorCode::kCorrupt, "dictionaries at most {} deep, got a deeper one", kMaxDepth);
    for (size_t i = 0; i < dict.items.size(); i += 2) take(prefix + key_of(*dict.items[i]), *dict.items[i + 1], depth);
  }

  void take(const std::string& name, const PickleValue& value, int depth) {
    constexpr int64_t kMaxEntries = 100'000;  // a small pickle can stand for a tree of any size
    if (++entries_ > kMaxEntries) fail(ErrorCode::kCorrupt, "at most {} entries, got more", kMaxEntries);
    if (makes_tensor(value)) {
      if (!found_.tensors.emplace(name, tensors_.read(value)).second)
        fail(ErrorCode::kCorrupt, "each name once, got '{}' twice", name);
    } else if (value.kind != Kind::kDict) {
      skip(name, type_name(value));
    } else if (find(value, "param_groups") != nullptr) {
      skip(name, "state of an optimizer");
    } else {
      take_all(value, name + ".", depth + 1);
    }
  }

  void skip(const std::string& name, const std::string& type) {
    found_.skipped.push_back(fmt::format("{} ({})", name, printable(type)));
  }

  static std::string key_of(const PickleValue& key) {
    if (key.kind == Kind::kInt) return std::to_string(key.integer);
    if (key.kind != Kind::kString || printable(key.text) != key.text)
      fail(ErrorCode::kCorrupt, "keys that are numbers or short printable names, got '{}'", printable(key.text));
    return key.text;
  }

  TensorReader& tensors_;
  StateDict found_;
  int64_t entries_ = 0;
};

StateDict read(std::shared_ptr<const MappedFile> file) {
  const uint64_t size = file->bytes().size();
  PytorchArchive archive(std::move(file));
  const Pickle pickle = Pickle::parse(archive.text("data.pkl")).value();
  const PickleValue* root = &pickle.root();
  // torch::jit::pickle_save wraps its dictionary with the dictionary's type.
  if (root->kind == Kind::kObject && maker(*root) == "torch.jit._pickle.restore_type_tag")
    root = &argument(*root->items[1], 0, Kind::kDict, "a dictionary");
  if (root->kind != Kind::kDict)
    fail(ErrorCode::kUnsupported,
         "a dictionary of tensors, got '{}'; save a module with torch.save(module.state_dict(), path)",
         printable(type_name(*root)));
  TensorReader tensors(archive, size);
  return Flattening(tensors).run(*root);
}

}  // namespace

Result<StateDict> read_pytorch_file(const std::filesystem::path& path) {
  BITLAB_TRY(auto file, MappedFile::open(path));
  const auto with_path = [&path](ErrorCode code, std::string_view text) {
    return make_error(code, "[state_dict] {} (path={})", text, path.string());
  };
  try {
    return read(std::move(file));
  } catch (const Exception& error) {
    return with_path(error.code(), error.what());
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    return with_path(ErrorCode::kCorrupt,
                     fmt::format("a file of torch.save, got '{}'", printable(what.substr(0, what.find('\n')))));
  }
}

}  // namespace bitlab::train
