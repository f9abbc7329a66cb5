// The data sets that come with BitLab, as map-style data sets of NumPy arrays.
#include "core.h"
#include <algorithm>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "bitlab/data/dataset.h"
#include "bitlab/data/tokenizer.h"
#include "bitlab/format/formats.h"

namespace nb = nanobind;

namespace bitlab::python {
namespace {

nb::object to_python(const data::Array& array) {
  using Code = nb::dlpack::dtype_code;
  const auto of = [](Code code, uint8_t bits) { return nb::dlpack::dtype{static_cast<uint8_t>(code), bits, 1}; };
  if (array.shape.empty() && array.dtype == data::DType::kInt64) return nb::int_(array.values<int64_t>()[0]);
  auto* own = new std::vector<uint8_t>(array.bytes);
  const nb::capsule owner(own, [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
  const std::vector<size_t> shape(array.shape.begin(), array.shape.end());
  const nb::dlpack::dtype type = array.dtype == data::DType::kUInt8   ? of(Code::UInt, 8)
                                 : array.dtype == data::DType::kInt64 ? of(Code::Int, 64)
                                                                      : of(Code::Float, 32);
  return nb::cast(nb::ndarray<nb::numpy>(own->data(), shape.size(), shape.data(), owner, nullptr, type),
                  nb::rv_policy::reference);
}

// A sample is a tuple of its arrays, prepared as a network takes them.
class Dataset {
 public:
  Dataset(std::string_view name, std::string_view split, const std::string& root, int64_t limit, const Overrides& own)
      : set_(data::load_dataset(name, split_of(split), {root, limit, own}).value()), preprocess_(set_->preprocess()) {}
  int64_t size() const { return set_->size(); }
  std::string spec() const { return preprocess_.spec_json(); }
  std::string kind() const { return std::string(preprocess_.kind()); }
  nb::tuple get(int64_t index) const {
    if (index < 0) index += size();
    if (index < 0 || index >= size()) throw nb::index_error("the data set has no sample with that index");
    data::Sample batch = data::stack(std::vector{set_->get(index).value()}).value();
    preprocess_.apply(batch).value();
    nb::list arrays;
    for (data::Array& array : batch.arrays) {
      array.shape.erase(array.shape.begin());  // a batch of one
      arrays.append(to_python(array));
    }
    return nb::tuple(arrays);
  }

 private:
  static data::Split split_of(std::string_view split) {
    if (split == "train") return data::Split::kTrain;
    if (split == "test") return data::Split::kTest;
    throw Exception(make_error(ErrorCode::kUnknownName, "[data] a split of {{train, test}}, got '{}'", split));
  }
  data::DatasetPtr set_;
  data::Preprocess preprocess_;
};

}  // namespace

void bind_data(nb::module_& m) {
  nb::class_<Dataset>(m, "Dataset", "A data set by index. A sample is a tuple, such as (image, label) or (tokens, next).")
      .def(nb::init<std::string_view, std::string_view, const std::string&, int64_t, const Overrides&>(), nb::arg("name"),
           nb::arg("split") = "train", nb::arg("root") = "", nb::arg("limit") = 0, nb::arg("options") = Overrides{})
      .def("__len__", &Dataset::size)
      .def("__getitem__", &Dataset::get, nb::arg("index"))
      .def_prop_ro("kind", &Dataset::kind, "'image', 'text' or 'none'.")
      .def_prop_ro("spec", &Dataset::spec,
                   "How samples become a network's input, for the metadata of a file: {kind: spec}.");
  // Held by a pointer to what may change, which nanobind wants; nothing of it does.
  nb::class_<data::Tokenizer>(m, "Tokenizer", "Text as numbers and back.")
      .def("__len__", &data::Tokenizer::size)
      .def(
          "encode", [](const data::Tokenizer& t, const std::string& text) { return t.encode(text).value(); },
          nb::arg("text"), "The numbers of a text, without special tokens around it.")
      .def(
          "decode",
          [](const data::Tokenizer& t, const std::vector<int64_t>& ids) {
            const std::string text = t.decode(ids).value();
            return nb::bytes(text.data(), text.size()).attr("decode")("utf-8", "replace");
          },
          nb::arg("ids"), "What they say.");
  m.def(
      "load_tokenizer",
      [](const std::string& name) { return std::const_pointer_cast<data::Tokenizer>(format::load_tokenizer(name).value()); },
      nb::arg("name") = "bytes",
      "'bytes', or the path of a tokenizer.json, or of a GGUF file or a folder that has one: byte-pair encoding, WordPiece "
      "or Unigram.");
  m.def("dataset_names", &data::dataset_names, "The data sets that there are.");
}

}  // namespace bitlab::python
