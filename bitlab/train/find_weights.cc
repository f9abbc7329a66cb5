#include "bitlab/train/find_weights.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "bitlab/base/internal/nearest.h"

namespace bitlab::train {
namespace {

constexpr std::array<std::string_view, 2> kWrappers{"module", "_orig_mod"};
constexpr std::array<std::string_view, 3> kConventional{"state_dict", "model_state_dict", "model"};
constexpr std::array<std::string_view, 11> kAuxiliary{"ema",     "swa",      "avg",  "average", "averaged", "shadow",
                                                      "teacher", "momentum", "grad", "grads",   "gradients"};

bool is_in(const auto& list, std::string_view word) { return std::find(list.begin(), list.end(), word) != list.end(); }

// The parts of "a.b.c" between dots.
std::vector<std::string_view> components(std::string_view name) {
  std::vector<std::string_view> list;
  for (size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.')) {
    list.push_back(name.substr(0, dot));
    name.remove_prefix(dot + 1);
  }
  list.push_back(name);
  return list;
}

// "a.module.weight" as "a.weight".
std::string without_wrappers(std::string_view name) {
  std::string shorter;
  const auto parts = components(name);
  for (size_t i = 0; i < parts.size(); ++i)
    if (i + 1 == parts.size() || !is_in(kWrappers, parts[i])) shorter += std::string(parts[i]) + ".";
  shorter.pop_back();
  return shorter;
}

bool is_conventional(std::string_view key) {
  const auto parts = components(key);
  return key.empty() || std::all_of(parts.begin(), parts.end(), [](std::string_view part) {
           return is_in(kConventional, part) || is_in(kWrappers, part);
         });
}

bool is_auxiliary(std::string_view key) {
  std::string words(key);
  std::replace_if(
      words.begin(), words.end(), [](char c) { return c == '_' || c == '-' || c == ' '; }, '.');
  std::transform(words.begin(), words.end(), words.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  const auto parts = components(words);
  return std::any_of(parts.begin(), parts.end(), [](std::string_view part) { return is_in(kAuxiliary, part); });
}

// The model's names, to be found by those of a file.
class ModelNames {
 public:
  explicit ModelNames(const State& model) : model_(model) {
    for (const auto& [name, tensor] : model) {
      const auto [place, is_new] = plain_.emplace(without_wrappers(name), &name);
      if (!is_new) place->second = nullptr;  // "module.w" beside "w": these are told apart
    }
  }
  struct Match {
    const std::string* name = nullptr;
    bool is_exact = false;
  };
  Match find(std::string_view name) const {
    if (const auto exact = model_.find(std::string(name)); exact != model_.end()) return {&exact->first, true};
    const auto plain = plain_.find(without_wrappers(name));
    return plain == plain_.end() ? Match{} : Match{plain->second, false};
  }

 private:
  const State& model_;
  std::map<std::string, const std::string*> plain_;
};

// Without the groups of names of which a file may lack all.
std::vector<std::vector<std::string>> required(std::vector<std::vector<std::string>> groups, const NamePredicate& may_miss) {
  const auto is_optional = [&](const std::string& name) {
    constexpr std::string_view kCount = ".num_batches_tracked";
    return (may_miss && may_miss(name)) || name == kCount.substr(1) || name.ends_with(kCount);
  };
  std::erase_if(groups, [&](const auto& names) { return std::all_of(names.begin(), names.end(), is_optional); });
  return groups;
}

struct Part {
  std::string key;
  bool is_dictionary = false;  // or names with one beginning within a dictionary
  struct Match {
    size_t entry;
    bool is_exact;
  };
  std::map<std::string, Match> matches{};  // by the model's name
  size_t same_shape = 0;
  std::optional<std::string> twice{};  // a name of the model that two entries have
};

class Search {
 public:
  Search(const PytorchFile& file, const State& model, const WeightsOptions& options)
      : file_(file),
        model_(model),
        options_(options),
        names_(model),
        required_(required(tied_names(model), options.may_miss)),
        root_(options.key == "." ? "" : options.key) {
    for (const auto& [name, tensor] : model) most_components_ = std::max(most_components_, components(name).size());
    most_components_ += components(options.prefix).size();
  }

  Result<FoundWeights> run() {
    if (file_.entries().empty())
      return make_error(ErrorCode::kUnsupported,
                        "[state_dict] tensors in the file, got {}; save a module with torch.save(module.state_dict(), path)",
                        listed(file_.skipped({})));
    BITLAB_RETURN_IF_ERROR(check_key());
    for (size_t i = 0; i < file_.entries().size(); ++i) match(i);
    BITLAB_TRY(const Part part, choose());
    return collect(part);
  }

 private:
  using Entry = PytorchFile::Entry;

  static std::string listed(std::vector<std::string> texts) {
    constexpr size_t kMost = 10;
    const size_t more = texts.size() - std::min(texts.size(), kMost);
    texts.resize(texts.size() - more);
    if (more > 0) texts.back() += fmt::format(" and {} more", more);
    return texts.empty() ? "none" : fmt::format("{}", fmt::join(texts, ", "));
  }
  static std::string joined(const std::string& key, std::string_view name) {
    return key.empty() ? std::string(name) : fmt::format("{}.{}", key, name);
  }
  static std::string_view last_of(std::string_view name) { return name.substr(name.rfind('.') + 1); }
  static bool is_below(std::string_view name, std::string_view key) {
    return key.empty() || (name.starts_with(key) && name.size() > key.size() && name[key.size()] == '.');
  }
  std::string name_in(const Entry& entry, std::string_view key) const {
    const std::string_view name = std::string_view(entry.name).substr(key.empty() ? 0 : key.size() + 1);
    return std::string(name.substr(name.starts_with(options_.prefix) ? options_.prefix.size() : 0));
  }

  Status check_key() const {
    if (std::any_of(file_.entries().begin(), file_.entries().end(),
                    [this](const Entry& e) { return is_below(e.name, root_); }))
      return {};
    constexpr size_t kMostCompared = 1000;
    std::vector<std::string> keys = all_keys();
    keys.resize(std::min(keys.size(), kMostCompared));
    const std::string* meant = nearest(root_, keys, root_.size() / 2);
    const std::string near = meant == nullptr ? "" : fmt::format("; did you mean '{}'?", *meant);
    for (std::string& key : keys) key = fmt::format("'{}'", key);
    return make_error(ErrorCode::kUnknownName, "[state_dict] a key of the file with tensors, got '{}'{} (keys: {})",
                      options_.key, near, listed(keys));
  }
  // Those of containers, the outermost first.
  std::vector<std::string> all_keys() const {
    std::set<std::string> known;
    for (const Entry& entry : file_.entries())
      for (size_t end = 0; end != std::string::npos && !entry.container.empty();) {
        end = entry.container.find('.', end + 1);
        known.insert(entry.container.substr(0, end));
      }
    std::vector<std::string> keys(known.begin(), known.end());
    const auto dots = [](const std::string& key) { return std::count(key.begin(), key.end(), '.'); };
    std::stable_sort(keys.begin(), keys.end(), [&](const auto& a, const auto& b) { return dots(a) < dots(b); });
    return keys;
  }

  // Enters an entry into every part for which its name has a meaning to the model, from the shortest name in a part on: one that has more
  // components than any of the model has none.
  void match(size_t index) {
    constexpr int kMostKeys = 64;  // for names of many wrappers
    const std::string& name = file_.entries()[index].name;
    size_t end = name.size(), count = 0;
    for (int i = 0; i < kMostKeys; ++i) {
      const size_t dot = end == 0 ? std::string::npos : name.rfind('.', end - 1);
      const size_t start = dot == std::string::npos ? 0 : dot + 1;
      if (!is_in(kWrappers, std::string_view(name).substr(start, end - start))) ++count;
      if (count > most_components_) return;
      if (dot == std::string::npos) return add("", index);
      if (dot > 0) add(name.substr(0, dot), index);
      end = dot;
    }
  }

  void add(const std::string& key, size_t index) {
    if (key != root_ && (!is_below(key, root_) || is_in(kWrappers, last_of(key)))) return;
    const Entry& entry = file_.entries()[index];
    const auto found = names_.find(name_in(entry, key));
    if (found.name == nullptr) return;
    Part& part = parts_[key];
    part.key = key;
    part.is_dictionary |= key == root_ || entry.container == key || is_below(entry.container, key);
    const auto [place, is_new] = part.matches.emplace(*found.name, Part::Match{index, found.is_exact});
    if (is_new) return;
    if (place->second.is_exact && found.is_exact) part.twice = *found.name;
    if (found.is_exact) place->second = {index, true};
  }

  // How many tensors that the model needs a part lacks.
  std::ptrdiff_t lacks(const Part& part) const {
    const auto has = [&](const std::string& name) { return part.matches.contains(name); };
    return std::count_if(required_.begin(), required_.end(),
                         [&](const auto& names) { return std::none_of(names.begin(), names.end(), has); });
  }

  // The parts that match best.
  std::vector<Part> best() {
    std::vector<Part> list;
    for (auto& [key, part] : parts_) {
      if (!part.is_dictionary && lacks(part) > 0) continue;
      part.same_shape =
          static_cast<size_t>(std::count_if(part.matches.begin(), part.matches.end(), [this](const auto& match) {
            const auto& sizes = file_.entries()[match.second.entry].sizes;
            return sizes && model_.at(match.first).sizes() == *sizes;
          }));
      const auto score = [](const Part& p) { return std::pair(p.same_shape, p.matches.size()); };
      if (!list.empty() && score(part) > score(list[0])) list.clear();
      if (list.empty() || score(part) == score(list[0])) list.push_back(part);
    }
    return list;
  }

  // Whether two parts are one dictionary, or two of the same tensors.
  bool is_same(const Part& a, const Part& b) const {
    return std::equal(
        a.matches.begin(), a.matches.end(), b.matches.begin(), b.matches.end(), [this](const auto& x, const auto& y) {
          return x.first == y.first && file_.entries()[x.second.entry].identity == file_.entries()[y.second.entry].identity;
        });
  }

  Result<Part> choose() {
    std::vector<Part> list = best();
    if (list.empty()) return fallback();
    const std::string inner_root = root_.empty() ? "" : root_ + ".";
    const auto rank = [&](const Part& part) {
      if (part.key == root_) return 0;
      return is_conventional(std::string_view(part.key).substr(inner_root.size())) ? 1 : 2;
    };
    std::stable_sort(list.begin(), list.end(), [&](const Part& a, const Part& b) { return rank(a) < rank(b); });
    std::vector<Part> others;
    for (size_t i = 1; i < list.size(); ++i)
      if (!is_same(list[0], list[i])) others.push_back(list[i]);
    const auto is_clear = [&](const Part& other) {
      return is_auxiliary(std::string_view(other.key).substr(inner_root.size()));
    };
    const bool is_asked = !options_.key.empty() && list[0].key == root_;
    if (others.empty() || is_asked || (rank(list[0]) < 2 && std::all_of(others.begin(), others.end(), is_clear))) {
      for (const Part& other : others)
        notes_.push_back(fmt::format("'{}' matches as well; --key {} takes it", other.key, other.key));
      return list[0];
    }
    std::vector<std::string> keys{list[0].key};
    for (const Part& other : others) keys.push_back(other.key);
    for (std::string& key : keys) key = fmt::format("'{}'", key.empty() ? "." : key);
    return make_error(ErrorCode::kUnknownName,
                      "[state_dict] one part of the file that matches best, got {}; --key chooses one", listed(keys));
  }

  // Nothing matches: what a person would compare the model with.
  Part fallback() const {
    const auto& entries = file_.entries();
    for (const std::string_view wrapper : kConventional) {
      const std::string key = joined(root_, wrapper);
      if (std::any_of(entries.begin(), entries.end(), [&](const Entry& e) { return is_below(e.name, key); }))
        return {.key = key};
    }
    return {.key = root_};
  }

  Result<FoundWeights> collect(const Part& part) const {
    const auto twice = [](const std::string& name) {
      return make_error(ErrorCode::kCorrupt, "[state_dict] each name once, got '{}' twice", name);
    };
    if (part.twice) return twice(*part.twice);
    FoundWeights found;
    std::set<std::string_view> containers;
    std::set<size_t> matched;
    for (const auto& [name, match] : part.matches) {
      found.entries[name] = match.entry;
      containers.insert(file_.entries()[match.entry].container);
      matched.insert(match.entry);
    }
    const std::string inner = within_wrappers(part);
    for (size_t i = 0; i < file_.entries().size(); ++i) {
      const Entry& entry = file_.entries()[i];
      const bool is_near = matched.empty() || containers.contains(entry.container);
      if (!is_near || !is_below(entry.name, inner) || matched.contains(i)) continue;
      const std::string name = name_in(entry, part.key);
      if (!found.entries.emplace(name, i).second) return twice(name);
    }
    found.notes = notes_of(part);
    found.notes.insert(found.notes.end(), notes_.begin(), notes_.end());
    return found;
  }

  // The key of a part, with the wrappers that are around all matches.
  std::string within_wrappers(const Part& part) const {
    std::string key = part.key;
    const auto has_all = [&](const std::string& inner) {
      return std::all_of(part.matches.begin(), part.matches.end(),
                         [&](const auto& match) { return is_below(file_.entries()[match.second.entry].name, inner); });
    };
    for (bool is_longer = !part.matches.empty(); is_longer;) {
      is_longer = false;
      for (const std::string_view wrapper : kWrappers)
        if (const std::string inner = joined(key, wrapper); has_all(inner)) key = inner, is_longer = true;
    }
    return key;
  }

  std::vector<std::string> notes_of(const Part& part) const {
    std::vector<std::string> notes;
    if (!part.key.empty())
      notes.push_back(fmt::format("Weights: '{}' of the file (names of the model: {}{})", part.key, part.matches.size(),
                                  lacks(part) == 0 ? "" : fmt::format("; missing: {}", lacks(part))));
    std::map<std::string, size_t> dropped;
    for (const auto& [name, match] : part.matches)
      if (!match.is_exact) count_wrappers(name_in(file_.entries()[match.entry], part.key), dropped);
    for (const auto& [wrapper, count] : dropped)
      notes.push_back(fmt::format("Names: without '{}.', in {} of them", wrapper, count));
    return notes;
  }
  static void count_wrappers(std::string_view name, std::map<std::string, size_t>& counts) {
    std::set<std::string_view> seen;
    for (const std::string_view part : components(name))
      if (is_in(kWrappers, part) && seen.insert(part).second) ++counts[std::string(part)];
  }

  const PytorchFile& file_;
  const State& model_;
  const WeightsOptions& options_;
  ModelNames names_;
  std::vector<std::vector<std::string>> required_;
  std::string root_;  // the key that all parts begin with
  size_t most_components_ = 0;
  std::map<std::string, Part> parts_;
  std::vector<std::string> notes_;
};

}  // namespace

std::vector<std::vector<std::string>> tied_names(const State& model) {
  using Memory = std::tuple<const void*, at::ScalarType, std::vector<int64_t>, std::vector<int64_t>>;
  std::map<Memory, size_t> places;
  std::vector<std::vector<std::string>> groups;
  for (const auto& [name, tensor] : model) {
    if (tensor.numel() > 0) {
      const Memory memory{tensor.const_data_ptr(), tensor.scalar_type(), tensor.sizes().vec(), tensor.strides().vec()};
      const auto [place, is_new] = places.emplace(memory, groups.size());
      if (!is_new) {
        groups[place->second].push_back(name);
        continue;
      }
    }
    groups.push_back({name});
  }
  return groups;
}

std::vector<std::string> missing_names(const State& model, const std::function<bool(const std::string&)>& has,
                                       const NamePredicate& may_miss) {
  std::vector<std::string> missing;
  for (const auto& names : required(tied_names(model), may_miss))
    if (std::none_of(names.begin(), names.end(), has)) missing.insert(missing.end(), names.begin(), names.end());
  std::sort(missing.begin(), missing.end());
  return missing;
}

Result<FoundWeights> find_weights(const PytorchFile& file, const State& model, const WeightsOptions& options) {
  return Search(file, model, options).run();
}

}  // namespace bitlab::train
