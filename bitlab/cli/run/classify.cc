#include "bitlab/cli/run/classify.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "bitlab/base/file.h"
#include "bitlab/data/loader.h"

namespace bitlab::cli {
namespace {

// What a batch of such data is, and whether every token of a sample has an output of its own.
struct Form {
  program::Shape input;
  bool is_by_token = false;
};

Form form_of(const data::Preprocess& preprocess, const program::Shape& found) {
  if (const data::ImageSpec* image = preprocess.image(); image != nullptr)
    return {{program::kBatch, image->channels, image->height, image->width}};
  // Of texts any number of tokens, or that of the samples.
  const bool is_open = found.size() == 2 && !found[1].is_number();
  return {{program::kBatch, is_open ? found[1] : program::Dim(preprocess.text()->tokens)},
          preprocess.text()->labels.empty()};
}

runtime::TensorView view_of(const data::Array& array) {
  const bool is_float = array.dtype == data::DType::kFloat32;
  return {array.shape, is_float ? program::DType::kFloat32 : program::DType::kInt64, array.bytes.data()};
}

// Runs the first array of each batch; `take` gets the batch and the output. Returns the seconds in the runtime.
using Take = std::function<Status(const data::Sample& batch, const runtime::TensorView& output)>;
Result<double> run_batches(runtime::Session& session, const DatasetRun& run, const Take& take) {
  double seconds = 0;
  for (int64_t begin = 0; begin < run.set.size(); begin += run.batch) {
    std::vector<int64_t> indices(static_cast<size_t>(std::min(run.batch, run.set.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    BITLAB_TRY(const data::Sample batch, data::make_batch(run.set, run.preprocess, indices));
    const runtime::TensorView view = view_of(batch.arrays[0]);
    const auto start = std::chrono::steady_clock::now();
    BITLAB_TRY(const auto outputs, session.run({&view, 1}));
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    BITLAB_RETURN_IF_ERROR(take(batch, outputs[0]));
    if (run.progress) run.progress(begin + static_cast<int64_t>(indices.size()));
  }
  return seconds;
}

// log(sum of exp(logits)) - logits[next], in double.
double loss_of(std::span<const float> logits, int64_t next) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - static_cast<double>(logits[static_cast<size_t>(next)]);
}

}  // namespace

Result<data::Preprocess> preprocess_of(const runtime::Model& model) {
  const program::Program& p = model.program();
  const auto image = p.metadata.find("image"), text = p.metadata.find("text");
  if ((image == p.metadata.end() && text == p.metadata.end()) || p.inputs.size() != 1 || p.outputs.size() != 1)
    return make_error(
        ErrorCode::kInvalidArgument,
        "[run] a model of images or texts, got one with {} inputs, {} outputs and {} 'image' or 'text' in its metadata",
        p.inputs.size(), p.outputs.size(), image == p.metadata.end() && text == p.metadata.end() ? "no" : "an");
  data::Preprocess preprocess;
  if (image != p.metadata.end()) {
    BITLAB_TRY(preprocess.spec, data::ImageSpec::from_json(image->second));
  } else {
    BITLAB_TRY(preprocess.spec, data::TextSpec::from_json(text->second));
  }
  const program::Shape &input = p.value(p.inputs[0]).shape, &output = p.value(p.outputs[0].value).shape;
  const Form form = form_of(preprocess, input);
  const program::DType dtype = image != p.metadata.end() ? program::DType::kFloat32 : program::DType::kInt64;
  program::Shape expected = form.is_by_token ? input : program::Shape{program::kBatch};
  if (!output.empty()) expected.push_back(output.back());
  if (input != form.input || p.value(p.inputs[0]).dtype != dtype || output != expected || !output.back().is_number())
    return make_error(ErrorCode::kCorrupt, "[run] an input {} and an output {}, got {} and {}", p.show(form.input),
                      form.is_by_token ? "of a row for each token" : "[batch, classes]", p.show(input), p.show(output));
  return preprocess;
}

int64_t Classification::best(int64_t sample) const {
  const auto row = logits.begin() + sample * classes;
  return std::max_element(row, row + classes) - row;
}

double Classification::accuracy() const {
  int64_t right = 0;
  for (int64_t i = 0; i < count; ++i) right += best(i) == labels[static_cast<size_t>(i)];
  return count == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(count);
}

Result<Classification> classify(runtime::Session& session, const DatasetRun& run) {
  Classification result;
  result.count = run.set.size();
  const Take take = [&](const data::Sample& batch, const runtime::TensorView& output) -> Status {
    result.classes = output.shape[1];
    result.logits.insert(result.logits.end(), output.as(), output.as() + output.shape[0] * result.classes);
    if (const data::Array* label = batch.find("label"); label != nullptr) {
      const auto labels = label->values<int64_t>();
      result.labels.insert(result.labels.end(), labels.begin(), labels.end());
    }
    return {};
  };
  BITLAB_TRY(result.seconds, run_batches(session, run, take));
  return result;
}

Result<Perplexity> perplexity(runtime::Session& session, const DatasetRun& run) {
  Perplexity result;
  double sum = 0;
  const Take take = [&](const data::Sample& batch, const runtime::TensorView& output) -> Status {
    const data::Array* next = batch.find("next");
    if (next == nullptr)
      return make_error(ErrorCode::kInvalidArgument, "[run] a text whose next tokens are known, got none");
    const auto tokens = next->values<int64_t>();
    const int64_t vocabulary = output.shape.back();
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= vocabulary)
        return make_error(ErrorCode::kInvalidArgument, "[run] tokens below {}, got {}", vocabulary, tokens[i]);
      sum += loss_of({output.as() + static_cast<int64_t>(i) * vocabulary, static_cast<size_t>(vocabulary)}, tokens[i]);
    }
    result.tokens += static_cast<int64_t>(tokens.size());
    return {};
  };
  BITLAB_TRY(result.seconds, run_batches(session, run, take));
  result.loss = sum / static_cast<double>(std::max<int64_t>(1, result.tokens));
  return result;
}

Status write_logits(const Classification& result, const std::filesystem::path& path) {
  static_assert(std::endian::native == std::endian::little);
  return write_file_atomic(
      path, std::span(reinterpret_cast<const uint8_t*>(result.logits.data()), result.logits.size() * sizeof(float)));
}

}  // namespace bitlab::cli
