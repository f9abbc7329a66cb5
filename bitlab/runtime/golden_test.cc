// Files of earlier days give their bits for ever, on every CPU: a program of every operation in all its forms, and what it makes of fixed inputs
// (tests/golden/README.md).
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/runtime/edges_test_support.h"
#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/outputs_test_support.h"
#include "bitlab/ternary/internal/draw.h"

namespace bitlab::runtime {
namespace {

namespace fs = std::filesystem;

fs::path golden_folder() { return fs::path(BITLAB_SOURCE_DIR) / "tests/golden"; }

// operations_1.bit, operations_2.bit, ...: each has the operations that came behind the one before.
std::vector<fs::path> golden_files() {
  std::vector<fs::path> files;
  for (int i = 1; fs::exists(golden_folder() / fmt::format("operations_{}.bit", i)); ++i)
    files.push_back(golden_folder() / fmt::format("operations_{}.bit", i));
  return files;
}

// From -8 to 8 in steps of 1/16; indices and numbers of other types 0, 1 and 2.
std::vector<uint8_t> fixed_elements(DType dtype, int64_t count, uint32_t seed) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = ternary::mix(ternary::draw_key(seed) + static_cast<uint64_t>(i) * ternary::kDrawIncrement);
    const bool is_float = dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
    values.push_back(is_float ? static_cast<float>(static_cast<int64_t>(bits % 257) - 128) / 16
                              : static_cast<float>(bits % (dtype == DType::kBool ? 2 : 3)));
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(count * size_of(dtype)));
  cast(DType::kFloat32, values.data(), dtype, bytes.data(), count);
  return bytes;
}

// Of the runs: two samples of three tokens.
program::SymbolSizes fixed_sizes() {
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 3, sizes[2] = 3;
  return sizes;
}

// The bytes of all outputs, one behind the other.
std::string outputs_of(const Program& p) {
  const program::SymbolSizes sizes = fixed_sizes();
  std::vector<std::vector<uint8_t>> data;
  std::vector<TensorView> views;
  for (const ValueId id : p.inputs) {
    const Value& v = p.value(id);
    data.push_back(fixed_elements(v.dtype, elements(v.shape, sizes), static_cast<uint32_t>(data.size()) + 1));
    views.emplace_back(shape_at(v.shape, sizes), v.dtype, data.back().data());
  }
  return output_bytes(p, sizes, views, 2);
}

fs::path values_of(fs::path file) { return file.replace_extension(".values"); }

// The outputs whose bytes differ.
std::string differing(const Program& p, const std::string& found, const std::string& wanted) {
  if (found.size() != wanted.size()) return fmt::format("{} bytes instead of {}", found.size(), wanted.size());
  const program::SymbolSizes sizes = fixed_sizes();
  std::string names;
  size_t at = 0;
  for (const program::Output& output : p.outputs) {
    const Value& v = p.value(output.value);
    const auto bytes = static_cast<size_t>(elements(v.shape, sizes) * size_of(v.dtype));
    if (found.compare(at, bytes, wanted, at, bytes) != 0) names += output.name + " ";
    at += bytes;
  }
  return names;
}

TEST(Golden, FilesOfEveryOperationGiveTheirBits) {
  ASSERT_FALSE(golden_files().empty());
  for (const fs::path& file : golden_files()) {
    const auto program = format::bit::load(file);
    ASSERT_TRUE(program.ok()) << program.error().message;
    EXPECT_EQ(differing(*program, outputs_of(*program), read_file(values_of(file)).value()), "") << file;
  }
}

// Writes the file of the operations that none has, where BITLAB_WRITE_GOLDEN is set.
TEST(Golden, FilesHaveEveryOperation) {
  std::set<Op> there;
  for (const fs::path& file : golden_files())
    for (const program::Node& node : format::bit::load(file).value().nodes) there.insert(node.op);
  std::vector<Op> missing = all_ops();
  std::erase_if(missing, [&](Op op) { return there.contains(op); });
  if (!missing.empty() && std::getenv("BITLAB_WRITE_GOLDEN") != nullptr) {
    const fs::path file = golden_folder() / fmt::format("operations_{}.bit", golden_files().size() + 1);
    const Program p = program_of(missing);
    format::bit::save(p, file).value();
    ASSERT_TRUE(write_file_atomic(values_of(file), std::string_view(outputs_of(p))).ok());
    return;
  }
  for (const Op op : missing)
    ADD_FAILURE() << program::name(op) << " is in none: BITLAB_WRITE_GOLDEN=1 runtime_test --gtest_filter='Golden.*'";
}

}  // namespace
}  // namespace bitlab::runtime
