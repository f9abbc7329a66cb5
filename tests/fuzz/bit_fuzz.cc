// The .bit reader, and what follows it: verify, pack, plan, run.
#include "tests/fuzz/fuzz.h"
#include <algorithm>
#include <cstring>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/runtime/edges_test_support.h"
#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/session.h"

namespace bitlab::fuzz {
namespace {

void run(runtime::Session& session, const program::SymbolSizes& sizes) {
  const program::Program& program = session.model().program();
  std::vector<std::vector<uint8_t>> data;
  std::vector<runtime::TensorView> views;
  for (program::ValueId id : program.inputs) {
    const program::Value& value = program.value(id);
    const int64_t count = elements(value.shape, sizes);
    const std::vector<float> ones(static_cast<size_t>(count), 1);
    data.emplace_back(static_cast<size_t>(count * size_of(value.dtype)));
    runtime::cast(program::DType::kFloat32, ones.data(), value.dtype, data.back().data(), count);
    views.emplace_back(shape_at(value.shape, sizes), value.dtype, data.back().data());
  }
  static_cast<void>(session.run(std::span<const runtime::TensorView>(views)));
}

// Accepted programs run, if they are small: a valid file may well describe a network that takes a minute.
void run(const program::Program& program) {
  constexpr int64_t kMostBytes = 1 << 20, kMostValues = 1 << 14;
  program::SymbolSizes sizes = program::kOnes;
  for (size_t i = 0; i < program.symbols.size(); ++i) sizes[i] = std::max<int64_t>(program.symbols[i].min, 2);
  for (const program::Value& value : program.values)
    if (elements(value.shape, sizes) > kMostValues) return;
  const auto model = runtime::Model::create(program);
  if (!model.ok()) return;
  const auto plan = runtime::make_plan(**model, sizes, 1);
  if (!plan.ok() || plan->arena_bytes > kMostBytes) return;
  auto session = runtime::Session::create(*model).value();
  run(*session, sizes);
  run(*session, sizes);  // behind the positions of the first, where there are states
  static_cast<void>(session->truncate(1));
  run(*session, sizes);
  session->reset();
  sizes[0] = 0;
  run(*session, sizes);
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
       {format::bit::test::small_program(), format::bit::test::wide_program(), format::bit::test::image_program(),
        format::bit::test::decoder_program(), runtime::program_of(runtime::all_ops())}) {
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
