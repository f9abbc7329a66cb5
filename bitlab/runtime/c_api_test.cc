#include <filesystem>
#include <memory>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/base/version.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/runtime/bitlab.h"
#include "bitlab/runtime/session.h"

namespace bitlab::runtime {
namespace {

struct Free {
  void operator()(bitlab_model* model) const { bitlab_model_free(model); }
  void operator()(bitlab_session* session) const { bitlab_session_free(session); }
};
using ModelHandle = std::unique_ptr<bitlab_model, Free>;
using SessionHandle = std::unique_ptr<bitlab_session, Free>;

// A model that is loaded from memory; the bytes are gone afterwards.
ModelHandle loaded(const program::Program& p) {
  std::string bytes = format::bit::serialize(p).value();
  bitlab_model* model = nullptr;
  EXPECT_EQ(bitlab_model_load_memory(bytes.data(), bytes.size(), &model), 0) << bitlab_last_error();
  std::fill(bytes.begin(), bytes.end(), '\xFF');
  return ModelHandle(model);
}

SessionHandle session_of(const bitlab_model* model, int threads = 1) {
  bitlab_session_options options = BITLAB_SESSION_OPTIONS;
  options.threads = threads;
  bitlab_session* session = nullptr;
  EXPECT_EQ(bitlab_session_create(model, &options, &session), 0) << bitlab_last_error();
  return SessionHandle(session);
}

const float* floats(const bitlab_tensor& tensor) { return static_cast<const float*>(tensor.data); }

// y = 2 x0 - 2 x1 on activations that int8 holds exactly.
program::Program difference() {
  using namespace program;
  ProgramBuilder b;
  const ValueId x = b.input("x", {kBatch, 2});
  const ValueId w = b.ternary("w", {1, 2}, {0b01010010}, {2.0F});
  const ValueId y = b.node(Op::ternary_linear, "y", {x, w, kNone}, {{"activation", std::string("int8")}}).value();
  b.metadata("model", "difference");
  b.metadata("kind", "test");
  return b.finish({{"difference", y}}).value();
}

class CApi : public ::testing::Test {
 protected:
  void SetUp() override { format::bit::save(difference(), path_).value(); }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ = ::testing::TempDir() + "c_api_test_" + std::to_string(getpid()) + ".bit";
};

TEST_F(CApi, LoadsRunsAndFrees) {
  bitlab_model* model = nullptr;
  ASSERT_EQ(bitlab_model_load(path_.c_str(), &model), 0) << bitlab_last_error();
  EXPECT_STREQ(bitlab_model_metadata(model, "model"), "difference");
  EXPECT_EQ(bitlab_model_metadata(model, "nothing"), nullptr);
  EXPECT_EQ(bitlab_model_metadata(model, nullptr), nullptr);
  EXPECT_STREQ(bitlab_model_metadata_key(model, 0), "kind");
  EXPECT_STREQ(bitlab_model_metadata_key(model, 1), "model");
  EXPECT_EQ(bitlab_model_metadata_key(model, 2), nullptr);
  EXPECT_GT(bitlab_model_weight_bytes(model), 0);
  SessionHandle session = session_of(model, 2);
  bitlab_model_free(model);  // the session keeps it
  const float data[] = {127, 100, -3, 127};
  const int64_t shape[] = {2, 2};
  const bitlab_tensor input{nullptr, data, shape, 2, BITLAB_FLOAT32};
  ASSERT_EQ(bitlab_session_run(session.get(), &input, 1), 0) << bitlab_last_error();
  bitlab_tensor output{};
  ASSERT_EQ(bitlab_session_output(session.get(), 0, &output), 0) << bitlab_last_error();
  EXPECT_STREQ(output.name, "difference");
  EXPECT_EQ(output.dtype, BITLAB_FLOAT32);
  ASSERT_EQ(output.rank, 2);
  EXPECT_EQ(output.shape[0], 2);
  EXPECT_EQ(output.shape[1], 1);
  EXPECT_EQ(floats(output)[0], 54.0F);
  EXPECT_EQ(floats(output)[1], -260.0F);
  EXPECT_EQ(bitlab_session_output(session.get(), 1, &output), 2);
  EXPECT_STREQ(bitlab_last_error(), "[bitlab] an output of a run that succeeded below 1, got 1");
}

TEST_F(CApi, ABatchOfZeroGivesAnEmptyOutput) {
  const ModelHandle model = loaded(difference());
  const SessionHandle session = session_of(model.get());
  const float data[] = {127, 100};
  const int64_t none[] = {0, 2}, one[] = {1, 2};
  bitlab_tensor output{};
  for (const float* values : {static_cast<const float*>(nullptr), static_cast<const float*>(data)}) {
    const bitlab_tensor input{nullptr, values, none, 2, BITLAB_FLOAT32};
    ASSERT_EQ(bitlab_session_run(session.get(), &input, 1), 0) << bitlab_last_error();
    ASSERT_EQ(bitlab_session_output(session.get(), 0, &output), 0);
    ASSERT_EQ(output.rank, 2);
    EXPECT_EQ(output.shape[0], 0);
    EXPECT_EQ(output.shape[1], 1);
    EXPECT_EQ(bitlab_session_copy_output(session.get(), 0, nullptr, 0), 0) << bitlab_last_error();
  }
  const bitlab_tensor missing{nullptr, nullptr, one, 2, BITLAB_FLOAT32};
  EXPECT_EQ(bitlab_session_run(session.get(), &missing, 1), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] float32 values, got a null pointer (input=x)");
  const bitlab_tensor input{nullptr, data, one, 2, BITLAB_FLOAT32};
  ASSERT_EQ(bitlab_session_run(session.get(), &input, 1), 0) << bitlab_last_error();
  ASSERT_EQ(bitlab_session_output(session.get(), 0, &output), 0);
  EXPECT_EQ(floats(output)[0], 54.0F);
}

TEST_F(CApi, RefusesTensorsThatAreNone) {
  const ModelHandle model = loaded(difference());
  const SessionHandle session = session_of(model.get());
  const float data[] = {127, 100};
  const int64_t one[] = {1, 2};
  const auto error_of = [&](const bitlab_tensor& input) -> std::string {
    return bitlab_session_run(session.get(), &input, 1) == 2 ? bitlab_last_error() : "no error";
  };
  EXPECT_EQ(error_of({nullptr, data, one, -1, BITLAB_FLOAT32}), "[bitlab] a rank of 0 to 8, got -1 (input=0)");
  EXPECT_EQ(error_of({nullptr, data, one, 1 << 30, BITLAB_FLOAT32}), "[bitlab] a rank of 0 to 8, got 1073741824 (input=0)");
  EXPECT_EQ(error_of({nullptr, data, nullptr, 2, BITLAB_FLOAT32}), "[bitlab] a shape of each input, got NULL (input=0)");
  EXPECT_EQ(error_of({nullptr, data, one, 2, 6}), "[bitlab] a bitlab_dtype, got 6 (input=0)");
  EXPECT_EQ(error_of({nullptr, data, one, 2, -1}), "[bitlab] a bitlab_dtype, got -1 (input=0)");
  EXPECT_EQ(error_of({nullptr, data, one, 2, BITLAB_INT32}), "[session] float32 values, got int32 ones (input=x)");
  bitlab_tensor output{};
  EXPECT_EQ(bitlab_session_output(session.get(), 0, &output), 2) << "a run that failed has no outputs";
  EXPECT_STREQ(bitlab_last_error(), "[bitlab] an output of a run that succeeded below 0, got 0");
}

TEST_F(CApi, ReportsErrorsWithGroupAndMessage) {
  bitlab_model* model = nullptr;
  EXPECT_EQ(bitlab_model_load((path_ + ".missing").c_str(), &model), 3);
  EXPECT_EQ(std::string(bitlab_last_error()),
            "[file] a readable file, got 'No such file or directory' (path=" + path_ + ".missing)");
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(bitlab_model_load_memory("PK", 2, &model), 3);
  EXPECT_STREQ(bitlab_last_error(), "[bit] a file of at least 8 bytes, got 2");
  EXPECT_EQ(model, nullptr);
  ASSERT_EQ(bitlab_model_load(path_.c_str(), &model), 0);
  const ModelHandle owned(model);
  bitlab_session_options options = BITLAB_SESSION_OPTIONS;
  bitlab_session* session = nullptr;
  options.threads = -5;
  EXPECT_EQ(bitlab_session_create(model, &options, &session), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] 0 to 1024 threads, got -5");
  options.threads = 1, options.device = "gpu";
  EXPECT_EQ(bitlab_session_create(model, &options, &session), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] a device 'cpu', 'cuda' or 'cuda:<number>', got 'gpu'");
  options.size = offsetof(bitlab_session_options, device);  // of a caller that knows of no device
  ASSERT_EQ(bitlab_session_create(model, &options, &session), 0) << bitlab_last_error();
  bitlab_session_free(session);
  session = nullptr;
  options = {};  // a struct that was set to zero
  EXPECT_EQ(bitlab_session_create(model, &options, &session), 2);
  EXPECT_EQ(std::string(bitlab_last_error()),
            fmt::format("[bitlab] options of {} bytes or more, got a size of 0", offsetof(bitlab_session_options, abort)));
  EXPECT_EQ(session, nullptr);
  struct {
    bitlab_session_options known;
    int unknown;
  } later{{sizeof(later), 1, nullptr, nullptr, nullptr}, 7};  // of a library that has more options
  ASSERT_EQ(bitlab_session_create(model, &later.known, &session), 0) << bitlab_last_error();
  bitlab_session_free(session);
  ASSERT_EQ(bitlab_session_create(model, nullptr, &session), 0) << bitlab_last_error();
  const SessionHandle owned_session(session);
  const float data[] = {1, 2, 3};
  const int64_t shape[] = {1, 3};
  const bitlab_tensor input{nullptr, data, shape, 2, BITLAB_FLOAT32};
  EXPECT_EQ(bitlab_session_run(session, &input, 1), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] input [batch, 2], got [1, 3] (input=x)");
}

TEST_F(CApi, StopsARunThatIsToStop) {
  const ModelHandle model = loaded(difference());
  bitlab_session_options options = BITLAB_SESSION_OPTIONS;
  int left = 1;  // runs of the program's one step
  options.abort = [](void* data) { return *static_cast<int*>(data) == 0 ? 1 : (--*static_cast<int*>(data), 0); };
  options.abort_data = &left;
  bitlab_session* session = nullptr;
  ASSERT_EQ(bitlab_session_create(model.get(), &options, &session), 0) << bitlab_last_error();
  const SessionHandle owned(session);
  const float data[] = {1, 2};
  const int64_t shape[] = {1, 2};
  const bitlab_tensor input{nullptr, data, shape, 2, BITLAB_FLOAT32};
  ASSERT_EQ(bitlab_session_run(session, &input, 1), 0) << bitlab_last_error();
  EXPECT_EQ(bitlab_session_run(session, &input, 1), 6);
  EXPECT_NE(std::string(bitlab_last_error()).find("a request to stop"), std::string::npos) << bitlab_last_error();
  options.size = offsetof(bitlab_session_options, abort);  // of a caller that knows of no more
  ASSERT_EQ(bitlab_session_create(model.get(), &options, &session), 0) << bitlab_last_error();
  const SessionHandle older(session);
  EXPECT_EQ(bitlab_session_run(session, &input, 1), 0) << bitlab_last_error();
}

TEST_F(CApi, RefusesNull) {
  const ModelHandle model = loaded(difference());
  const SessionHandle session = session_of(model.get());
  bitlab_model* other = nullptr;
  bitlab_session* another = nullptr;
  bitlab_port port{};
  bitlab_symbol symbol{};
  bitlab_tensor tensor{};
  int failures = 0;
  const auto expect_null = [&](int status) {
    EXPECT_EQ(status, 2) << failures;
    const std::string message = bitlab_last_error();
    EXPECT_TRUE(message.starts_with("[bitlab] ") && message.ends_with(", got NULL")) << message;
    ++failures;
  };
  expect_null(bitlab_model_load(nullptr, &other));
  expect_null(bitlab_model_load(path_.c_str(), nullptr));
  expect_null(bitlab_model_load_memory(nullptr, 8, &other));
  expect_null(bitlab_model_load_memory("", 0, nullptr));
  expect_null(bitlab_model_input(nullptr, 0, &port));
  expect_null(bitlab_model_input(model.get(), 0, nullptr));
  expect_null(bitlab_model_output(nullptr, 0, &port));
  expect_null(bitlab_model_output(model.get(), 0, nullptr));
  expect_null(bitlab_model_symbol(nullptr, 0, &symbol));
  expect_null(bitlab_model_symbol(model.get(), 0, nullptr));
  expect_null(bitlab_session_create(nullptr, nullptr, &another));
  expect_null(bitlab_session_create(model.get(), nullptr, nullptr));
  expect_null(bitlab_session_run(nullptr, &tensor, 1));
  expect_null(bitlab_session_run(session.get(), nullptr, 1));
  expect_null(bitlab_session_output(nullptr, 0, &tensor));
  expect_null(bitlab_session_output(session.get(), 0, nullptr));
  expect_null(bitlab_session_copy_output(nullptr, 0, &tensor, 4));
  expect_null(bitlab_session_copy_output(session.get(), 0, nullptr, 4));
  expect_null(bitlab_session_reset(nullptr));
  expect_null(bitlab_session_truncate(nullptr, 0));
  bitlab_session_free(nullptr);
  bitlab_model_free(nullptr);
}

TEST_F(CApi, TellsItsVersion) {
  EXPECT_EQ(bitlab_abi_version(), BITLAB_ABI_VERSION);
  EXPECT_EQ(std::string(bitlab_version()), version());
}

TEST(CApiSignature, DescribesPortsAndSymbols) {
  const ModelHandle model = loaded(format::bit::test::decoder_program());
  ASSERT_EQ(bitlab_model_input_count(model.get()), 2U);
  ASSERT_EQ(bitlab_model_output_count(model.get()), 3U);
  ASSERT_EQ(bitlab_model_symbol_count(model.get()), 3U);
  bitlab_port port{};
  ASSERT_EQ(bitlab_model_input(model.get(), 0, &port), 0);
  EXPECT_STREQ(port.name, "ids");
  EXPECT_EQ(port.dtype, BITLAB_INT64);
  ASSERT_EQ(port.rank, 2);
  EXPECT_EQ(port.shape[0], -1);
  EXPECT_EQ(port.shape[1], -1);
  EXPECT_STREQ(port.dims[0], "batch");
  EXPECT_STREQ(port.dims[1], "tokens");
  ASSERT_EQ(bitlab_model_input(model.get(), 1, &port), 0);
  EXPECT_STREQ(port.name, "gain");
  EXPECT_EQ(port.dtype, BITLAB_FLOAT16);
  ASSERT_EQ(port.rank, 1);
  EXPECT_EQ(port.shape[0], 8);
  EXPECT_STREQ(port.dims[0], "8");
  ASSERT_EQ(bitlab_model_output(model.get(), 1, &port), 0);
  EXPECT_STREQ(port.name, "halves");
  EXPECT_EQ(port.dtype, BITLAB_BFLOAT16);
  ASSERT_EQ(port.rank, 3);
  EXPECT_EQ(port.shape[2], 5);
  ASSERT_EQ(bitlab_model_output(model.get(), 2, &port), 0);
  EXPECT_STREQ(port.name, "ids and sevens");
  EXPECT_STREQ(port.dims[1], "3*tokens");
  const struct {
    const char* name;
    int64_t min, max;
  } symbols[] = {{"batch", 0, int64_t{1} << 40}, {"tokens", 1, 12}, {"context", 1, 12}};
  for (size_t i = 0; i < 3; ++i) {
    bitlab_symbol symbol{};
    ASSERT_EQ(bitlab_model_symbol(model.get(), i, &symbol), 0);
    EXPECT_STREQ(symbol.name, symbols[i].name);
    EXPECT_EQ(symbol.min, symbols[i].min);
    EXPECT_EQ(symbol.max, symbols[i].max);
  }
  bitlab_symbol symbol{"untouched", 0, 0};
  EXPECT_EQ(bitlab_model_symbol(model.get(), 3, &symbol), 2);
  EXPECT_STREQ(bitlab_last_error(), "[bitlab] a symbol below 3, got 3");
  EXPECT_STREQ(symbol.name, "untouched");
  EXPECT_EQ(bitlab_model_input(model.get(), 2, &port), 2);
  EXPECT_STREQ(bitlab_last_error(), "[bitlab] an input below 2, got 2");
  EXPECT_EQ(bitlab_model_output(model.get(), SIZE_MAX, &port), 2);
}

class CApiDecoder : public ::testing::Test {
 protected:
  static constexpr int64_t kGainShape[] = {8};
  const std::vector<uint16_t> gain_ = {0x3C00, 0x4000, 0x3800, 0xBC00, 0x3C00, 0x3C00, 0x3C00, 0x4200};
  const std::vector<int64_t> ids_ = {4, 1, 3, 0, 2, 2};
  const ModelHandle model_ = loaded(format::bit::test::decoder_program());

  // A tensor of the ids from `begin` on; `shape` must live as long.
  bitlab_tensor ids(const char* name, size_t begin, const int64_t* shape) const {
    return {name, ids_.data() + begin, shape, 2, BITLAB_INT64};
  }
  bitlab_tensor gain(const char* name) const { return {name, gain_.data(), kGainShape, 1, BITLAB_FLOAT16}; }
  static std::vector<float> logits(const bitlab_session* session) {
    bitlab_tensor output{};
    EXPECT_EQ(bitlab_session_output(session, 0, &output), 0) << bitlab_last_error();
    std::vector<float> copy(static_cast<size_t>(output.shape[0] * output.shape[1] * output.shape[2]));
    EXPECT_EQ(bitlab_session_copy_output(session, 0, copy.data(), copy.size() * sizeof(float)), 0) << bitlab_last_error();
    return copy;
  }
};

TEST_F(CApiDecoder, TakesNamesInAnyOrder) {
  const int64_t shape[] = {1, 6};
  const SessionHandle session = session_of(model_.get());
  const bitlab_tensor in_order[] = {ids(nullptr, 0, shape), gain(nullptr)};
  ASSERT_EQ(bitlab_session_run(session.get(), in_order, 2), 0) << bitlab_last_error();
  const auto expected = logits(session.get());
  ASSERT_EQ(bitlab_session_reset(session.get()), 0);
  const bitlab_tensor named[] = {gain("gain"), ids("ids", 0, shape)};
  ASSERT_EQ(bitlab_session_run(session.get(), named, 2), 0) << bitlab_last_error();
  EXPECT_EQ(logits(session.get()), expected);
  const auto error_of = [&](std::vector<bitlab_tensor> inputs) -> std::string {
    return bitlab_session_run(session.get(), inputs.data(), inputs.size()) == 2 ? bitlab_last_error() : "no error";
  };
  EXPECT_EQ(error_of({gain("gain"), ids(nullptr, 0, shape)}),
            "[bitlab] inputs that all have names, or none, got 1 of 2 with one");
  EXPECT_EQ(error_of({gain("gain")}), "[session] an input called 'ids', got 0 of 1 inputs");
  EXPECT_EQ(error_of({ids("ids", 0, shape), ids("ids", 0, shape), gain("gain")}),
            "[session] an input called 'ids', got 2 of 3 inputs");
  EXPECT_EQ(
      error_of({ids("ids", 0, shape), gain("gain"), gain("pain")}),
      "[session] inputs of (ids: int64[batch, tokens], gain: float16[8]) -> (logits: float32[batch, tokens, 5], halves: "
      "bfloat16[batch, tokens, 5], ids and sevens: int64[batch, 3*tokens]), got 'pain' too");
  EXPECT_EQ(error_of({}), "[session] 2 inputs, got 0");
}

TEST_F(CApiDecoder, CopiesOutputsOfExactlyTheirSize) {
  const int64_t shape[] = {2, 3};
  const SessionHandle session = session_of(model_.get());
  std::vector<int64_t> copy(18, -1);
  EXPECT_EQ(bitlab_session_copy_output(session.get(), 2, copy.data(), 144), 2) << "nothing ran";
  const bitlab_tensor inputs[] = {ids(nullptr, 0, shape), gain(nullptr)};
  ASSERT_EQ(bitlab_session_run(session.get(), inputs, 2), 0) << bitlab_last_error();
  for (const size_t size : {size_t{0}, size_t{143}, size_t{145}, SIZE_MAX}) {
    EXPECT_EQ(bitlab_session_copy_output(session.get(), 2, copy.data(), size), 2);
    EXPECT_EQ(std::string(bitlab_last_error()),
              fmt::format("[session] 144 bytes for [2, 9] of int64, got {} (output=ids and sevens)", size));
  }
  EXPECT_EQ(copy, std::vector<int64_t>(18, -1)) << "nothing was written";
  ASSERT_EQ(bitlab_session_copy_output(session.get(), 2, copy.data(), 144), 0) << bitlab_last_error();
  EXPECT_EQ(copy, (std::vector<int64_t>{4, 1, 3, 7, 7, 7, 4, 1, 3, 0, 2, 2, 7, 7, 7, 0, 2, 2}));
  EXPECT_EQ(bitlab_session_copy_output(session.get(), 3, copy.data(), 144), 2);
}

TEST_F(CApiDecoder, StatesHoldTokens) {
  const int64_t six[] = {1, 6}, two[] = {1, 2}, four[] = {1, 4}, seven[] = {1, 7};
  const SessionHandle session = session_of(model_.get(), 2);
  EXPECT_EQ(bitlab_session_position(session.get()), 0);
  EXPECT_EQ(bitlab_session_max_position(session.get()), 12);
  const bitlab_tensor whole[] = {ids(nullptr, 0, six), gain(nullptr)};
  ASSERT_EQ(bitlab_session_run(session.get(), whole, 2), 0) << bitlab_last_error();
  EXPECT_EQ(bitlab_session_position(session.get()), 6);
  const auto expected = logits(session.get());
  ASSERT_EQ(bitlab_session_reset(session.get()), 0);
  EXPECT_EQ(bitlab_session_position(session.get()), 0);
  const bitlab_tensor first[] = {ids(nullptr, 0, two), gain(nullptr)}, rest[] = {ids(nullptr, 2, four), gain(nullptr)};
  ASSERT_EQ(bitlab_session_run(session.get(), first, 2), 0) << bitlab_last_error();
  auto found = logits(session.get());
  ASSERT_EQ(bitlab_session_run(session.get(), rest, 2), 0) << bitlab_last_error();
  const auto second = logits(session.get());
  found.insert(found.end(), second.begin(), second.end());
  EXPECT_EQ(found, expected);
  EXPECT_EQ(bitlab_session_truncate(session.get(), 7), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] a length from 0 to the position 6, got 7");
  ASSERT_EQ(bitlab_session_truncate(session.get(), 2), 0) << bitlab_last_error();
  EXPECT_EQ(bitlab_session_position(session.get()), 2);
  ASSERT_EQ(bitlab_session_run(session.get(), rest, 2), 0) << bitlab_last_error();
  EXPECT_EQ(logits(session.get()), second);
  const std::vector<int64_t> many(7, 1);
  const bitlab_tensor beyond[] = {{nullptr, many.data(), seven, 2, BITLAB_INT64}, gain(nullptr)};
  EXPECT_EQ(bitlab_session_run(session.get(), beyond, 2), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] at most 12 positions, got 7 behind 6 (reset or truncate)");
  EXPECT_EQ(bitlab_session_position(session.get()), 6);
}

TEST_F(CApi, AModelWithoutStatesIsAtZero) {
  const ModelHandle model = loaded(difference());
  const SessionHandle session = session_of(model.get());
  EXPECT_EQ(bitlab_session_position(session.get()), 0);
  EXPECT_EQ(bitlab_session_max_position(session.get()), 0);
  EXPECT_EQ(bitlab_session_reset(session.get()), 0);
  EXPECT_EQ(bitlab_session_truncate(session.get(), 0), 0);
  EXPECT_EQ(bitlab_session_truncate(session.get(), 1), 2);
}

}  // namespace
}  // namespace bitlab::runtime
