// The reader of Einsum: operand by operand, each pair a product of matrices.
#include <algorithm>
#include <cctype>
#include <map>

#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

using Labels = std::vector<int>;  // of dimensions: letters, or -1, -2, ... for those of an ellipsis, from its end

struct Labelled {
  ValueId id = program::kNone;
  Labels labels;
};

bool has(const Labels& labels, int label) { return std::find(labels.begin(), labels.end(), label) != labels.end(); }

// The labels of a term: `wide` dimensions of its ellipsis.
Result<Labels> labels_of(const Reader& r, std::string_view term, size_t wide) {
  Labels labels;
  for (size_t i = 0; i < term.size(); ++i) {
    if (term.substr(i, 3) == "...") {
      for (size_t k = wide; k > 0; --k) labels.push_back(-static_cast<int>(k));
      i += 2;
    } else if (std::isalpha(static_cast<unsigned char>(term[i])) != 0) {
      labels.push_back(term[i]);
    } else {
      return r.corrupt("letters and an ellipsis, got '{}'", term);
    }
  }
  return labels;
}

struct Equation {
  std::vector<Labels> terms;
  Labels output;
};

Result<Equation> equation_of(const Reader& r) {
  std::string text = r.text("equation", "");
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  std::vector<std::string> parts(1);
  for (const char c : text.substr(0, arrow)) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  if (parts.size() != r.node().inputs.size())
    return r.corrupt("a term for each of {} inputs, got '{}'", r.node().inputs.size(), text);
  Equation equation;
  size_t widest = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool is_open = parts[i].find("...") != std::string::npos;
    const size_t letters = parts[i].size() - (is_open ? 3 : 0), rank = r.shape(i).size();
    if (letters > rank || (!is_open && letters != rank))
      return r.corrupt("a letter for each size of {}, got '{}'", r.show(r.shape(i)), parts[i]);
    widest = std::max(widest, rank - letters);
    BITLAB_TRY(equation.terms.emplace_back(), labels_of(r, parts[i], rank - letters));
  }
  if (arrow != std::string::npos) {
    BITLAB_TRY(equation.output, labels_of(r, std::string_view(text).substr(arrow + 2), widest));
    return equation;
  }
  std::map<int, int> counts;  // letters that stand once, in their order, behind the ellipsis
  for (const Labels& term : equation.terms)
    for (const int label : term) counts[label] += label < 0 ? 0 : 1;
  for (const auto& [label, count] : counts)
    if (count <= 1) equation.output.push_back(label);
  return equation;
}

Result<Labelled> permuted(Reader& r, const Labelled& x, const Labels& order) {
  Ints dims;
  for (const int label : order) dims.push_back(std::find(x.labels.begin(), x.labels.end(), label) - x.labels.begin());
  BITLAB_TRY(const ValueId id, r.permute(x.id, dims));
  return Labelled{id, order};
}

// The diagonal of two dimensions of one label.
Result<Labelled> diagonal(Reader& r, Labelled x, size_t a, size_t b) {
  const Shape shape = r.shape_of(x.id);
  if (!shape[a].is_number() || shape[a] != shape[b])
    return r.refuse("a diagonal of equal sizes that are numbers, got {}", r.show(shape));
  Ints dims;
  Shape rest;
  Labels labels;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (d == a || d == b) continue;
    dims.push_back(static_cast<int64_t>(d)), rest.push_back(shape[d]), labels.push_back(x.labels[d]);
  }
  dims.push_back(static_cast<int64_t>(a)), dims.push_back(static_cast<int64_t>(b));
  const int64_t n = shape[a].factor;
  BITLAB_TRY(ValueId id, r.permute(x.id, dims));
  Shape flat = rest;
  flat.emplace_back(program::saturated_product(n, n));
  BITLAB_TRY(id, r.reshape(id, flat));
  BITLAB_TRY(id, r.slice(id, static_cast<int64_t>(rest.size()), 0, n, n + 1));
  labels.push_back(x.labels[a]);
  return Labelled{id, labels};
}

// An operand with each label once.
Result<Labelled> operand_of_term(Reader& r, size_t input, const Labels& labels) {
  BITLAB_TRY(const ValueId id, r.activation(input));
  Labelled x{id, labels};
  for (size_t a = 0; a < x.labels.size();) {
    const auto again = std::find(x.labels.begin() + static_cast<int64_t>(a) + 1, x.labels.end(), x.labels[a]);
    if (again == x.labels.end()) {
      ++a;
      continue;
    }
    BITLAB_TRY(x, diagonal(r, x, a, static_cast<size_t>(again - x.labels.begin())));
    a = 0;
  }
  return x;
}

Shape sizes_of(Reader& r, const Labelled& x, const Labels& labels) {
  const Shape& shape = r.shape_of(x.id);
  Shape sizes;
  for (const int label : labels)
    sizes.push_back(shape[static_cast<size_t>(std::find(x.labels.begin(), x.labels.end(), label) - x.labels.begin())]);
  return sizes;
}

// Without the labels that nothing else has: their sum.
Result<Labelled> summed(Reader& r, const Labelled& x, const Labels& kept) {
  Labels order, gone;
  for (const int label : x.labels) (has(kept, label) ? order : gone).push_back(label);
  if (gone.empty()) return x;
  const Shape rest = sizes_of(r, x, order);
  Labels all = order;
  all.insert(all.end(), gone.begin(), gone.end());
  BITLAB_TRY(const Labelled sorted, permuted(r, x, all));
  Shape rows = rest.empty() ? Shape{1} : rest;
  rows.push_back(program::volume(sizes_of(r, x, gone)));
  BITLAB_TRY(ValueId id, r.reshape(sorted.id, rows));
  BITLAB_TRY(id, r.emit(Op::sum, {id}));
  BITLAB_TRY(id, r.reshape(id, rest));
  return Labelled{id, order};
}

// Sizes of 1 as wide as the other operand's.
Result<Labelled> as_wide(Reader& r, const Labelled& x, const Labelled& as) {
  Shape shape = r.shape_of(x.id);
  for (size_t d = 0; d < shape.size(); ++d) {
    if (!has(as.labels, x.labels[d])) continue;
    const Dim size = sizes_of(r, as, {x.labels[d]})[0];
    if (shape[d] == Dim(1)) shape[d] = size;
    if (shape[d] != size && size != Dim(1))
      return r.refuse("one size of each letter, got {} and {}", r.show({shape[d]}), r.show({size}));
  }
  BITLAB_TRY(const ValueId id, r.expand(x.id, shape));
  return Labelled{id, x.labels};
}

// The product of two: labels of both that are kept are batches, those that are not are summed.
Result<Labelled> contracted(Reader& r, Labelled a, Labelled b, const Labels& kept) {
  BITLAB_TRY(a, as_wide(r, a, b));
  BITLAB_TRY(b, as_wide(r, b, a));
  Labels batch, inner, rows, columns;
  for (const int label : a.labels) (!has(b.labels, label) ? rows : has(kept, label) ? batch : inner).push_back(label);
  for (const int label : b.labels)
    if (!has(a.labels, label)) columns.push_back(label);
  const auto joined = [](const Labels& x, const Labels& y, const Labels& z) {
    Labels all = x;
    all.insert(all.end(), y.begin(), y.end());
    all.insert(all.end(), z.begin(), z.end());
    return all;
  };
  const Shape batches = sizes_of(r, a, batch), m = sizes_of(r, a, rows), n = sizes_of(r, b, columns);
  const Dim k = program::volume(sizes_of(r, a, inner));
  BITLAB_TRY(const Labelled left, permuted(r, a, joined(batch, rows, inner)));
  BITLAB_TRY(const Labelled right, permuted(r, b, joined(batch, inner, columns)));
  Shape left_shape = batches, right_shape = batches, shape = batches;
  left_shape.push_back(program::volume(m)), left_shape.push_back(k);
  right_shape.push_back(k), right_shape.push_back(program::volume(n));
  BITLAB_TRY(const ValueId x, r.reshape(left.id, left_shape));
  BITLAB_TRY(const ValueId y, r.reshape(right.id, right_shape));
  BITLAB_TRY(ValueId id, product(r, x, y));
  shape.insert(shape.end(), m.begin(), m.end());
  shape.insert(shape.end(), n.begin(), n.end());
  BITLAB_TRY(id, r.reshape(id, shape));
  return Labelled{id, joined(batch, rows, columns)};
}

}  // namespace

Result<Operands> read_einsum(Reader& r) {
  BITLAB_TRY(const Equation equation, equation_of(r));
  for (size_t i = 0; i < equation.terms.size(); ++i) BITLAB_RETURN_IF_ERROR(check_floats(r, i));
  std::optional<Labelled> result;
  for (size_t i = 0; i < equation.terms.size(); ++i) {
    BITLAB_TRY(Labelled x, operand_of_term(r, i, equation.terms[i]));
    Labels later = equation.output;  // what stands behind this term
    for (size_t k = i + 1; k < equation.terms.size(); ++k)
      later.insert(later.end(), equation.terms[k].begin(), equation.terms[k].end());
    Labels others = later;
    if (result) others.insert(others.end(), result->labels.begin(), result->labels.end());
    BITLAB_TRY(x, summed(r, x, others));
    if (!result) {
      result = x;
      continue;
    }
    Labels own = later;
    own.insert(own.end(), x.labels.begin(), x.labels.end());
    BITLAB_TRY(*result, summed(r, *result, own));
    BITLAB_TRY(*result, contracted(r, *result, x, later));
  }
  if (!result) return r.corrupt("inputs, got none");
  for (const int label : equation.output)
    if (!has(result->labels, label) || std::count(equation.output.begin(), equation.output.end(), label) > 1)
      return r.corrupt("letters of the inputs in the output, each once, got '{}'", r.text("equation", ""));
  BITLAB_TRY(*result, permuted(r, *result, equation.output));
  return Operands{result->id};
}

}  // namespace bitlab::format::onnx
