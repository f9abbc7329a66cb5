#include "bitlab/train/internal/pickle.h"

#include <concepts>
#include <cstring>
#include <unordered_map>

namespace bitlab::train {
namespace {

using Kind = PickleValue::Kind;

class Machine {
 public:
  Machine(std::string_view bytes, std::deque<PickleValue>& values) : bytes_(bytes), values_(values) {}

  const PickleValue* run() {
    for (;;) {
      const auto code = number<uint8_t>();
      if (code == '.') return pop();
      if (!literal(code) && !container(code) && !memo(code) && !object(code))
        fail("an opcode of pickle protocols 2 to 5", fmt::format("{:#04x} at byte {}", code, at_ - 1));
    }
  }

 private:
  [[noreturn]] static void fail(std::string_view expected, std::string_view found) {
    throw Exception(make_error(ErrorCode::kCorrupt, "{}, got {}", expected, found));
  }

  // --- bytes
  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) fail("a whole pickle", fmt::format("its end within byte {}", bytes_.size()));
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  template <std::integral T>
  T number() {  // little-endian
    uint64_t value = 0;
    const std::string_view digits = take(sizeof(T));
    for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{static_cast<uint8_t>(digits[i])} << (8 * i);
    return static_cast<T>(value);
  }
  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("a whole pickle", "a line without an end");
    const std::string_view text = take(end - at_);
    ++at_;
    return text;
  }

  // --- the stack; what lies below a mark is out of reach until the mark goes
  PickleValue* make(Kind kind, std::string_view text = {}) {
    values_.push_back({.kind = kind, .text = std::string(text)});
    stack_.push_back(&values_.back());
    return stack_.back();
  }
  void make_int(int64_t value) { make(Kind::kInt)->integer = value; }
  PickleValue* top() const {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("a value on the pickle's stack", "none");
    return stack_.back();
  }
  PickleValue* pop() {
    PickleValue* value = top();
    stack_.pop_back();
    return value;
  }
  PickleValue* pop(Kind kind) {
    PickleValue* value = pop();
    if (value->kind != kind) fail("values in a pickle as torch.save writes them", "one of another kind");
    return value;
  }
  std::vector<const PickleValue*> pop_to_mark() {
    if (marks_.empty()) fail("a mark on the pickle's stack", "none");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<const PickleValue*> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }
  std::vector<const PickleValue*> pop_items(size_t count) {
    std::vector<const PickleValue*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }

  // --- opcodes, by group; false: not of the group
  bool literal(uint8_t code) {
    if (code == 'N') return make(Kind::kOther, "NoneType"), true;
    if (code == 0x88 || code == 0x89) return make(Kind::kBool)->integer = code == 0x88, true;
    if (code == 'J') return make_int(number<int32_t>()), true;
    if (code == 'K') return make_int(number<uint8_t>()), true;
    if (code == 'M') return make_int(number<uint16_t>()), true;
    if (code == 0x8a) return long_int(take(number<uint8_t>())), true;
    if (code == 0x8b) return long_int(take(number<uint32_t>())), true;
    if (code == 'G') return take(sizeof(double)), make(Kind::kOther, "float"), true;
    if (code == 'U' || code == 0x8c) return make(Kind::kString, take(number<uint8_t>())), true;
    if (code == 'T' || code == 'X') return make(Kind::kString, take(number<uint32_t>())), true;
    if (code == 0x8d) return make(Kind::kString, take(number<uint64_t>())), true;
    if (code == 'C') return take(number<uint8_t>()), make(Kind::kOther, "bytes"), true;
    if (code == 'B') return take(number<uint32_t>()), make(Kind::kOther, "bytes"), true;
    if (code == 0x8e || code == 0x96) return take(number<uint64_t>()), make(Kind::kOther, "bytes"), true;
    return false;
  }
  void long_int(std::string_view digits) {  // little-endian, two's complement
    if (digits.size() > sizeof(int64_t)) {
      make(Kind::kOther, "int");
      return;
    }
    uint64_t value = !digits.empty() && static_cast<int8_t>(digits.back()) < 0 ? ~uint64_t{0} : 0;
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(digits[i]);
    make_int(static_cast<int64_t>(value));
  }

  bool container(uint8_t code) {
    if (code == '(') return marks_.push_back(stack_.size()), true;
    if (code == '}') return make(Kind::kDict), true;
    if (code == ']' || code == ')' || code == 0x8f) return make(Kind::kSequence), true;
    if (code == 't' || code == 'l' || code == 0x91) return refer(Kind::kSequence, pop_to_mark()), true;
    if (code >= 0x85 && code <= 0x87) return refer(Kind::kSequence, pop_items(code - size_t{0x84})), true;
    if (code == 'a') return extend(Kind::kSequence, pop_items(1)), true;
    if (code == 'e' || code == 0x90) return extend(Kind::kSequence, pop_to_mark()), true;
    if (code == 's') return extend(Kind::kDict, pop_items(2)), true;
    if (code == 'u') return extend(Kind::kDict, pop_to_mark()), true;
    return false;
  }
  void extend(Kind kind, std::vector<const PickleValue*> items) {
    PickleValue* target = top();
    const bool is_object = target->kind == Kind::kObject;
    if ((!is_object && target->kind != kind) || (kind == Kind::kDict && items.size() % 2 != 0))
      fail("a list or a dictionary to fill", fmt::format("{} for {} items", kind_name(*target), items.size()));
    if (is_object && kind != Kind::kDict) return;  // what a subclass of a list holds
    target->items.insert(target->items.end(), items.begin(), items.end());
  }

  bool memo(uint8_t code) {
    if (code == 'q') return memo_[number<uint8_t>()] = top(), true;
    if (code == 'r') return memo_[number<uint32_t>()] = top(), true;
    if (code == 0x94) return memo_.emplace(memo_.size(), top()), true;
    if (code == 'h') return recall(number<uint8_t>()), true;
    if (code == 'j') return recall(number<uint32_t>()), true;
    if (code == '0') return pop(), true;
    if (code == '1') return pop_to_mark(), true;
    if (code == '2') return stack_.push_back(top()), true;
    return false;
  }
  void recall(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("a value that was memorized", fmt::format("number {}", index));
    stack_.push_back(found->second);
  }

  bool object(uint8_t code) {
    if (code == 0x80) return number<uint8_t>(), true;   // the protocol
    if (code == 0x95) return number<uint64_t>(), true;  // the length of a frame
    if (code == 'c') {
      const std::string_view module = line();
      return global(module, line()), true;
    }
    if (code == 0x93) {
      const PickleValue* name = pop(Kind::kString);
      return global(pop(Kind::kString)->text, name->text), true;
    }
    if (code == 'R' || code == 0x81) return call(pop(Kind::kSequence)), true;
    if (code == 0x92) return pop(), call(pop(Kind::kSequence)), true;  // keyword arguments are dropped
    if (code == 'b') return pop(), top()->has_state = true, true;      // state, as well
    if (code == 'Q') return refer(Kind::kPersistent, {pop(Kind::kSequence)}), true;
    return false;
  }
  void global(std::string_view module, std::string_view name) {
    constexpr size_t kLongest = 256;  // names are copied, and one string may serve many
    if (module.size() + name.size() > kLongest) fail("names of classes", fmt::format("one of {} letters", name.size()));
    // Protocol 2 has Python 2's names of what moved.
    make(Kind::kGlobal, fmt::format("{}.{}", module == "copy_reg" ? "copyreg" : module, name));
  }
  void call(const PickleValue* arguments) {
    const PickleValue* callee = pop();
    if (callee->text == "collections.OrderedDict" || callee->text == "collections.defaultdict") {
      make(Kind::kDict);
    } else {
      refer(Kind::kObject, {callee, arguments});
    }
  }
  // By reference: copies of one long list could be many.
  void refer(Kind kind, std::vector<const PickleValue*> items) { make(kind)->items = std::move(items); }

  std::string_view bytes_;
  size_t at_ = 0;
  std::deque<PickleValue>& values_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

}  // namespace

std::string kind_name(const PickleValue& value) {
  switch (value.kind) {
    case PickleValue::Kind::kInt:
      return "int";
    case PickleValue::Kind::kBool:
      return "bool";
    case PickleValue::Kind::kString:
      return "str";
    case PickleValue::Kind::kSequence:
      return "list";
    case PickleValue::Kind::kDict:
      return "dict";
    case PickleValue::Kind::kPersistent:
      return "storage";
    case PickleValue::Kind::kObject:
      return "object";
    default:
      return value.text;
  }
}

std::span<const PickleValue* const> PickleValue::entries() const {
  if (kind == Kind::kDict) return items;
  if (kind != Kind::kObject) return {};
  constexpr size_t kFirst = 2;
  if (items.size() > kFirst) return std::span(items).subspan(kFirst);
  // copyreg._reconstructor(class, base, what the base's constructor takes)
  const auto& arguments = items[1]->items;
  const bool is_copy = items[0]->text == "copyreg._reconstructor" && arguments.size() > 2;
  return is_copy && arguments[2]->kind == Kind::kDict ? std::span(arguments[2]->items)
                                                      : std::span<const PickleValue* const>();
}

Result<Pickle> Pickle::parse(std::string_view bytes) {
  Pickle pickle;
  try {
    pickle.root_ = Machine(bytes, pickle.values_).run();
    return pickle;
  } catch (const Exception& exception) {
    return exception.error();
  }
}

}  // namespace bitlab::train
