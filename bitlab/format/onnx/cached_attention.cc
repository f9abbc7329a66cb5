#include "bitlab/format/onnx/internal/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
      makers_(program),
      varies_(program.values.size(), false),
      sizes_(program::at_batch(2)) {
  for (const ValueId id : p_.inputs) varies_[static_cast<size_t>(id)] = true;
  std::set<ValueId> stops = pasts.values;
  for (const Node& node : p_.nodes) {
    const bool varies = std::any_of(node.inputs.begin(), node.inputs.end(),
                                    [&](ValueId id) { return id != program::kNone && varies_[static_cast<size_t>(id)]; });
    for (const ValueId id : node.outputs) varies_[static_cast<size_t>(id)] = varies;
    if (node.op == Op::cat && node.inputs.size() == 2 && pasts.values.contains(node.inputs[0])) stops.insert(node.inputs[1]);
  }
  find_points();
  at_.emplace(p_, sizes_, std::move(stops));
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
  const Node* softmax = makers_.of(weights, Op::softmax);
  const Node* most = makers_.of(condition.inputs[0]);
  if (most != nullptr && most->op == Op::reshape) most = makers_.of(most->inputs[0]);
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
ValueId CachedAttentions::with_full_rows(ValueId weights) const {
  const Node* choice = makers_.of(weights, Op::where);
  const Node* condition = choice == nullptr ? nullptr : makers_.of(choice->inputs[0]);
  return condition != nullptr && is_of_empty_rows(*condition, choice->inputs[2]) ? choice->inputs[2] : weights;
}

// [batch, heads, ...] that is [batch heads, ...] in a value.
std::optional<ValueId> CachedAttentions::unflattened(ValueId id) const {
  const Node* node = makers_.of(id, Op::reshape);
  const program::Shape& flat = p_.value(id).shape;
  if (node == nullptr || flat.size() != 3) return std::nullopt;
  const program::Shape& shape = p_.value(node->inputs[0]).shape;
  const bool fits = shape.size() == 4 && shape[0] * shape[1] == flat[0] && shape[2] == flat[1] && shape[3] == flat[2];
  return fits ? std::optional(node->inputs[0]) : std::nullopt;
}

// One node of what makes scores: a mask or a factor.
bool CachedAttentions::peel(const Node& node, ValueId& id, Scores& scores) {
  const auto is_fixed = [&](size_t input) { return !varies(node.inputs[input]); };
  if (node.op == Op::where && is_fixed(0) && is_fixed(1) != is_fixed(2)) {
    const bool hides_first = is_fixed(1);
    scores.masks.push_back({node.inputs[0], hides_first ? node.inputs[1] : program::kNone,
                            hides_first ? program::kNone : node.inputs[2], scores.scale, scores.is_flat});
    id = node.inputs[hides_first ? 2 : 1];
    return true;
  }
  if (node.op == Op::reshape && !scores.is_flat) {
    const program::Shape& flat = p_.value(node.inputs[0]).shape;
    scores.is_flat = true, id = node.inputs[0];
    return flat.size() == 3 && flat[0] == scores.shape[0] * scores.shape[1] && flat[1] == scores.shape[2] &&
           flat[2] == scores.shape[3];
  }
  if (node.inputs.size() != 2 || is_fixed(0) == is_fixed(1)) return false;
  const ValueId fixed = node.inputs[is_fixed(0) ? 0 : 1], other = node.inputs[is_fixed(0) ? 1 : 0];
  const std::optional<double> by = number_of(fixed);
  if (node.op == Op::add) {
    scores.masks.push_back({fixed, program::kNone, program::kNone, scores.scale, scores.is_flat});
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

std::optional<CachedAttentions::Scores> CachedAttentions::scores_of(ValueId weights) {
  constexpr int kMost = 16;
  Scores scores;
  const auto apart = unflattened(weights);
  weights = with_full_rows(apart.value_or(weights));
  const Node* softmax = makers_.of(weights, Op::softmax);
  if (softmax == nullptr || p_.value(weights).shape.size() != 4) return std::nullopt;
  scores.shape = p_.value(weights).shape;
  ValueId id = softmax->inputs[0];
  for (int i = 0; i < kMost; ++i) {
    const Node* node = makers_.of(id);
    if (node == nullptr) return std::nullopt;
    if (node->op == Op::matmul) {
      scores.q = node->inputs[0], scores.keys = node->inputs[1];
      return scores.is_flat == apart.has_value() ? std::optional(scores) : std::nullopt;
    }
    if (!peel(*node, id, scores)) return std::nullopt;
  }
  return std::nullopt;
}

// Keys or values [batch, heads, past and tokens, size], whatever the value's dimensions are; and where each element comes from.
std::optional<CachedAttentions::AllTokens> CachedAttentions::all_tokens(ValueId id, bool is_turned,
                                                                        const Scores& scores) const {
  const program::Shape& shape = p_.value(id).shape;
  Sizes sizes = program::shape_at(shape, sizes_);
  const Sizes front = program::shape_at({scores.shape[0], shape.size() == 4 ? shape[1] : scores.shape[1]}, sizes_);
  if (scores.is_flat && sizes.size() == 3 && sizes[0] == front[0] * front[1]) {
    sizes.erase(sizes.begin());
    sizes.insert(sizes.begin(), front.begin(), front.end());
  }
  if (sizes.size() != 4 || sizes[is_turned ? 3 : 2] != pasts_.count + sizes_[tokens_]) return std::nullopt;
  if (is_turned) std::swap(sizes[2], sizes[3]);
  return AllTokens{id, sizes, is_turned, scores.is_flat};
}

Pointwise::Origin CachedAttentions::origin(const AllTokens& all, const Sizes& at) {
  Sizes place = all.is_turned ? Sizes{at[0], at[1], at[3], at[2]} : at;
  if (all.is_flat) place = {at[0] * all.sizes[1] + at[1], place[2], place[3]};
  return at_->origin(all.value, place, true);
}

// Which dimension of what continues a past is the batch, the group, ...: told by the first element of the tokens and the last along each dimension.
std::optional<OwnTokens> CachedAttentions::told_dims(const AllTokens& all) {
  const Sizes base{0, 0, pasts_.count, 0};
  const Pointwise::Origin first = origin(all, base);
  if (first.value == program::kNone || pasts_.values.contains(first.value)) return std::nullopt;
  OwnTokens own{first.value, std::vector<std::optional<size_t>>(4), first.factor};
  const Sizes of_x = program::shape_at(p_.value(own.x).shape, sizes_);
  if (first.at != Sizes(of_x.size(), 0) || of_x.size() > 4) return std::nullopt;
  std::vector<bool> used(of_x.size(), false);
  for (size_t d = 0; d < 4; ++d) {
    Sizes at = base;
    at[d] = all.sizes[d] - 1;
    const Pointwise::Origin last = origin(all, at);
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
  return std::count(used.begin(), used.end(), false) == 0 ? std::optional(own) : std::nullopt;
}

// What is told so, held to other elements: of the past and of the tokens, and of each head.
std::optional<OwnTokens> CachedAttentions::own_tokens(ValueId id, bool is_turned, const Scores& scores) {
  const auto all = all_tokens(id, is_turned, scores);
  const auto own = all ? told_dims(*all) : std::nullopt;
  if (!own) return std::nullopt;
  const int64_t past = pasts_.count, tokens = sizes_[tokens_];
  const Sizes of_x = program::shape_at(p_.value(own->x).shape, sizes_), &sizes = all->sizes;
  const auto size_of = [&](size_t d) { return own->dims[d] ? of_x[*own->dims[d]] : 1; };
  if (size_of(0) != sizes[0] || size_of(2) != tokens || size_of(3) != sizes[3] || sizes[1] % size_of(1) != 0)
    return std::nullopt;
  const int64_t each = sizes[1] / size_of(1);
  for (const int64_t token : {int64_t{0}, past - 1, past, past + 1, past + tokens - 1})
    for (int64_t head = 0; head < sizes[1]; ++head) {
      if (token >= past + tokens) continue;
      const Sizes at{sizes[0] - 1, head, token, sizes[3] - 1};
      const Sizes wanted{at[0], head / each, token < past ? token : token - past, at[3]};
      const Pointwise::Origin found = origin(*all, at);
      const bool fits = token < past ? pasts_.values.contains(found.value) : found.value == own->x;
      if (!fits || found.factor != own->factor || found.at.size() != of_x.size()) return std::nullopt;
      for (size_t d = 0; d < 4; ++d)
        if (own->dims[d] && found.at[*own->dims[d]] != wanted[d]) return std::nullopt;
    }
  return own;
}

// --- masks

// What masks add to a score; -infinity where they hide it. Nothing where that is not known.
std::optional<double> CachedAttentions::bias_at(const Scores& scores, const Sizes& place) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  double bias = 0;
  for (const Mask& mask : scores.masks) {
    Sizes at = place;
    if (mask.is_flat) at = {place[0] * scores.shape[1].factor + place[1], place[2], place[3]};
    const bool is_choice = mask.seen != program::kNone || mask.hidden != program::kNone;
    std::optional<double> x = at_->broadcast_number(mask.value, at);
    if (!x) return std::nullopt;
    if (is_choice) {
      const ValueId chosen = *x != 0 ? mask.seen : mask.hidden;
      if (chosen == program::kNone) continue;
      x = at_->broadcast_number(chosen, at);
    } else if (p_.value(mask.value).dtype == DType::kBool) {
      x = *x != 0 ? 0 : kNever;
    }
    if (!x || std::isnan(*x) || !(mask.factor > 0)) return std::nullopt;
    *x *= mask.factor;
    if (is_choice && *x > kHidden) return std::nullopt;
    bias = *x <= kHidden ? kNever : bias + *x;
  }
  return bias;
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

// Samples and heads that have masks of their own: the first sample and the last one, all heads.
std::vector<std::pair<int64_t, int64_t>> CachedAttentions::corners(const Scores& scores) const {
  const auto differs = [&](size_t behind) {
    return std::any_of(scores.masks.begin(), scores.masks.end(), [&](const Mask& mask) {
      for (const ValueId id : {mask.value, mask.seen, mask.hidden}) {
        if (id == program::kNone) continue;
        const program::Shape& shape = p_.value(id).shape;
        const size_t place = mask.is_flat ? 3 : behind;
        if (shape.size() >= place && shape[shape.size() - place] != program::Dim(1)) return true;
      }
      return false;
    });
  };
  std::vector<std::pair<int64_t, int64_t>> all{{0, 0}};
  const int64_t heads = scores.shape[1].factor;
  if (differs(4)) all.emplace_back(sizes_[0] - 1, 0);
  for (int64_t head = 1; differs(3) && head < heads; ++head) all.emplace_back(head % 2 == 0 ? 0 : all.back().first, head);
  return all;
}

// One row: what a query sees, and what is added to it beside what is added to its own key, which a softmax takes off all.
bool CachedAttentions::fits(const Scores& scores, const Sight& sight, int64_t token, int64_t batch, int64_t head) {
  constexpr double kRounding = 1e-5;
  const int64_t query = pasts_.count + token;
  const auto own = bias_at(scores, {batch, head, token, query});
  if (!own || std::isinf(*own)) return false;
  const double slope = sight.slopes.empty() ? 0 : double{sight.slopes[static_cast<size_t>(head)]};
  for (const int64_t key : keys_to_look_at(query, sight.window)) {
    const auto bias = bias_at(scores, {batch, head, token, key});
    const bool is_seen = key <= query && (sight.window == 0 || query - key < sight.window);
    if (!bias || std::isinf(*bias) == is_seen) return false;
    const double expected = slope * static_cast<double>(key - query);
    if (is_seen && std::fabs(*bias - *own - expected) > kRounding * (std::fabs(slope) * static_cast<double>(query)))
      return false;
  }
  return true;
}

// All rows of the first samples and heads that differ, some of the others.
bool CachedAttentions::fits(const Scores& scores, const Sight& sight) {
  constexpr size_t kMost = 3, kEach = 8;
  const auto ends = corners(scores);
  for (size_t i = 0; i < points_.size(); ++i)
    for (size_t k = 0; k < ends.size(); ++k) {
      const bool is_looked_at = k < kMost || k + 1 == ends.size() || i % kEach == k % kEach || i + 1 == points_.size();
      if (is_looked_at && !fits(scores, sight, points_[i], ends[k].first, ends[k].second)) return false;
    }
  return true;
}

// What is added for a key more than for the one before it, by head; empty where nothing is. To the bit: a slope times a power of two has no rounding, nor
// has one times a distance of 1.
std::optional<std::vector<float>> CachedAttentions::slopes_of(const Scores& scores) {
  const int64_t query = 8, token = std::max<int64_t>(query - pasts_.count, 0);
  if (token >= sizes_[tokens_]) return std::nullopt;
  std::vector<float> slopes;
  for (int64_t head = 0; head < scores.shape[1].factor; ++head) {
    const auto here = bias_at(scores, {0, head, token, query}), before = bias_at(scores, {0, head, token, query - 1});
    if (!here || !before || std::isinf(*here)) return std::nullopt;
    const double slope = *here == 0 ? *here - *before : *here / static_cast<double>(query);
    slopes.push_back(std::isinf(*before) || *here == *before ? 0 : static_cast<float>(slope));
  }
  const bool is_plain = std::all_of(slopes.begin(), slopes.end(), [](float x) { return x == 0; });
  return is_plain ? std::vector<float>() : slopes;
}

// By the first key that the last query sees.
std::optional<Sight> CachedAttentions::sight_of(const Scores& scores) {
  constexpr int64_t kMostHeads = 1024;
  std::vector<double> id{static_cast<double>(scores.shape[1].factor)};
  for (const Mask& mask : scores.masks) {
    for (const ValueId part : {mask.value, mask.seen, mask.hidden}) id.push_back(part);
    id.insert(id.end(), {mask.factor, mask.is_flat ? 1.0 : 0.0});
  }
  const auto [found, is_new] = sights_.try_emplace(std::move(id));
  const bool is_much = static_cast<int64_t>(numbers_.size()) > kMostNumbers || scores.shape[1].factor > kMostHeads;
  if (!is_new || is_much) return found->second;
  const int64_t last = sizes_[tokens_] - 1, query = pasts_.count + last;
  int64_t hidden = -1, seen = query;
  while (seen - hidden > 1) {
    const int64_t key = hidden + (seen - hidden) / 2;
    const auto bias = bias_at(scores, {0, 0, last, key});
    if (!bias) return std::nullopt;
    (std::isinf(*bias) ? hidden : seen) = key;
  }
  const auto slopes = slopes_of(scores);
  if (!slopes) return std::nullopt;
  const Sight sight{seen == 0 ? 0 : query - seen + 1, *slopes};
  if (fits(scores, sight)) found->second = sight;
  return found->second;
}

std::optional<CachedAttention> CachedAttentions::of(const Node& node) {
  Scores scores;
  ValueId values = program::kNone;
  const bool is_product = node.op == Op::matmul;
  if (is_product) {
    const auto found = scores_of(node.inputs[0]);
    if (!found) return std::nullopt;
    scores = *found, values = node.inputs[1];
  } else if (node.op == Op::attention && node.attribute<int64_t>("causal") == 0) {
    const ValueId mask = node.inputs[attention_input::kMask];
    scores.q = node.inputs[attention_input::kQuery], scores.scale = node.attribute<double>("scale");
    scores.keys = node.inputs[attention_input::kKey], values = node.inputs[attention_input::kValue];
    scores.shape = p_.value(scores.q).shape;
    if (mask == program::kNone || varies(mask)) return std::nullopt;
    scores.masks.push_back({mask});
  } else {
    return std::nullopt;
  }
  const program::Shape& shape = scores.shape;
  if (shape[2] != pasts_.tokens || !shape[1].is_number()) return std::nullopt;
  const auto k = own_tokens(scores.keys, is_product, scores), v = k ? own_tokens(values, false, scores) : std::nullopt;
  if (!v || v->factor != 1) return std::nullopt;
  const auto sight = sight_of(scores);
  if (!sight) return std::nullopt;
  const program::Shape full{shape[0], shape[1], shape[2], p_.value(scores.q).shape.back()};
  return CachedAttention{scores.q, full, *k, *v, scores.scale * k->factor, *sight};
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
