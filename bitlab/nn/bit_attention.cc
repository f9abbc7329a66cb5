#include "bitlab/nn/bit_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>

#include "bitlab/nn/layer.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {
namespace {

constexpr std::string_view kName = "BitMultiheadAttention";

void check(const BitMultiheadAttentionOptions& o) {
  const auto refuse = [](std::string text) {
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[{}] {}", kName, text));
  };
  if (o.num_heads() < 1 || o.embed_dim() < 1 || o.embed_dim() % o.num_heads() != 0)
    refuse(fmt::format("embed_dim in {} heads, got {}", o.num_heads(), o.embed_dim()));
  if (o.num_kv_heads() < 0 || (o.num_kv_heads() > 0 && o.num_heads() % o.num_kv_heads() != 0))
    refuse(fmt::format("num_kv_heads that divides {} heads, got {}", o.num_heads(), o.num_kv_heads()));
  if (o.rope_theta() != 0 && o.embed_dim() / o.num_heads() % 2 != 0)
    refuse(fmt::format("an even size of a head under rope_theta, got {}", o.embed_dim() / o.num_heads()));
}

void check_input(std::string_view what, const at::Tensor& x, at::IntArrayRef sizes) {
  bool fits = x.dim() == 3;
  for (size_t i = 0; fits && i < 3; ++i) fits = sizes[i] < 0 || x.size(static_cast<int64_t>(i)) == sizes[i];
  if (!fits)
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[{}] {} of shape {} (-1: any), got {}", kName, what,
                               c10::str(sizes), c10::str(x.sizes())));
}

void check_mask(const at::Tensor& mask, const at::Tensor& query, at::IntArrayRef scores) {
  if (mask.scalar_type() != at::kBool && mask.scalar_type() != query.scalar_type())
    throw Exception(make_error(ErrorCode::kTypeMismatch, "[{}] attn_mask bool or {}, got {}", kName,
                               c10::toString(query.scalar_type()), c10::toString(mask.scalar_type())));
  bool fits = mask.dim() <= 4;
  for (int64_t i = 1; fits && i <= mask.dim(); ++i)
    fits = mask.size(-i) == 1 || mask.size(-i) == scores[4 - static_cast<size_t>(i)];
  if (!fits)
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[{}] attn_mask that broadcasts to {}, got {}", kName,
                               c10::str(scores), c10::str(mask.sizes())));
}

// Where `queries` tokens, the last of `keys`, may attend.
at::Tensor causal_mask(int64_t queries, int64_t keys, const at::Tensor& like) {
  return at::ones({queries, keys}, like.options().dtype(at::kBool)).tril(keys - queries);
}

at::Tensor restrict_to(const at::Tensor& allowed, const at::Tensor& mask) {
  if (mask.scalar_type() == at::kBool) return mask.logical_and(allowed);
  return at::where(allowed, mask, -std::numeric_limits<double>::infinity());
}

// [B, T, heads * size] -> [B, heads, T, size]
at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
}

// The positions of `count` tokens from `first` on. Those of a device that were asked for last are kept: the table of their angles, which the host makes, is
// kept with them (ops/rotary.cc), and not made in every layer.
at::Tensor positions_of(int64_t first, int64_t count, const at::Tensor& x) {
  const auto make = [&] { return at::arange(first, first + count, x.options().dtype(at::kLong)); };
  if (!x.is_cuda()) return make();
  struct Last {
    std::mutex mutex;
    int64_t first = 0;
    at::Tensor positions;
  };
  static auto* last = new Last;  // never destroyed: a device may be gone by then
  const std::lock_guard lock(last->mutex);
  at::Tensor& known = last->positions;
  if (!known.defined() || last->first != first || known.size(0) != count || known.device() != x.device()) {
    const c10::InferenceMode normal(false);  // whose tensors nothing can be kept with
    known = make(), last->first = first;
  }
  return known;
}

// x [B, H, T, D] at the positions from `first` on.
at::Tensor rotated(const at::Tensor& x, int64_t first, double theta) {
  return ops::rotary(x, positions_of(first, x.size(2), x), theta);
}

constexpr int64_t kFirstCapacity = 64;  // tokens that a state has room for at first

// A buffer of `capacity` tokens that begins with the given ones.
at::Tensor with_capacity(const at::Tensor& tokens, int64_t length, const at::Tensor& like, int64_t capacity) {
  at::Tensor buffer = at::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options());
  if (length > 0) buffer.narrow(2, 0, length).copy_(tokens.narrow(2, 0, length));
  return buffer;
}

}  // namespace

at::Tensor KvState::key() const { return keys_.defined() ? keys_.narrow(2, 0, length_) : at::Tensor(); }
at::Tensor KvState::value() const { return values_.defined() ? values_.narrow(2, 0, length_) : at::Tensor(); }

void KvState::append(const at::Tensor& new_key, const at::Tensor& new_value) {
  const at::NoGradGuard no_grad;
  const bool fits = !keys_.defined() || (new_key.size(0) == keys_.size(0) && new_key.size(1) == keys_.size(1) &&
                                         new_key.size(3) == keys_.size(3) && new_value.size(3) == values_.size(3));
  if (!fits)
    throw Exception(make_error(ErrorCode::kShapeMismatch, "[KvState] keys [{}, {}, tokens, {}], got {}", keys_.size(0),
                               keys_.size(1), keys_.size(3), c10::str(new_key.sizes())));
  const int64_t count = new_key.size(2), needed = length_ + count, room = keys_.defined() ? keys_.size(2) : 0;
  if (needed > room || !keys_.defined()) {
    const int64_t capacity = std::max({needed, 2 * room, kFirstCapacity});
    keys_ = with_capacity(keys_, length_, new_key, capacity);
    values_ = with_capacity(values_, length_, new_value, capacity);
  }
  keys_.narrow(2, length_, count).copy_(new_key);
  values_.narrow(2, length_, count).copy_(new_value);
  length_ = needed;
}

void KvState::truncate(int64_t length) {
  if (length < 0 || length > position())
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[KvState] a length in [0, {}], got {}", position(), length));
  if (length == 0) return clear();
  length_ = length;
}

BitMultiheadAttentionImpl::BitMultiheadAttentionImpl(const BitMultiheadAttentionOptions& options_) : options(options_) {
  reset();
}

void BitMultiheadAttentionImpl::reset() {
  check(options);
  const int64_t embed = options.embed_dim(), kv_size = embed / options.num_heads() * kv_heads();
  const auto projection = [&](const char* name, int64_t in, int64_t out) {
    return register_module(name, BitLinear(BitLinearOptions(in, out).bias(options.bias()).quant(options.quant())));
  };
  q_proj = projection("q_proj", embed, embed);
  k_proj = projection("k_proj", options.kdim() == 0 ? embed : options.kdim(), kv_size);
  v_proj = projection("v_proj", options.vdim() == 0 ? embed : options.vdim(), kv_size);
  out_proj = projection("out_proj", embed, embed);
  if (!options.sub_norm()) return;
  sub_norm = make_norm(BitNormOptions(embed).kind(*options.sub_norm()).eps(options.norm_eps()).bias(options.bias()));
  register_module("sub_norm", sub_norm.ptr());
}

void BitMultiheadAttentionImpl::pretty_print(std::ostream& stream) const {
  stream << "bitlab::nn::" << kName << "(embed_dim=" << options.embed_dim() << ", num_heads=" << options.num_heads();
  if (kv_heads() != options.num_heads()) stream << ", num_kv_heads=" << kv_heads();
  if (options.dropout() != 0) stream << ", dropout=" << options.dropout();
  stream << ", causal=" << std::boolalpha << options.causal();
  if (options.rope_theta() != 0) stream << ", rope_theta=" << options.rope_theta();
  stream << ", quant=" << describe(options.quant()) << ')';
}

at::Tensor BitMultiheadAttentionImpl::forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                              const at::Tensor& attn_mask) {
  return attend(project(query, key, value, 0), attn_mask, options.causal());
}

at::Tensor BitMultiheadAttentionImpl::forward(const at::Tensor& x, KvState* state) {
  if (state == nullptr) return forward(x);
  Heads heads = project(x, x, x, state->position());
  state->append(heads.key, heads.value);
  heads.key = state->key(), heads.value = state->value();
  return attend(heads, {}, true);
}

BitMultiheadAttentionImpl::Heads BitMultiheadAttentionImpl::project(const at::Tensor& query, const at::Tensor& key,
                                                                    const at::Tensor& value, int64_t position) {
  check_input("query", query, {-1, -1, options.embed_dim()});
  check_input("key", key, {query.size(0), -1, k_proj->options.in_features()});
  check_input("value", value, {key.size(0), key.size(1), v_proj->options.in_features()});
  Heads heads{split_heads(q_proj->forward(query), options.num_heads()), split_heads(k_proj->forward(key), kv_heads()),
              split_heads(v_proj->forward(value), kv_heads())};
  if (options.rope_theta() != 0) {
    heads.query = rotated(heads.query, position, options.rope_theta());
    heads.key = rotated(heads.key, position, options.rope_theta());
  }
  return heads;
}

// Under autocast the type of attention is float32 on CPUs, where LibTorch's gradient of it takes three times as long in bfloat16.
at::Tensor BitMultiheadAttentionImpl::product(Heads heads, const at::Tensor& mask, double dropout, bool is_causal) const {
  std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
  if (heads.query.is_cpu() && at::autocast::is_autocast_enabled(at::kCPU)) {
    no_autocast.emplace(c10::DispatchKeySet(c10::DispatchKey::AutocastCPU));
    for (at::Tensor* part : {&heads.query, &heads.key, &heads.value}) *part = part->to(at::kFloat);
  }
  return at::scaled_dot_product_attention(heads.query, heads.key, heads.value, optional(mask), dropout, is_causal,
                                          std::nullopt, kv_heads() != options.num_heads());
}

at::Tensor BitMultiheadAttentionImpl::attend(const Heads& heads, const at::Tensor& attn_mask, bool causal) {
  const int64_t queries = heads.query.size(2), keys = heads.key.size(2);
  at::Tensor mask = attn_mask;
  if (mask.defined()) check_mask(mask, heads.query, {heads.query.size(0), options.num_heads(), queries, keys});
  if (mask.defined() && mask.dim() < 2) mask = mask.view({1, -1});  // the operator takes no less
  // is_causal of the operator counts from the first key; and a last token attends to all.
  if (causal && (mask.defined() || (queries != keys && queries > 1))) {
    const at::Tensor allowed = causal_mask(queries, keys, heads.query);
    mask = mask.defined() ? restrict_to(allowed, mask) : allowed;
  }
  const bool is_causal = causal && !mask.defined() && queries == keys;
  at::Tensor y = product(heads, mask, is_training() ? options.dropout() : 0, is_causal);
  y = y.transpose(1, 2).flatten(2);
  if (!sub_norm.is_empty()) y = sub_norm.forward(y);
  return out_proj->forward(y);
}

}  // namespace bitlab::nn
