// Attention over a past, found in a program.
#pragma once

#include <optional>
#include <vector>

#include "bitlab/format/onnx/internal/pointwise.h"
#include "bitlab/format/onnx/internal/states.h"

namespace bitlab::format::onnx {

// Keys or values of a run's own tokens: x with the dimensions [batch, groups, tokens, size] in these places; nothing for one that x lacks, which is of 1.
struct OwnTokens {
  program::ValueId x = program::kNone;
  std::vector<std::optional<size_t>> dims;
  double factor = 1;  // that they are multiplied by
};

struct CachedAttention {
  program::ValueId q = program::kNone;
  OwnTokens k, v;
  double scale = 1;
  int64_t window = 0;  // keys that a query sees, its own among them; 0: all
};

class CachedAttentions {
 public:
  CachedAttentions(const program::Program& program, const PastInputs& pasts);

  // What a product with values, or an attention, is; nothing where no past is in it, or where it is another.
  std::optional<CachedAttention> of(const program::Node& node);
  // The number c of integers that are c more than the places of tokens, past and all, whatever the other places; nothing for others.
  std::optional<double> offset_of_places(program::ValueId id);
  bool varies(program::ValueId id) const { return varies_[static_cast<size_t>(id)]; }

 private:
  struct Mask {
    program::ValueId value = program::kNone;                          // added, or bool
    program::ValueId seen = program::kNone, hidden = program::kNone;  // of a choice: kNone is the scores themselves
  };
  struct Scores {
    program::ValueId q = program::kNone, keys = program::kNone;  // keys [batch, heads, size, keys]
    double scale = 1;
    std::vector<Mask> masks;
  };
  const program::Node* maker(program::ValueId id, program::Op op) const;
  const program::Node* maker(program::ValueId id) const;
  void find_points();
  bool is_of_empty_rows(const program::Node& condition, program::ValueId weights) const;
  std::optional<double> number_of(program::ValueId id) const;
  std::optional<program::ValueId> softmax_input(program::ValueId weights) const;
  std::optional<Scores> scores_of(program::ValueId id);
  bool peel(const program::Node& node, program::ValueId& id, Scores& scores);
  std::optional<OwnTokens> own_tokens(program::ValueId id, bool is_turned);
  std::optional<bool> is_seen(const std::vector<Mask>& masks, const program::Sizes& at);
  std::optional<int64_t> window_of(const std::vector<Mask>& masks, int64_t heads);
  std::set<int64_t> keys_to_look_at(int64_t query, int64_t window) const;
  std::vector<std::pair<int64_t, int64_t>> corners(const std::vector<Mask>& masks, int64_t heads) const;
  bool fits_window(const std::vector<Mask>& masks, int64_t heads, int64_t window);
  std::optional<CachedAttention> checked(CachedAttention attention, const std::vector<Mask>& masks);

  const program::Program& p_;
  const PastInputs& pasts_;
  size_t tokens_;
  std::vector<int64_t> makers_;
  std::vector<bool> varies_;
  std::vector<int64_t> numbers_, points_;  // that masks and places are made of; places of tokens to look at
  program::SymbolSizes sizes_;
  std::map<std::vector<program::ValueId>, std::optional<int64_t>> windows_;
  std::optional<Pointwise> at_;
};

}  // namespace bitlab::format::onnx
