#include "bitlab/format/onnx/internal/cached_attention.h"

#include <algorithm>
#include <cmath>

#include "bitlab/program/internal/attention_input.h"

namespace bitlab::format::onnx {

using program::DType;
using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;
namespace attention_input = program::attention_input;

namespace {

constexpr double kHidden = -1e4;  // what is added to scores that no softmax sees any more, at most
constexpr int64_t kMostNumbers = 64;
constexpr int64_t kAllOver = 64;  // places that are looked at, besides those beside numbers
constexpr int64_t kFew = 128;     // tokens of which all places are

}  // namespace

CachedAttentions::CachedAttentions(const program::Program& program, const PastInputs& pasts)
    : p_(program),
      pasts_(pasts),
      tokens_(*program::single_symbol(pasts.tokens)),
      makers_(program.values.size(), -1),
      varies_(program.values.size(), false),
      sizes_(program::at_batch(2)) {
  for (const ValueId id : p_.inputs) varies_[static_cast<size_t>(id)] = true;
  std::set<ValueId> stops = pasts.values;
  for (size_t i = 0; i < p_.nodes.size(); ++i) {
    const Node& node = p_.nodes[i];
    const bool varies = std::any_of(node.inputs.begin(), node.inputs.end(),
                                    [&](ValueId id) { return id != program::kNone && varies_[static_cast<size_t>(id)]; });
    for (const ValueId id : node.outputs) {
      makers_[static_cast<size_t>(id)] = static_cast<int64_t>(i);
      varies_[static_cast<size_t>(id)] = varies;
    }
    if (node.op == Op::cat && node.inputs.size() == 2 && pasts.values.contains(node.inputs[0])) stops.insert(node.inputs[1]);
  }
  find_points();
  at_.emplace(p_, sizes_, std::move(stops));
}

const Node* CachedAttentions::maker(ValueId id) const {
  const int64_t index = id == program::kNone ? -1 : makers_[static_cast<size_t>(id)];
  return index < 0 ? nullptr : &p_.nodes[static_cast<size_t>(index)];
}
const Node* CachedAttentions::maker(ValueId id, Op op) const {
  const Node* node = maker(id);
  return node == nullptr || node->op != op ? nullptr : node;
}

// What is computed of positions and numbers can change beside these numbers alone, so that places beside them are looked at.
void CachedAttentions::find_points() {
  std::set<int64_t> numbers;
  for (const Node& node : p_.nodes) {
    if (varies_[static_cast<size_t>(node.output())]) continue;
    for (const ValueId id : node.inputs) {
      if (id == program::kNone) continue;
      const double x = std::fabs(number_of(id).value_or(0));
      if (x >= 1 && x <= (1 << 20) && x == std::floor(x)) numbers.insert(static_cast<int64_t>(x));
    }
  }
  const int64_t most = p_.symbols[tokens_].max;
  std::set<int64_t> points{0, 1, 2, 3, 7, 20};
  for (const int64_t x : numbers)
    for (const int64_t by : {-pasts_.count - 1, -pasts_.count, -pasts_.count + 1, int64_t{-1}, int64_t{0}, int64_t{1}})
      points.insert(x + by);
  std::erase_if(points, [&](int64_t x) { return x < 0 || x >= most; });
  const int64_t tokens = most < kFew ? most : std::min(most, *points.rbegin() + 2);
  const int64_t all_over = most < kFew ? most : kAllOver;
  for (int64_t i = 0; i < all_over; ++i) points.insert(i * tokens / all_over);
  points.insert(tokens - 1);
  sizes_[tokens_] = tokens;
  points_.assign(points.begin(), points.end());
  numbers_.assign(numbers.begin(), numbers.end());
}

// --- the parts of an attention

// Whether a row has no number, or nothing that is seen: where all see themselves there is none.
bool CachedAttentions::is_of_empty_rows(const Node& condition, ValueId weights) const {
  if (condition.op == Op::not_equal) return condition.inputs == std::vector<ValueId>{weights, weights};
  if (condition.op != Op::equal) return false;
  const Node* softmax = maker(weights, Op::softmax);
  const Node* most = maker(condition.inputs[0]);
  if (most != nullptr && most->op == Op::reshape) most = maker(most->inputs[0]);
  return softmax != nullptr && most != nullptr && most->op == Op::max && most->inputs[0] == softmax->inputs[0] &&
         number_of(condition.inputs[1]).value_or(0) <= kHidden;
}

// A constant of one element.
std::optional<double> CachedAttentions::number_of(ValueId id) const {
  const program::Value& value = p_.value(id);
  if (value.kind != program::ValueKind::kConstant || program::volume(value.shape) != program::Dim(1)) return std::nullopt;
  return constant_element(p_, id, 0);
}

// Of weights, or of weights with something else in rows that are empty.
std::optional<ValueId> CachedAttentions::softmax_input(ValueId weights) const {
  if (const Node* choice = maker(weights, Op::where)) {
    const Node* condition = maker(choice->inputs[0]);
    if (condition != nullptr && is_of_empty_rows(*condition, choice->inputs[2])) weights = choice->inputs[2];
  }
  const Node* node = maker(weights, Op::softmax);
  return node == nullptr || p_.value(weights).shape.size() != 4 ? std::nullopt : std::optional(node->inputs[0]);
}

// One node of what makes scores: a mask or a factor.
bool CachedAttentions::peel(const Node& node, ValueId& id, Scores& scores) {
  const auto is_fixed = [&](size_t input) { return !varies(node.inputs[input]); };
  if (node.op == Op::where && is_fixed(0) && is_fixed(1) != is_fixed(2)) {
    const bool hides_first = is_fixed(1);
    scores.masks.push_back(
        {node.inputs[0], hides_first ? node.inputs[1] : program::kNone, hides_first ? program::kNone : node.inputs[2]});
    id = node.inputs[hides_first ? 2 : 1];
    return true;
  }
  if (node.inputs.size() != 2 || is_fixed(0) == is_fixed(1)) return false;
  const ValueId fixed = node.inputs[is_fixed(0) ? 0 : 1], other = node.inputs[is_fixed(0) ? 1 : 0];
  const std::optional<double> by = number_of(fixed);
  if (node.op == Op::add) {
    scores.masks.push_back({fixed, program::kNone, program::kNone});
  } else if (node.op == Op::mul && by) {
    scores.scale *= *by;
  } else if (node.op == Op::div && by && fixed == node.inputs[1]) {
    scores.scale /= *by;
  } else if (node.op != Op::maximum || !by || *by > -1e30) {  // which leaves scores as they are
    return false;
  }
  id = other;
  return true;
}

std::optional<CachedAttentions::Scores> CachedAttentions::scores_of(ValueId id) {
  constexpr int kMost = 16;
  Scores scores;
  for (int i = 0; i < kMost; ++i) {
    const Node* node = maker(id);
    if (node == nullptr) return std::nullopt;
    if (node->op == Op::matmul) {
      scores.q = node->inputs[0], scores.keys = node->inputs[1];
      return scores;
    }
    if (!peel(*node, id, scores)) return std::nullopt;
  }
  return std::nullopt;
}

// Where each element of keys or values comes from, told by some of them: which dimension of what continues a past is the batch, the group, ...
std::optional<OwnTokens> CachedAttentions::own_tokens(ValueId id, bool is_turned) {
  const Sizes sizes = shape_at(p_.value(id).shape, sizes_);
  if (sizes.size() != 4) return std::nullopt;
  const int64_t past = pasts_.count, tokens = sizes_[tokens_];
  const auto origin = [&](const Sizes& at) {
    return at_->origin(id, is_turned ? Sizes{at[0], at[1], at[3], at[2]} : at, true);
  };
  const Sizes counts{sizes[0], sizes[1], tokens, sizes[is_turned ? 2 : 3]};
  if (sizes[is_turned ? 3 : 2] != past + tokens) return std::nullopt;
  const Sizes base{0, 0, past, 0};
  const Pointwise::Origin first = origin(base);
  if (first.value == program::kNone || pasts_.values.contains(first.value)) return std::nullopt;
  OwnTokens own{first.value, std::vector<std::optional<size_t>>(4), first.factor};
  const Sizes of_x = shape_at(p_.value(own.x).shape, sizes_);
  if (first.at != Sizes(of_x.size(), 0) || of_x.size() > 4) return std::nullopt;
  std::vector<bool> used(of_x.size(), false);
  for (size_t d = 0; d < 4; ++d) {
    Sizes at = base;
    at[d] += counts[d] - 1;
    const Pointwise::Origin last = origin(at);
    if (last.value != own.x) return std::nullopt;
    for (size_t i = 0; i < of_x.size(); ++i) {
      if (last.at[i] == 0) continue;
      if (own.dims[d] || used[i]) return std::nullopt;
      own.dims[d] = i, used[i] = true;
    }
  }
  for (size_t d = 0, i = 0; d < 4; ++d) {  // dimensions of 1
    while (i < used.size() && (used[i] || of_x[i] != 1)) ++i;
    if (own.dims[d] || i == used.size()) continue;
    own.dims[d] = i, used[i] = true;
  }
  if (std::count(used.begin(), used.end(), false) != 0) return std::nullopt;
  const auto size_of = [&](size_t d) { return own.dims[d] ? of_x[*own.dims[d]] : 1; };
  if (size_of(0) != counts[0] || size_of(2) != tokens || size_of(3) != counts[3] || counts[1] % size_of(1) != 0)
    return std::nullopt;
  const int64_t each = counts[1] / size_of(1);
  for (const int64_t token : {int64_t{0}, past - 1, past, past + 1, past + tokens - 1})
    for (int64_t head = 0; head < counts[1]; ++head) {
      if (token >= past + tokens) continue;
      const Sizes at{counts[0] - 1, head, token, counts[3] - 1};
      const Sizes wanted{at[0], head / each, token < past ? token : token - past, at[3]};
      const Pointwise::Origin found = origin(at);
      const bool fits = token < past ? pasts_.values.contains(found.value) : found.value == own.x;
      if (!fits || found.factor != own.factor || found.at.size() != of_x.size()) return std::nullopt;
      for (size_t d = 0; d < 4; ++d)
        if (own.dims[d] && found.at[*own.dims[d]] != wanted[d]) return std::nullopt;
    }
  return own;
}

// --- masks

// Whether masks let a score through; nothing where they do something else.
std::optional<bool> CachedAttentions::is_seen(const std::vector<Mask>& masks, const Sizes& at) {
  bool seen = true;
  for (const Mask& mask : masks) {
    const bool is_choice = mask.seen != program::kNone || mask.hidden != program::kNone;
    std::optional<double> x = at_->broadcast_number(mask.value, at);
    if (!x) return std::nullopt;
    if (is_choice) {
      const ValueId chosen = *x != 0 ? mask.seen : mask.hidden;
      if (chosen == program::kNone) continue;
      x = at_->broadcast_number(chosen, at);
    } else if (p_.value(mask.value).dtype == DType::kBool) {
      x = *x != 0 ? 0 : 2 * kHidden;
    }
    if (!x || (*x > kHidden && *x != 0) || (is_choice && *x == 0)) return std::nullopt;
    seen = seen && *x == 0;
  }
  return seen;
}

// Beside what a mask is made of, and all over.
std::set<int64_t> CachedAttentions::keys_to_look_at(int64_t query, int64_t window) const {
  const int64_t past = pasts_.count, keys = past + sizes_[tokens_];
  std::set<int64_t> places{0,         1,     past - 1,  past,    query - window - 1, query - window, query - window + 1,
                           query - 1, query, query + 1, keys - 1};
  for (const int64_t x : numbers_) places.insert({x - 1, x, x + 1, query - x - 1, query - x, query - x + 1});
  const int64_t all_over = keys <= kFew ? keys : kAllOver;
  for (int64_t i = 0; i < all_over; ++i) places.insert(i * keys / all_over);
  std::erase_if(places, [&](int64_t x) { return x < 0 || x >= keys; });
  return places;
}

// The first and the last sample and head where these have masks of their own.
std::vector<std::pair<int64_t, int64_t>> CachedAttentions::corners(const std::vector<Mask>& masks, int64_t heads) const {
  const auto differs = [&](size_t behind) {
    return std::any_of(masks.begin(), masks.end(), [&](const Mask& mask) {
      for (const ValueId id : {mask.value, mask.seen, mask.hidden}) {
        if (id == program::kNone) continue;
        const program::Shape& shape = p_.value(id).shape;
        if (shape.size() >= behind && shape[shape.size() - behind] != program::Dim(1)) return true;
      }
      return false;
    });
  };
  std::vector<std::pair<int64_t, int64_t>> all{{0, 0}};
  if (differs(4)) all.emplace_back(sizes_[0] - 1, 0);
  if (differs(3)) all.emplace_back(all.back().first, heads - 1);
  return all;
}

bool CachedAttentions::fits_window(const std::vector<Mask>& masks, int64_t heads, int64_t window) {
  const auto ends = corners(masks, heads);
  for (const int64_t token : points_) {
    const int64_t query = pasts_.count + token;
    for (const int64_t key : keys_to_look_at(query, window)) {
      const bool expected = key <= query && (window == 0 || query - key < window);
      for (const auto& [batch, head] : ends)
        if (is_seen(masks, {batch, head, token, key}) != std::optional(expected)) return false;
    }
  }
  return true;
}

// By the first key that the last query sees.
std::optional<int64_t> CachedAttentions::window_of(const std::vector<Mask>& masks, int64_t heads) {
  std::vector<ValueId> id{static_cast<ValueId>(heads)};
  for (const Mask& mask : masks) id.insert(id.end(), {mask.value, mask.seen, mask.hidden});
  const auto [found, is_new] = windows_.try_emplace(std::move(id));
  if (!is_new) return found->second;
  if (static_cast<int64_t>(numbers_.size()) > kMostNumbers) return std::nullopt;
  const int64_t last = sizes_[tokens_] - 1, query = pasts_.count + last;
  int64_t hidden = -1, seen = query;
  while (seen - hidden > 1) {
    const int64_t key = hidden + (seen - hidden) / 2;
    const auto is = is_seen(masks, {0, 0, last, key});
    if (!is) return std::nullopt;
    (*is ? seen : hidden) = key;
  }
  const int64_t window = seen == 0 ? 0 : query - seen + 1;
  if (fits_window(masks, heads, window)) found->second = window;
  return found->second;
}

std::optional<CachedAttention> CachedAttentions::checked(CachedAttention attention, const std::vector<Mask>& masks) {
  const program::Shape& q = p_.value(attention.q).shape;
  if (q.size() != 4 || q[2] != pasts_.tokens || !q[1].is_number() || attention.v.factor != 1) return std::nullopt;
  const auto window = window_of(masks, q[1].factor);
  if (!window) return std::nullopt;
  attention.window = *window, attention.scale *= attention.k.factor;
  return attention;
}

std::optional<CachedAttention> CachedAttentions::of(const Node& node) {
  CachedAttention attention;
  std::vector<Mask> masks;
  ValueId keys = program::kNone, values = program::kNone;
  const bool is_product = node.op == Op::matmul;
  if (is_product) {
    const auto input = softmax_input(node.inputs[0]);
    const auto scores = input ? scores_of(*input) : std::nullopt;
    if (!scores) return std::nullopt;
    attention.q = scores->q, attention.scale = scores->scale, masks = scores->masks;
    keys = scores->keys, values = node.inputs[1];
  } else if (node.op == Op::attention && node.attribute<int64_t>("causal") == 0) {
    const ValueId mask = node.inputs[attention_input::kMask];
    attention.q = node.inputs[attention_input::kQuery], attention.scale = node.attribute<double>("scale");
    keys = node.inputs[attention_input::kKey], values = node.inputs[attention_input::kValue];
    if (mask == program::kNone || varies(mask)) return std::nullopt;
    masks.push_back({mask, program::kNone, program::kNone});
  } else {
    return std::nullopt;
  }
  const auto k = own_tokens(keys, is_product);
  const auto v = k ? own_tokens(values, false) : std::nullopt;
  if (!v) return std::nullopt;
  attention.k = *k, attention.v = *v;
  return checked(attention, masks);
}

std::optional<double> CachedAttentions::offset_of_places(ValueId id) {
  const program::Value& value = p_.value(id);
  const auto is_tokens = [&](const program::Dim& dim) { return dim == pasts_.tokens; };
  if (varies(id) || value.dtype == DType::kBool || !uses(value.shape, tokens_) ||
      std::count_if(value.shape.begin(), value.shape.end(), is_tokens) != 1)
    return std::nullopt;
  const auto dim =
      static_cast<size_t>(std::find_if(value.shape.begin(), value.shape.end(), is_tokens) - value.shape.begin());
  Sizes last = shape_at(value.shape, sizes_);
  for (int64_t& size : last) --size;
  std::optional<double> offset;
  for (const int64_t token : points_)
    for (Sizes at : {Sizes(last.size(), 0), last}) {
      at[dim] = token;
      const auto x = at_->number(id, at);
      if (!x || (offset && *x - static_cast<double>(token) != *offset)) return std::nullopt;
      offset = *x - static_cast<double>(token);
    }
  if (*offset != std::floor(*offset) || std::fabs(*offset) > static_cast<double>(program::kMaxElements)) return std::nullopt;
  return *offset - static_cast<double>(pasts_.count);
}

}  // namespace bitlab::format::onnx
