#include "bitlab/cli/run/classify.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "bitlab/base/file.h"

namespace bitlab::cli {

Result<data::ImageSpec> image_spec_of(const runtime::Model& model) {
  const program::Program& p = model.program();
  const auto found = p.metadata.find("image");
  if (found == p.metadata.end() || p.inputs.size() != 1 || p.outputs.size() != 1)
    return make_error(ErrorCode::kInvalidArgument,
                      "[run] a model that classifies images, got one with {} inputs, {} outputs and {}", p.inputs.size(),
                      p.outputs.size(), found == p.metadata.end() ? "no 'image' in its metadata" : "an image");
  BITLAB_TRY(data::ImageSpec spec, data::ImageSpec::from_json(found->second));
  const program::Shape expected{program::kBatch, spec.channels, spec.height, spec.width};
  const program::Shape& output = p.value(p.outputs[0].value).shape;
  if (p.value(p.inputs[0]).shape != expected || output.size() != 2 || output[0] != program::kBatch || !output[1].is_number())
    return make_error(ErrorCode::kCorrupt, "[run] an input {} and an output [batch, classes], got {} and {}",
                      p.show(expected), p.show(p.value(p.inputs[0]).shape), p.show(output));
  return spec;
}

int64_t Classification::best(int64_t image) const {
  const auto row = logits.begin() + image * classes;
  return std::max_element(row, row + classes) - row;
}

Result<Classification> classify(runtime::Session& session, const data::ImageSpec& spec, std::span<const uint8_t> pixels,
                                int64_t count, int64_t batch, const std::function<void(int64_t)>& progress) {
  const int64_t values = spec.channels * spec.height * spec.width;
  std::vector<float> input(static_cast<size_t>(std::min(batch, count) * values));
  Classification result;
  result.count = count;
  for (int64_t begin = 0; begin < count; begin += batch) {
    const int64_t size = std::min(batch, count - begin);
    data::normalize(spec, pixels.subspan(static_cast<size_t>(begin * values), static_cast<size_t>(size * values)),
                    std::span(input).first(static_cast<size_t>(size * values)));
    const runtime::TensorView view{{size, spec.channels, spec.height, spec.width}, input.data()};
    const auto start = std::chrono::steady_clock::now();
    BITLAB_TRY(const auto outputs, session.run({&view, 1}));
    result.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.classes = outputs[0].shape[1];
    result.logits.insert(result.logits.end(), outputs[0].as(), outputs[0].as() + size * result.classes);
    if (progress) progress(begin + size);
  }
  return result;
}

double accuracy(const Classification& result, std::span<const int64_t> labels) {
  int64_t right = 0;
  for (int64_t i = 0; i < result.count; ++i) right += result.best(i) == labels[static_cast<size_t>(i)];
  return result.count == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(result.count);
}

Status write_logits(const Classification& result, const std::filesystem::path& path) {
  static_assert(std::endian::native == std::endian::little);
  return write_file_atomic(
      path, std::span(reinterpret_cast<const uint8_t*>(result.logits.data()), result.logits.size() * sizeof(float)));
}

}  // namespace bitlab::cli
