// Networks as source in C: what a compiler of the machine makes of it has the runtime's bits.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/base/process.h"
#include "bitlab/data/dataset.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/c/c.h"
#include "bitlab/format/formats.h"
#include "bitlab/runtime/edges_test_support.h"
#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/outputs_test_support.h"
#include "bitlab/ternary/internal/draw.h"

namespace bitlab::runtime {
namespace {

namespace fs = std::filesystem;

// A compiler, its flags, and what runs its programs.
struct Toolchain {
  std::string compiler;
  std::vector<std::string> flags, emulator;
};

class CSource : public testing::Test {
 public:
  static bool has(const std::string& program) { return run_process({program, "--version"}, Capture::kOutput).ok(); }

 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("c_source_test_{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Numbers of all kinds, the same each time: floats from -8 to 8; indices and numbers of other types 0 to 2.
  static std::vector<uint8_t> elements_of(DType dtype, int64_t count, uint32_t seed) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t bits = ternary::mix(ternary::draw_key(seed) + static_cast<uint64_t>(i) * ternary::kDrawIncrement);
      values.push_back(dtype == DType::kFloat32 ? static_cast<float>(static_cast<int64_t>(bits % 25741) - 12870) / 1601.0F
                                                : static_cast<float>(bits % (dtype == DType::kBool ? 2 : 3)));
    }
    std::vector<uint8_t> bytes(static_cast<size_t>(count * size_of(dtype)));
    cast(DType::kFloat32, values.data(), dtype, bytes.data(), count);
    return bytes;
  }

  static std::string run_here(const Program& p, const program::SymbolSizes& sizes, const std::string& input) {
    std::vector<TensorView> views;
    size_t at = 0;
    std::vector<std::vector<uint8_t>> data;
    for (const ValueId id : p.inputs) {
      const Value& v = p.value(id);
      const auto bytes = static_cast<size_t>(elements(v.shape, sizes) * size_of(v.dtype));
      data.emplace_back(input.begin() + static_cast<std::ptrdiff_t>(at),
                        input.begin() + static_cast<std::ptrdiff_t>(at + bytes));
      at += bytes;
      views.emplace_back(shape_at(v.shape, sizes), v.dtype, data.back().data());
    }
    return output_bytes(p, sizes, views, 1);
  }

  // A main() that reads all inputs, runs twice, and writes the outputs.
  std::string main_of(const Program& p, const program::SymbolSizes& sizes) const {
    std::string arrays, arguments, reads, writes;
    const auto add = [&](ValueId id, const std::string& name, bool is_input) {
      const Value& v = p.value(id);
      const char* type = v.dtype == DType::kFloat32 ? "float"
                         : v.dtype == DType::kBool  ? "uint8_t"
                         : v.dtype == DType::kInt64 ? "int64_t"
                                                    : "int32_t";
      arrays += fmt::format("static {} {}[{}];\n", type, name, elements(v.shape, sizes));
      arguments += (arguments.empty() ? "" : ", ") + name;
      (is_input ? reads : writes) +=
          fmt::format("  if ({0}({1}, sizeof({1}), 1, file) != 1) return 250;\n", is_input ? "fread" : "fwrite", name);
    };
    for (size_t i = 0; i < p.inputs.size(); ++i) add(p.inputs[i], fmt::format("x{}", i), true);
    for (size_t i = 0; i < p.outputs.size(); ++i) add(p.outputs[i].value, fmt::format("y{}", i), false);
    return fmt::format(
        "#include <stdio.h>\n#include \"net.h\"\n{0}int main(void) {{\n  FILE *file = fopen(\"{1}/input\", \"rb\");\n  int "
        "refused;\n"
        "  if (file == NULL) return 251;\n{2}  fclose(file);\n  net_run({3});\n  refused = net_run({3});\n"
        "  if (refused != 0) return refused;\n  file = fopen(\"{1}/output\", \"wb\");\n  if (file == NULL) return 252;\n{4}"
        "  return fclose(file);\n}}\n",
        arrays, folder_.string(), reads, arguments, writes);
  }

  // The outputs of the program in C; its exit code behind "exit ".
  std::string run_in_c(const Program& p, const program::SymbolSizes& sizes, const std::string& input, const Toolchain& tools,
                       const std::string& variant = "2bit") {
    const auto source = format::c::serialize(p, {"net", variant, sizes});
    EXPECT_TRUE(source.ok()) << source.error().message;
    if (!source.ok()) return "no source";
    const auto write = [&](const char* name, std::string_view text) {
      EXPECT_TRUE(write_file_atomic(folder_ / name, text).ok());
    };
    write("net.c", source->source), write("net.h", source->header), write("main.c", main_of(p, sizes)),
        write("input", input);
    std::vector<std::string> command{tools.compiler};
    command.insert(command.end(), tools.flags.begin(), tools.flags.end());
    const std::string program = folder_ / "net";
    for (const char* name : {"net.c", "main.c"}) command.push_back(folder_ / name);
    command.insert(command.end(), {"-o", program, "-lm"});
    const auto compiled = run_process(command, Capture::kErrors);
    EXPECT_TRUE(compiled.ok() && compiled->exit_code == 0) << (compiled.ok() ? compiled->text : compiled.error().message);
    std::vector<std::string> run = tools.emulator;
    run.push_back(program);
    const auto finished = run_process(run, Capture::kErrors);
    EXPECT_TRUE(finished.ok());
    if (finished->exit_code != 0) return fmt::format("exit {} {}", finished->exit_code, finished->text);
    return read_file(folder_ / "output").value();
  }

  void check_everywhere(const Program& p, const program::SymbolSizes& sizes, const std::string& input,
                        const std::string& expected);
  void check_integers(const Program& p, const program::SymbolSizes& sizes, const std::string& input, double tolerance);

  fs::path folder_;
};

// Those of all inputs, one behind the other.
std::string inputs_of(const Program& p, const program::SymbolSizes& sizes,
                      std::vector<uint8_t> (*elements_of)(DType, int64_t, uint32_t)) {
  std::string input;
  uint32_t seed = 0;
  for (const ValueId id : p.inputs) {
    const Value& v = p.value(id);
    const std::vector<uint8_t> data = elements_of(v.dtype, elements(v.shape, sizes), ++seed);
    input.append(data.begin(), data.end());
  }
  return input;
}

// What of the bytes is not as expected, which may be an exit code instead of them.
std::string differing(const std::string& found, const std::string& expected) {
  if (found.size() != expected.size())
    return fmt::format("{} bytes instead of {}: {}", found.size(), expected.size(), found.substr(0, 200));
  const auto at = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
  return at == static_cast<std::ptrdiff_t>(found.size()) ? "" : fmt::format("byte {}", at);
}

program::SymbolSizes example_sizes() {
  program::SymbolSizes sizes = program::at_batch(2);
  sizes[1] = 3, sizes[2] = 3;
  return sizes;
}

// All examples that have a form in C, each with inputs and outputs of its own, as one program; and those that were refused.
Program examples_in_c(bool libm, std::set<std::string>& refused) {
  ProgramBuilder b;
  b.symbol("tokens", 1, 6);
  std::vector<ValueId> outputs;
  int number = 0;
  for (const Op op : all_ops())
    for (const Variant& variant : variants(op)) {
      if (op == Op::attention && variant.form == 1) continue;  // states
      const auto source = format::c::serialize(example_of(op, variant), {"net", "2bit", example_sizes()});
      if (!source.ok()) {
        EXPECT_EQ(source.error().code, ErrorCode::kUnsupported) << source.error().message;
        refused.insert(std::string(program::name(op)));
      }
      if (!source.ok() || (source->header.find("SAME_BITS 0") != std::string::npos) != libm) continue;
      const auto added = Example(op, variant, b, fmt::format("{}{}.", program::name(op), ++number)).add();
      outputs.insert(outputs.end(), added.begin(), added.end());
    }
  return finished(b, outputs);
}

// Optimized; and checked for what C leaves undefined.
const Toolchain kOptimized{"cc", {"-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"}, {}};
const Toolchain kChecked{"cc", {"-std=c99", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"}, {}};

// Where their compilers and emulators are.
std::vector<Toolchain> other_machines() {
  const std::string board = BITLAB_SOURCE_DIR "/examples/deployment/microcontroller/";
  std::vector<Toolchain> all{{"riscv64-linux-gnu-gcc", {"-O2", "-static"}, {"qemu-riscv64"}},
                             {"aarch64-linux-gnu-gcc", {"-O2", "-static"}, {"qemu-aarch64"}}};
  // Without long products and divisions, with them, and with instructions for floats. The board with a Cortex-M3 runs what is for a Cortex-M0, too.
  for (const char* core : {"cortex-m0", "cortex-m3", "cortex-m4"})
    all.push_back({"arm-none-eabi-gcc",
                   {"-O2", fmt::format("-mcpu={}", core), "-mthumb",
                    core == std::string("cortex-m4") ? "-mfloat-abi=hard" : "-mfloat-abi=soft", "--specs=rdimon.specs", "-T",
                    board + "mps2.ld", board + "startup.c"},
                   {"qemu-system-arm", "-machine", core == std::string("cortex-m4") ? "mps2-an386" : "mps2-an385",
                    "-display", "none", "-semihosting", "-kernel"}});
  std::erase_if(all,
                [](const Toolchain& tools) { return !CSource::has(tools.compiler) || !CSource::has(tools.emulator[0]); });
  return all;
}

TEST_F(CSource, EveryOperationHasTheRuntimesBits) {
  std::set<std::string> refused;
  const Program p = examples_in_c(false, refused);
  EXPECT_GT(p.nodes.size(), 65U);
  const program::SymbolSizes sizes = example_sizes();
  const std::string input = inputs_of(p, sizes, elements_of), expected = run_here(p, sizes, input);
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kOptimized), expected), "");
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kChecked, "base3"), expected), "");
  // Compilers that fuse products and sums unless they are told not to.
  for (const char* compiler : {"cc", "clang-14"}) {
    if (!has(compiler)) continue;
    EXPECT_EQ(differing(run_in_c(p, sizes, input, {compiler, {"-O2", "-march=native"}, {}}), expected), "") << compiler;
  }
  for (const Toolchain& tools : other_machines())
    EXPECT_EQ(differing(run_in_c(p, sizes, input, tools), expected), "") << tools.compiler;
}

TEST_F(CSource, OperationsWithoutAFormAreThese) {
  std::set<std::string> refused;
  examples_in_c(false, refused);
  const std::set<std::string> expected{
      "argmax",       "attention",  "cast",        "cummax",    "cumprod", "cumsum",   "erfinv",
      "floor_divide", "gather",     "grid_sample", "positions", "prod",    "resample", "rotary",
      "scatter",      "shift_left", "shift_right", "sort",      "split"};  // some of them in one of their forms
  EXPECT_EQ(refused, expected);
}

TEST_F(CSource, FunctionsOfTheLibraryStayWithinRounding) {
  std::set<std::string> refused;
  const Program p = examples_in_c(true, refused);
  EXPECT_GT(p.nodes.size(), 14U);
  const program::SymbolSizes sizes = example_sizes();
  const std::string input = inputs_of(p, sizes, elements_of), expected = run_here(p, sizes, input),
                    found = run_in_c(p, sizes, input, kOptimized);
  ASSERT_EQ(found.size(), expected.size());
  const auto number = [](const std::string& bytes, size_t i) {
    float value = 0;
    std::memcpy(&value, bytes.data() + i, sizeof(value));
    return value;
  };
  for (size_t i = 0; i < found.size(); i += sizeof(float)) {
    const float a = number(found, i), b = number(expected, i);
    if (std::isnan(a) && std::isnan(b)) continue;
    EXPECT_TRUE(a == b || std::fabs(a - b) <= 2e-6F * std::max(1.0F, std::fabs(b))) << a << " " << b << " at " << i;
  }
}

TEST_F(CSource, MoreForms) {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 7, 5}),
                m = b.raw("m", DType::kInt64, {2}, {6, 0, 0, 0, 0, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF});
  const auto parts = b.nodes(Op::split, "parts", {x}, {{"dim", int64_t{1}}, {"sizes", Shape{2, 1, 4}}}).value();
  const ValueId at = b.node(Op::positions, "at", {}, {{"size", Shape{7}}, {"continues", int64_t{0}}}).value();
  const ValueId times = b.node(Op::cast, "times", {at}, {{"dtype", std::string("float32")}}).value();
  const ValueId column = b.node(Op::reshape, "column", {times}, {{"shape", Shape{7, 1}}}).value();
  const ValueId scaled = b.node(Op::mul, "scaled", {x, column}).value(),
                twice = b.node(Op::add, "twice", {scaled, scaled}).value();
  const ValueId taken = b.node(Op::take, "taken", {twice, m}, {{"dim", int64_t{1}}}).value();
  const ValueId same = b.node(Op::reshape, "same", {x}, {{"shape", Shape{kBatch, 35}}}).value();  // an input as output
  const Program p =
      b.finish({{"a", parts[0]}, {"b", parts[2]}, {"taken", taken}, {"again", taken}, {"same", same}, {"at", at}}).value();
  const program::SymbolSizes sizes = program::at_batch(2);
  const std::string input = inputs_of(p, sizes, elements_of);
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kChecked), run_here(p, sizes, input)), "");
}

// A random ternary weight.
std::vector<uint8_t> codes_of(int64_t rows, int64_t depth, bool all_ones) {
  std::vector<int8_t> t;
  for (int64_t i = 0; i < rows * depth; ++i)
    t.push_back(static_cast<int8_t>(all_ones ? 1 : static_cast<int>(ternary::mix(static_cast<uint64_t>(i) + 7) % 3) - 1));
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(rows, depth)));
  ternary::pack_codes(t, rows, depth, codes);
  return codes;
}

program::Attributes window(Sizes stride, Sizes padding, int64_t groups, const std::string& activation) {
  const size_t n = stride.size();
  return {{"stride", std::move(stride)}, {"padding", std::move(padding)}, {"dilation", Sizes(n, 1)},
          {"transposed", int64_t{0}},    {"output_padding", Sizes(n, 0)}, {"groups", groups},
          {"activation", activation}};
}

// A layer of each kind of scales and activations, linear and convolution; depths that fill no byte and no group.
Program every_product() {
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 3, 150}), image = b.input("image", {kBatch, 22, 5, 6}),
                wide = b.input("wide", {kBatch, 64, 5, 6});
  std::vector<ValueId> outputs;
  const auto scales = [](int64_t rows, const std::string& kind, int64_t groups) {
    program::TernaryScales all;
    for (int64_t n = 0; n < rows; ++n) all.scale.push_back(0.1F + 0.037F * static_cast<float>(n));
    if (kind == "two") all.scale_neg = {all.scale.rbegin(), all.scale.rend()};
    if (kind != "groups") return all;
    all.scale.clear();
    all.group = 64;
    for (int64_t i = 0; i < rows * groups; ++i) all.group_scale.push_back(static_cast<uint16_t>(0x2E00 + 37 * i));
    return all;
  };
  for (const std::string kind : {"row", "two", "groups"})
    for (const std::string activation : {"int8", "int4", "int8_static", "int4_static", "none"}) {
      if (kind != "row" && activation == "none") continue;
      const std::string name = kind + "_" + activation;
      const bool is_static = activation.ends_with("static");
      const ValueId step =
          is_static ? b.floats("step_" + name, {1}, {activation == "int8_static" ? 0.043F : 0.71F}) : program::kNone;
      const ValueId bias = b.floats("bias", {5}, {0.5F, -1, 2, 0.25F, -0.125F});
      const ValueId w = b.ternary("w_" + kind, {5, 150}, codes_of(5, 150, false), scales(5, kind, 3));
      outputs.push_back(b.node(Op::ternary_linear, name, {x, w, bias, step}, {{"activation", activation}}).value());
      const int64_t channels = kind == "groups" ? 64 : 22;  // a group lies within a tap
      const ValueId f = b.ternary("f_" + kind, {4, 3, 2, channels}, codes_of(4, 6 * channels, false), scales(4, kind, 6)),
                    picture = kind == "groups" ? wide : image;
      outputs.push_back(
          b.node(Op::ternary_conv, name + "_conv", {picture, f, program::kNone, step}, window({1, 2}, {2, 1}, 1, activation))
              .value());
    }
  return b.finish(outputs).value();
}

TEST_F(CSource, EveryKindOfProductHasTheRuntimesBits) {
  const Program p = every_product();
  const program::SymbolSizes sizes = program::at_batch(2);
  const std::string input = inputs_of(p, sizes, elements_of), expected = run_here(p, sizes, input);
  for (const char* variant : {"2bit", "base3"})
    EXPECT_EQ(differing(run_in_c(p, sizes, input, kChecked, variant), expected), "") << variant;
}

TEST_F(CSource, WorstCaseSumsAreExact) {
  constexpr int64_t kDepth = 140001;  // beyond 2^24 / 127, where floats no longer hold every sum
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, kDepth});
  const ValueId y = b.node(Op::ternary_linear, "y", {x, b.ternary("w", {1, kDepth}, codes_of(1, kDepth, true), {1})},
                           {{"activation", std::string("int8")}})
                        .value();
  const Program p = b.finish({y}).value();
  std::vector<float> ones(kDepth, 3.0F);
  const std::string input(reinterpret_cast<const char*>(ones.data()), ones.size() * sizeof(float));
  EXPECT_EQ(differing(run_in_c(p, program::kOnes, input, kChecked, "base3"), run_here(p, program::kOnes, input)), "");
}

// Runs on this machine, optimized and checked, and on the others.
void CSource::check_everywhere(const Program& p, const program::SymbolSizes& sizes, const std::string& input,
                               const std::string& expected) {
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kOptimized, "base3"), expected), "");
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kChecked), expected), "");
  for (const Toolchain& tools : other_machines())
    EXPECT_EQ(differing(run_in_c(p, sizes, input, tools), expected), "") << tools.compiler;
}

TEST_F(CSource, LeNetGivesItsGoldenLogits) {
  const fs::path golden = fs::path(BITLAB_SOURCE_DIR) / "tests/golden";
  const Program p = format::bit::load(golden / "lenet5.bit").value();
  const data::ImageSpec spec = data::ImageSpec::from_json(p.metadata.at("image")).value();
  const data::DatasetPtr digits = data::load_dataset("synthetic", data::Split::kTest).value();
  constexpr int64_t kDigits = 4, kPixels = 28 * 28;
  std::vector<float> x(static_cast<size_t>(kDigits * kPixels));
  for (int64_t i = 0; i < kDigits; ++i) {
    const data::Sample sample = digits->get(i).value();
    data::normalize(spec, sample.find("image")->values<uint8_t>(),
                    std::span(x).subspan(static_cast<size_t>(i * kPixels), kPixels));
  }
  const std::string input(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float));
  const std::string expected = read_file(golden / "lenet5.logits").value().substr(0, kDigits * 10 * sizeof(float));
  check_everywhere(p, program::at_batch(kDigits), input, expected);
}

TEST_F(CSource, TheExampleHasTheRuntimesLogits) {
  const fs::path example = fs::path(BITLAB_SOURCE_DIR) / "examples/deployment/microcontroller",
                 golden = fs::path(BITLAB_SOURCE_DIR) / "tests/golden";
  ASSERT_TRUE(
      format::save(format::bit::load(golden / "lenet5.bit").value(), folder_ / "lenet5.c", {.variant = "base3"}).ok());
  Toolchain board{"cc", {"-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"}, {}};
  const std::vector<Toolchain> others = other_machines();
  if (!others.empty()) board = others.back();
  std::vector<std::string> command{board.compiler};
  command.insert(command.end(), board.flags.begin(), board.flags.end());
  command.insert(command.end(), {"-I", folder_, example / "main.c", folder_ / "lenet5.c", "-o", folder_ / "lenet5", "-lm"});
  const auto compiled = run_process(command, Capture::kErrors);
  ASSERT_TRUE(compiled.ok() && compiled->exit_code == 0) << compiled->text;
  std::string line;
  for (const std::string& word : board.emulator) line += word + " ";
  const auto finished =
      run_process({"sh", "-c", fmt::format("{}{} 2>&1", line, (folder_ / "lenet5").string())}, Capture::kOutput);
  ASSERT_TRUE(finished.ok() && finished->exit_code == 0) << finished->text;
  const std::string logits = read_file(golden / "lenet5.logits").value();
  for (size_t i = 0; i < 10; ++i) {
    const std::string label = fmt::format("{}: ", i);
    float wanted = 0;
    std::memcpy(&wanted, logits.data() + i * sizeof(float), sizeof(wanted));
    EXPECT_EQ(std::strtof(finished->text.c_str() + finished->text.find(label) + label.size(), nullptr), wanted)
        << finished->text;
  }
}

// Spots keywords: MFCC [49, 10], a convolution, four depthwise and pointwise ones, a mean, 12 classes (arXiv:1711.07128, DS-CNN small). Weights are random.
// activation: int8, or int8_static with steps that such numbers ask for.
Program keyword_network(const std::string& activation) {
  ProgramBuilder b;
  int64_t number = 0;
  const auto step = [&](float largest) {
    return activation == "int8" ? program::kNone : b.floats(fmt::format("step{}", largest), {1}, {largest / 127});
  };
  const auto layer = [&](ValueId x, int64_t rows, std::vector<int64_t> kernel, program::Attributes how) {
    const std::string name = fmt::format("l{}", ++number);
    std::vector<int64_t> shape{rows};
    shape.insert(shape.end(), kernel.begin(), kernel.end());
    const int64_t depth = kernel[0] * kernel[1] * kernel[2];
    std::vector<float> scale, shift;
    for (int64_t n = 0; n < rows; ++n)
      scale.push_back((n % 5 == 3 ? -1.0F : 1.0F) * (0.8F + 0.01F * static_cast<float>(n))),
          shift.push_back(0.3F - 0.007F * static_cast<float>(n));
    const ValueId w =
        b.ternary(name + ".w", shape, codes_of(rows, depth, false), {1 / std::sqrt(static_cast<float>(depth))});
    how["activation"] = activation;
    const ValueId y = b.node(Op::ternary_conv, name, {x, w, program::kNone, step(number == 1 ? 8.0F : 6.0F)}, how).value();
    const ValueId norm = b.node(Op::batch_norm, name + ".norm",
                                {y, b.floats(name + ".scale", {rows}, scale), b.floats(name + ".shift", {rows}, shift)})
                             .value();
    return b.node(Op::relu, name + ".relu", {norm}).value();
  };
  ValueId x = layer(b.input("mfcc", {kBatch, 1, 49, 10}), 64, {10, 4, 1}, window({2, 2}, {5, 1}, 1, ""));
  for (int i = 0; i < 4; ++i) {
    x = layer(x, 64, {3, 3, 1}, window({1, 1}, {1, 1}, 64, ""));
    x = layer(x, 64, {1, 1, 64}, window({1, 1}, {0, 0}, 1, ""));
  }
  x = b.node(Op::adaptive_avg_pool, "mean", {x}, {{"output_size", Shape{1, 1}}}).value();
  x = b.node(Op::reshape, "flat", {x}, {{"shape", Shape{kBatch, 64}}}).value();
  const ValueId head = b.ternary("head.w", {12, 64}, codes_of(12, 64, false), {0.1F});
  x = b.node(Op::ternary_linear, "head", {x, head, program::kNone, step(3)}, {{"activation", activation}}).value();
  return b.finish({x}).value();
}

// A number that a header tells.
int64_t told(const Program& p, const std::string& variant, const std::string& name) {
  const std::string header = format::c::serialize(p, {"net", variant}).value().header;
  return std::stoll(header.substr(header.find(name) + name.size()));
}

TEST_F(CSource, AKeywordNetworkHasTheRuntimesBits) {
  const Program p = keyword_network("int8");
  const std::string input = inputs_of(p, program::kOnes, elements_of);
  check_everywhere(p, program::kOnes, input, run_here(p, program::kOnes, input));
  EXPECT_LT(told(p, "2bit", "RAM_BYTES "), 96 << 10);
}

std::vector<float> floats_of(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// The largest difference, as a part of the largest of the expected values.
double apart(const std::string& found, const std::string& expected) {
  const std::vector<float> a = floats_of(found), b = floats_of(expected);
  if (a.size() != b.size()) return INFINITY;
  double most = 0, difference = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    most = std::max(most, std::fabs(double{b[i]}));
    difference = std::max(difference, std::fabs(double{a[i]} - double{b[i]}));
  }
  return difference / most;
}

// In integers: as near to the runtime as that, and the same bytes on every machine.
void CSource::check_integers(const Program& p, const program::SymbolSizes& sizes, const std::string& input,
                             double tolerance) {
  const std::string checked = run_in_c(p, sizes, input, kChecked, "integer");
  EXPECT_LE(apart(checked, run_here(p, sizes, input)), tolerance);
  EXPECT_EQ(differing(run_in_c(p, sizes, input, kOptimized, "integer_base3"), checked), "");
  if (has("clang-14")) {
    const Toolchain clang{"clang-14", kOptimized.flags, {}};
    EXPECT_EQ(differing(run_in_c(p, sizes, input, clang, "integer"), checked), "");
  }
  for (const Toolchain& tools : other_machines())
    EXPECT_EQ(differing(run_in_c(p, sizes, input, tools, "integer"), checked), "") << tools.compiler;
}

TEST_F(CSource, AKeywordNetworkInIntegers) {
  const Program p = keyword_network("int8_static");
  const std::string input = inputs_of(p, program::kOnes, elements_of);
  check_everywhere(p, program::kOnes, input, run_here(p, program::kOnes, input));
  check_integers(p, program::kOnes, input, 1e-6);
  EXPECT_LT(told(p, "integer", "RAM_BYTES "), 33 << 10);
}

TEST_F(CSource, IntegersNeedNoFloats) {
  const auto source = format::c::serialize(keyword_network("int8_static"), {"net", "integer"}).value();
  ASSERT_TRUE(write_file_atomic(folder_ / "net.c", source.source).ok());
  ASSERT_TRUE(write_file_atomic(folder_ / "net.h", source.header).ok());
  const auto compile = [&](std::vector<std::string> command, const std::string& object) {
    command.insert(command.end(), {"-std=c99", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror", "-c", folder_ / "net.c",
                                   "-o", folder_ / object});
    const auto done = run_process(command, Capture::kErrors);
    return done.ok() && done->exit_code == 0;
  };
  // A compiler that may not use the registers of floats refuses an operation of them.
  const std::vector<std::string> here{"cc", "-mgeneral-regs-only"};
  EXPECT_TRUE(compile({here[0], here[1], "-DNET_NO_FLOATS"}, "net.o"));
  EXPECT_FALSE(compile(here, "net.o"));
  // On a processor without them each is a call.
  if (!has("arm-none-eabi-gcc")) return;
  const auto calls_of_floats = [&](const std::string& object) {
    std::set<std::string> calls;
    const auto listed = run_process({"arm-none-eabi-nm", "-u", folder_ / object}, Capture::kOutput);
    EXPECT_TRUE(listed.ok() && listed->exit_code == 0);
    for (const char* name : {"__aeabi_f", "__aeabi_d", "__aeabi_i2", "__aeabi_ui2", "__aeabi_l2", "__aeabi_ul2"})
      if (listed->text.find(name) != std::string::npos) calls.insert(name);
    return calls;
  };
  for (const char* core : {"-mcpu=cortex-m0", "-mcpu=cortex-m3"}) {
    ASSERT_TRUE(compile({"arm-none-eabi-gcc", core, "-mthumb", "-DNET_NO_FLOATS"}, "inside.o"));
    EXPECT_EQ(calls_of_floats("inside.o"), std::set<std::string>{}) << core;
    ASSERT_TRUE(compile({"arm-none-eabi-gcc", core, "-mthumb"}, "whole.o"));
    EXPECT_TRUE(calls_of_floats("whole.o").contains("__aeabi_f")) << core;
  }
}

// A product in integers, read by another with weights of an identity, which tells its int8 values.
struct Product {
  std::string name;
  Op op = Op::ternary_linear;
  std::vector<int64_t> shape{5, 150};
  program::TernaryScales scales{0.1F};
  std::string activation = "int8_static";
  float step = 0.043F;
  bool all_ones = false, is_int8 = false;
  std::vector<float> bias{}, norm{};  // and its shift, 0.5
  float next = 0.7F;
  std::string clamp{};
};

Program program_of(const Product& c, bool with_identity) {
  ProgramBuilder b;
  const bool is_conv = c.op == Op::ternary_conv;
  const int64_t rows = c.shape[0],
                depth = std::accumulate(c.shape.begin() + 1, c.shape.end(), int64_t{1}, std::multiplies<>());
  const ValueId x = is_conv ? b.input("x", {kBatch, c.shape.back() * 2, 4, 3}) : b.input("x", {kBatch, depth});
  std::vector<int8_t> t;
  for (int64_t i = 0; i < rows * depth; ++i) t.push_back(static_cast<int8_t>(c.all_ones ? -127 : i * 37 % 255 - 127));
  const ValueId w = c.is_int8 ? b.int8("w", c.shape, t, c.scales.scale)
                              : b.ternary("w", c.shape, codes_of(rows, depth, c.all_ones), c.scales);
  const ValueId bias = c.bias.empty() ? program::kNone : b.floats("bias", {rows}, c.bias);
  program::Attributes how{{"activation", c.activation}};
  if (is_conv) how = window({1, 2}, {2, 1}, 2, c.activation);
  ValueId y = b.node(c.op, "y", {x, w, bias, b.floats("step", {1}, {c.step})}, how).value();
  if (!c.norm.empty())
    y = b.node(Op::batch_norm, "norm",
               {y, b.floats("alpha", {rows}, c.norm), b.floats("beta", {rows}, std::vector<float>(c.norm.size(), 0.5F))})
            .value();
  if (c.clamp == "relu") y = b.node(Op::relu, "relu", {y}).value();
  if (c.clamp == "relu6") {
    y = b.node(Op::maximum, "low", {y, b.floats("zero", {1}, {0})}).value();
    y = b.node(Op::minimum, "high", {y, b.floats("six", {1}, {6})}).value();
  }
  if (is_conv) y = b.node(Op::reshape, "flat", {y}, {{"shape", Shape{kBatch, rows * 12}}}).value();
  if (!with_identity) return b.finish({y}).value();
  const int64_t n = is_conv ? rows * 12 : rows;
  std::vector<int8_t> diagonal(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) diagonal[static_cast<size_t>(i * n + i)] = 1;
  std::vector<uint8_t> codes(static_cast<size_t>(ternary::code_bytes(n, n)));
  ternary::pack_codes(diagonal, n, n, codes);
  y = b.node(Op::ternary_linear, "same",
             {y, b.ternary("i", {n, n}, codes, {1}), program::kNone, b.floats("next", {1}, {c.next})},
             {{"activation", std::string("int8_static")}})
          .value();
  return b.finish({y}).value();
}

// Every value is the runtime's, in units of the next step, rounded to the nearest integer in reach.
TEST_F(CSource, IntegersAreTheNearestOnes) {
  program::TernaryScales rows({0.1F, 0.0123F, 2.5F, 0.4F, 1e-4F}), two = rows, groups;
  two.scale_neg = {0.3F, 0.2F, 0.1F, 0.7F, 3.0F};
  groups.group = 64;
  for (int i = 0; i < 15; ++i) groups.group_scale.push_back(static_cast<uint16_t>(0x2E00 + 37 * i));
  program::TernaryScales both({0.1F});
  both.scale_neg = {0.3F};
  constexpr int64_t kDeep = 140001;  // beyond 2^24 / 127
  const std::vector<Product> cases{
      {.name = "tensor"},
      {.name = "rows", .scales = rows, .bias = {0.5F, -1, 2, 1e4F, -0.125F}},
      {.name = "a norm", .scales = rows, .norm = {1, -1.5F, 0, 30, -1e-3F}, .clamp = "relu"},
      {.name = "bounds", .scales = rows, .bias = {0.5F, -1, 2, 0.25F, 3}, .next = 0.05F, .clamp = "relu6"},
      {.name = "two scales", .scales = two},
      {.name = "two scales for all", .scales = both},
      {.name = "groups", .scales = groups, .bias = {0.5F, -1, 2, 0.25F, 3}},
      {.name = "int4", .activation = "int4_static", .step = 0.71F},
      {.name = "int8", .scales = rows, .is_int8 = true, .next = 30},
      {.name = "a convolution", .op = Op::ternary_conv, .shape = {4, 3, 2, 11}, .bias = {1, 2, 3, 4}, .next = 0.1F},
      {.name = "the deepest", .shape = {1, kDeep}, .scales = {1e-5F}, .step = 1e-3F, .all_ones = true, .next = 0.002F},
      {.name = "the deepest, saturated",
       .shape = {1, kDeep},
       .scales = {1},
       .step = 1e-3F,
       .all_ones = true,
       .next = 0.002F},
      {.name = "the deepest of int8",
       .shape = {1, 1 << 17},
       .scales = {1e-6F},
       .step = 1e-3F,
       .all_ones = true,
       .is_int8 = true,
       .next = 0.03F},
      {.name = "scales of next to nothing", .scales = {1e-30F}, .next = 1e-29F},
      {.name = "no scale", .scales = {0}, .bias = {1, 2, 3, 4, 5}},
  };
  for (const Product& c : cases) {
    const Program p = program_of(c, true), before = program_of(c, false);
    std::string input = inputs_of(before, program::kOnes, elements_of);
    if (c.all_ones)
      for (size_t i = 0; i < input.size(); i += sizeof(float)) {
        const float largest = 1;
        std::memcpy(input.data() + i, &largest, sizeof(largest));
      }
    const std::vector<float> y = floats_of(run_here(before, program::kOnes, input)),
                             q = floats_of(run_in_c(p, program::kOnes, input, kChecked, "integer"));
    ASSERT_EQ(q.size(), y.size()) << c.name;
    for (size_t i = 0; i < y.size(); ++i) {
      const double wanted = std::clamp(double{y[i]} / double{c.next}, -127.0, 127.0), found = double{q[i]} / double{c.next};
      EXPECT_LE(std::fabs(found - wanted), 0.5001) << c.name << " " << i;
      EXPECT_LE(std::fabs(found - std::round(found)), 1e-4) << c.name << " " << i;
    }
  }
}

// What lies between products: sums of two values, of which one is read by layers with steps of their own; pools; bounds; norms that follow no product; parts.
TEST_F(CSource, OperationsInIntegers) {
  ProgramBuilder b;
  int64_t number = 0;
  const auto conv = [&](ValueId x, int64_t from, int64_t to, float step) {
    const std::string name = fmt::format("c{}", ++number);
    return b
        .node(Op::ternary_conv, name,
              {x, b.ternary(name + ".w", {to, 3, 3, from}, codes_of(to, 9 * from, false), {0.25F}), program::kNone,
               b.floats(name + ".step", {1}, {step})},
              window({1, 1}, {1, 1}, 1, "int8_static"))
        .value();
  };
  const auto number_of = [&](const std::string& name, float value) { return b.floats(name, {1}, {value}); };
  const ValueId x = conv(b.input("x", {kBatch, 3, 10, 9}), 3, 6, 0.06F);
  const ValueId relu6 = b.node(Op::minimum, "six", {b.node(Op::relu, "relu", {x}).value(), number_of("6", 6)}).value();
  const ValueId inner = conv(relu6, 6, 6, 0.05F);
  const ValueId residual = b.node(Op::relu, "behind", {b.node(Op::add, "residual", {inner, relu6}).value()}).value();
  const ValueId less = b.node(Op::sub, "less", {conv(residual, 6, 6, 0.07F), residual}).value();
  const ValueId norm =
      b.node(Op::batch_norm, "norm",
             {less, b.floats("alpha", {6}, {1, -1, 0.5F, 2, 0, 0.1F}), b.floats("beta", {6}, {0, 1, -1, 0.5F, 2, 3})})
          .value();
  const auto pool = [](int64_t kernel, int64_t stride) {
    return program::Attributes{
        {"kernel_size", Sizes{kernel, kernel}}, {"stride", Sizes{stride, stride}}, {"padding", Sizes{1, 1}}};
  };
  program::Attributes with_dilation = pool(3, 2);
  with_dilation["dilation"] = Sizes{1, 1};
  const ValueId most = b.node(Op::max_pool, "most", {norm}, with_dilation).value(),
                average = b.node(Op::avg_pool, "average", {norm}, pool(3, 2)).value();
  const ValueId parts =
      b.node(Op::cat, "parts", {conv(most, 6, 4, 0.09F), conv(most, 6, 2, 0.09F)}, {{"dim", int64_t{1}}}).value();
  const ValueId turned = b.node(Op::permute, "turned", {parts}, {{"dims", Sizes{0, 1, 3, 2}}}).value();
  const ValueId low = b.node(Op::maximum, "low", {turned, number_of("-2", -2)}).value();
  const ValueId last = conv(low, 6, 3, 0.1F);
  const ValueId rows = b.node(Op::reshape, "rows", {last}, {{"shape", Shape{kBatch, 3, 25}}}).value();
  const ValueId mean = b.node(Op::mean, "mean", {rows}).value(),
                global = b.node(Op::adaptive_avg_pool, "global", {average}, {{"output_size", Shape{1, 1}}}).value();
  const Program p = b.finish({mean, global, most}).value();
  for (const int64_t batch : {1, 2}) {
    const program::SymbolSizes sizes = program::at_batch(batch);
    check_integers(p, sizes, inputs_of(p, sizes, elements_of), 0.006);
  }
}

// The mean of many values, each the largest that there can be but for -128: its sum times a factor of 31 bits would be 2^71.
TEST_F(CSource, LargestAveragesInIntegers) {
  constexpr int64_t kDepth = 600, kValues = 1024;
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, kDepth, kValues});
  const ValueId y =
      b.node(Op::ternary_conv, "y",
             {x, b.ternary("w", {1, 1, kDepth}, codes_of(1, kDepth, true), {1}), program::kNone, b.floats("step", {1}, {1})},
             window({1}, {0}, 1, "int8_static"))
          .value();
  const Program p = b.finish({b.node(Op::mean, "mean", {y}).value()}).value();
  for (const float value : {127.0F, -127.0F}) {
    const std::vector<float> all(static_cast<size_t>(kDepth * kValues), value);
    check_integers(p, program::kOnes, {reinterpret_cast<const char*>(all.data()), all.size() * sizeof(float)}, 1e-6);
  }
}

// int8 as no layer makes it, and the largest sum that there can be, 2^31 - 2^24: nothing overflows.
TEST_F(CSource, IntegersOfACallerMayBeAny) {
  constexpr int64_t kDepth = 1 << 17;
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, kDepth});
  const ValueId w = b.int8("w", {1, kDepth}, std::vector<int8_t>(static_cast<size_t>(kDepth), 127), {1});
  const Program p = b.finish({b.node(Op::ternary_linear, "y", {x, w, program::kNone, b.floats("step", {1}, {1})},
                                     {{"activation", std::string("int8_static")}})
                                  .value()})
                        .value();
  const auto source = format::c::serialize(p, {"net", "integer"}).value();
  const std::string main = fmt::format(
      "#include <stdio.h>\n#include <string.h>\n#include \"net.h\"\nstatic int8_t x[{}];\nint main(void) {{\n  int32_t y;\n"
      "  memset(x, -128, sizeof(x));\n  net_run_integers(x, &y);\n  fprintf(stderr, \"%.0f\", (double)y * "
      "(double)NET_OUT_OUTPUT_STEP);\n"
      "  return 0;\n}}\n",
      kDepth);
  for (const auto& [name, text] : {std::pair{"net.c", source.source}, {"net.h", source.header}, {"main.c", main}})
    ASSERT_TRUE(write_file_atomic(folder_ / name, text).ok());
  std::vector<std::string> command{kChecked.compiler};
  command.insert(command.end(), kChecked.flags.begin(), kChecked.flags.end());
  command.insert(command.end(), {folder_ / "net.c", folder_ / "main.c", "-o", folder_ / "net"});
  const auto compiled = run_process(command, Capture::kErrors);
  ASSERT_TRUE(compiled.ok() && compiled->exit_code == 0) << compiled->text;
  EXPECT_EQ(run_process({folder_ / "net"}, Capture::kErrors)->text, std::to_string(-128 * 127 * kDepth));
}

TEST_F(CSource, ANumberThatIsNotFiniteIsRefusedByItsLayer) {
  const Program p = every_product();
  std::string input = inputs_of(p, program::kOnes, elements_of);
  const float infinity = INFINITY;
  std::memcpy(input.data() + 4, &infinity, sizeof(infinity));
  EXPECT_EQ(run_in_c(p, program::kOnes, input, kOptimized).substr(0, 6), "exit 1");
}

}  // namespace
}  // namespace bitlab::runtime
