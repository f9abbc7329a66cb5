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

// What a query sees of the keys up to its own.
struct Sight {
  int64_t window = 0;           // how many, its own among them; 0: all
  std::vector<float> slopes{};  // of each head: what is added for a key by its place (ALiBi); empty: nothing is
  auto operator<=>(const Sight&) const = default;  // NOLINT(modernize-use-nullptr): of the compiler
};

struct CachedAttention {
  program::ValueId q = program::kNone;
  program::Shape shape;  // of q: [batch, heads, tokens, size], which it may have as [batch heads, tokens, size]
  OwnTokens k, v;
  double scale = 1;
  Sight sight;
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
    double factor = 1;                                                // of what is added
    bool is_flat = false;                                             // [batch heads, queries, keys]
  };
  struct Scores {
    program::ValueId q = program::kNone, keys = program::kNone;  // keys [batch, heads, size, keys]
    program::Shape shape;                                        // [batch, heads, queries, keys]
    double scale = 1;
    bool is_flat = false;
    std::vector<Mask> masks;
  };
  struct AllTokens {
    program::ValueId value = program::kNone;
    program::Sizes sizes;  // [batch, heads, past and tokens, size]
    bool is_turned = false, is_flat = false;
  };
  void find_points();
  bool is_of_empty_rows(const program::Node& condition, program::ValueId weights) const;
  std::optional<double> number_of(program::ValueId id) const;
  program::ValueId with_full_rows(program::ValueId weights) const;
  std::optional<program::ValueId> unflattened(program::ValueId id) const;
  std::optional<Scores> scores_of(program::ValueId weights);
  bool peel(const program::Node& node, program::ValueId& id, Scores& scores);
  std::optional<AllTokens> all_tokens(program::ValueId id, bool is_turned, const Scores& scores) const;
  Pointwise::Origin origin(const AllTokens& all, const program::Sizes& at);
  std::optional<OwnTokens> told_dims(const AllTokens& all);
  std::optional<OwnTokens> own_tokens(program::ValueId id, bool is_turned, const Scores& scores);
  std::optional<double> bias_at(const Scores& scores, const program::Sizes& at);
  std::optional<Sight> sight_of(const Scores& scores);
  std::set<int64_t> keys_to_look_at(int64_t query, int64_t window) const;
  std::vector<std::pair<int64_t, int64_t>> corners(const Scores& scores) const;
  bool fits(const Scores& scores, const Sight& sight, int64_t token, int64_t batch, int64_t head);
  bool fits(const Scores& scores, const Sight& sight);
  std::optional<std::vector<float>> slopes_of(const Scores& scores);

  const program::Program& p_;
  const PastInputs& pasts_;
  size_t tokens_;
  Makers makers_;
  std::vector<bool> varies_;
  std::vector<int64_t> numbers_, points_;  // that masks and places are made of; places of tokens to look at
  program::SymbolSizes sizes_;
  std::map<std::vector<double>, std::optional<Sight>> sights_;  // by heads and masks
  std::optional<Pointwise> at_;
};

}  // namespace bitlab::format::onnx
