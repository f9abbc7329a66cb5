// The .bit reader, and what follows it: verify, pack, plan, run.
#include "tests/fuzz/fuzz.h"
#include <cstring>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/runtime/session.h"

namespace bitlab::fuzz {
namespace {

void run(runtime::Session& session, int64_t batch) {
  const program::Program& program = session.model().program();
  std::vector<std::vector<float>> data;
  std::vector<std::vector<int64_t>> indices;
  std::vector<runtime::TensorView> views;
  for (program::ValueId id : program.inputs) {
    const auto& shape = program.value(id).shape;
    data.emplace_back(static_cast<size_t>(elements(shape, batch)), 0.5F);
    indices.emplace_back(data.back().size(), 1);
    const bool is_index = program.value(id).dtype == program::DType::kInt64;
    views.push_back(
        {at_batch(shape, batch), is_index ? nullptr : data.back().data(), is_index ? indices.back().data() : nullptr});
  }
  static_cast<void>(session.run(views));
}

// Accepted programs run, if they are small: a valid file may well describe a network that takes a minute.
void run(const program::Program& program) {
  constexpr int64_t kMostBytes = 1 << 20, kMostValues = 1 << 14;
  for (const program::Value& value : program.values)
    if (elements(value.shape, 2) > kMostValues) return;
  const auto model = runtime::Model::create(program);
  if (!model.ok()) return;
  const auto plan = runtime::make_plan(**model, 2, 1);
  if (!plan.ok() || plan->arena_bytes > kMostBytes) return;
  auto session = runtime::Session::create(*model).value();
  for (int64_t batch : {2, 0}) run(*session, batch);
}

// "{...}" from byte 8 on as far as it looks like a header; splices change its length.
size_t header_size(const std::string& bytes) {
  uint64_t length = 0;
  if (bytes.size() < 8) return 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length <= bytes.size() - 8 && bytes[8 + length - (length > 0)] == ' ') return length;
  const size_t end = bytes.find("      ", 8);
  return end == std::string::npos ? bytes.size() - 8 : end - 8;
}

}  // namespace

bool read_bytes(std::span<const uint8_t> bytes) {
  AlignedBuffer buffer = AlignedBuffer::allocate(bytes.size()).value();
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  const auto program = format::bit::parse(buffer.bytes(), nullptr);
  if (program.ok()) run(*program);
  return program.ok();
}

std::vector<std::vector<uint8_t>> seeds() {
  std::vector<std::vector<uint8_t>> list;
  for (const program::Program& p :
       {format::bit::test::small_program(), format::bit::test::wide_program(), format::bit::test::image_program()}) {
    const std::string bytes = format::bit::serialize(p).value();
    list.emplace_back(bytes.begin(), bytes.end());
  }
  return list;
}

void repair(std::vector<uint8_t>& bytes) {
  const std::string text(bytes.begin(), bytes.end()), fixed = format::bit::test::repaired(text, header_size(text));
  bytes.assign(fixed.begin(), fixed.end());
}

MemoryBound memory_bound() {
  return {16, 256 << 10};
}  // the constant: session, plan and thread pool of a program that is accepted

}  // namespace bitlab::fuzz
