// Python's pickle format read as data: nothing is imported and nothing is called. What a pickle would call is kept by its name, with its
// arguments, for the reader to judge.
//
// Protocols 2 to 5 without out-of-band buffers: all that torch.save and torch::jit::pickle_save write. The stack machine and its opcodes are
// those of CPython's Lib/pickletools.py.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::train {

struct PickleValue {
  enum class Kind {
    kInt,       // integer
    kBool,      // integer: 0 or 1
    kString,    // text
    kSequence,  // a list, tuple or set: items
    kDict,      // items: key, value, key, value, ...; also of collections.OrderedDict and defaultdict
    kGlobal,    // a class or function: text is "module.name"
    kObject,  // what a call would return; items: what is called, the sequence of its arguments, then as of kDict what it is filled with
    kPersistent,  // a persistent id, which torch.save has for storages; items: the sequence of its parts
    kOther,       // None, float, bytes, a longer int: text is the name of the type
  };
  Kind kind = Kind::kOther;
  int64_t integer = 0;
  std::string text{};
  std::vector<const PickleValue*> items{};
  bool has_state = false;  // kObject: further state is set after the call, and not kept here

  // Key, value, key, value, ... of a dictionary or an instance of a subclass of one; empty for all else.
  std::span<const PickleValue* const> entries() const;
};

// The name of its type, as Python would say: "int", "dict"; "object" of a call.
std::string kind_name(const PickleValue& value);

class Pickle {
 public:
  // Time and memory are proportional to the bytes. Error: Corrupt, without a path.
  static Result<Pickle> parse(std::string_view bytes);
  // May hold itself: a pickle can describe cycles, and trees that are far larger than the pickle.
  const PickleValue& root() const { return *root_; }

 private:
  std::deque<PickleValue> values_;  // owns every value, whatever refers to it
  const PickleValue* root_ = nullptr;
};

}  // namespace bitlab::train
