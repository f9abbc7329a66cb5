#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "bitlab/base/version.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/runtime/bitlab.h"

namespace bitlab::runtime {
namespace {

// y = 2 x0 - 2 x1 on activations that int8 holds exactly.
class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    using namespace program;
    ProgramBuilder b;
    const ValueId x = b.input("x", {kBatch, {2, false}});
    const ValueId w = b.ternary("w", {1, 2}, {0b01010010}, {2.0F});
    const ValueId y = b.node(Op::ternary_linear, "y", {x, w, kNone}, {{"activation", std::string("int8")}}).value();
    b.metadata("model", "difference");
    format::bit::save(b.finish({y}).value(), path_).value();
  }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ = ::testing::TempDir() + "c_api_test.bit";
};

TEST_F(CApi, LoadsRunsAndFrees) {
  bitlab_model* model = nullptr;
  ASSERT_EQ(bitlab_model_load(path_.c_str(), &model), 0) << bitlab_last_error();
  EXPECT_STREQ(bitlab_model_metadata(model, "model"), "difference");
  EXPECT_EQ(bitlab_model_metadata(model, "nothing"), nullptr);
  EXPECT_GT(bitlab_model_weight_bytes(model), 0);
  bitlab_session* session = nullptr;
  ASSERT_EQ(bitlab_session_create(model, 2, &session), 0);
  bitlab_model_free(model);  // the session keeps it
  const float data[] = {127, 100, -3, 127};
  const int64_t shape[] = {2, 2};
  const bitlab_tensor input{data, shape, 2, nullptr};
  const bitlab_tensor* outputs = nullptr;
  size_t count = 0;
  ASSERT_EQ(bitlab_session_run(session, &input, 1, &outputs, &count), 0) << bitlab_last_error();
  ASSERT_EQ(count, 1U);
  ASSERT_EQ(outputs[0].rank, 2);
  EXPECT_EQ(outputs[0].shape[0], 2);
  EXPECT_EQ(outputs[0].shape[1], 1);
  EXPECT_EQ(outputs[0].data[0], 54.0F);
  EXPECT_EQ(outputs[0].data[1], -260.0F);
  bitlab_session_free(session);
}

TEST_F(CApi, ABatchOfZeroGivesAnEmptyOutput) {
  bitlab_model* model = nullptr;
  ASSERT_EQ(bitlab_model_load(path_.c_str(), &model), 0) << bitlab_last_error();
  bitlab_session* session = nullptr;
  ASSERT_EQ(bitlab_session_create(model, 1, &session), 0);
  const float data[] = {127, 100};
  const int64_t none[] = {0, 2}, one[] = {1, 2};
  const bitlab_tensor* outputs = nullptr;
  size_t count = 0;
  for (const float* values : {static_cast<const float*>(nullptr), static_cast<const float*>(data)}) {
    const bitlab_tensor input{values, none, 2, nullptr};
    ASSERT_EQ(bitlab_session_run(session, &input, 1, &outputs, &count), 0) << bitlab_last_error();
    ASSERT_EQ(count, 1U);
    ASSERT_EQ(outputs[0].rank, 2);
    EXPECT_EQ(outputs[0].shape[0], 0);
    EXPECT_EQ(outputs[0].shape[1], 1);
  }
  const bitlab_tensor missing{nullptr, one, 2, nullptr};
  EXPECT_EQ(bitlab_session_run(session, &missing, 1, &outputs, &count), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] float32 values, got a null pointer (input=x)");
  const bitlab_tensor input{data, one, 2, nullptr};
  ASSERT_EQ(bitlab_session_run(session, &input, 1, &outputs, &count), 0) << bitlab_last_error();
  EXPECT_EQ(outputs[0].data[0], 54.0F);
  for (const auto& [rank, message] : {std::pair<int64_t, const char*>{-1, "[bitlab] a rank of 0 to 5, got -1 (input=0)"},
                                      {int64_t{1} << 62, "[bitlab] a rank of 0 to 5, got 4611686018427387904 (input=0)"}}) {
    const bitlab_tensor odd{data, one, rank, nullptr};
    EXPECT_EQ(bitlab_session_run(session, &odd, 1, &outputs, &count), 2);
    EXPECT_STREQ(bitlab_last_error(), message);
  }
  bitlab_session_free(session);
  bitlab_model_free(model);
}

TEST_F(CApi, ReportsErrorsWithGroupAndMessage) {
  bitlab_model* model = nullptr;
  EXPECT_EQ(bitlab_model_load((path_ + ".missing").c_str(), &model), 3);
  EXPECT_EQ(std::string(bitlab_last_error()),
            "[file] a readable file, got 'No such file or directory' (path=" + path_ + ".missing)");
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(bitlab_model_load(nullptr, &model), 2);
  ASSERT_EQ(bitlab_model_load(path_.c_str(), &model), 0);
  bitlab_session* session = nullptr;
  EXPECT_EQ(bitlab_session_create(model, -5, &session), 2);
  ASSERT_EQ(bitlab_session_create(model, 1, &session), 0);
  const float data[] = {1, 2, 3};
  const int64_t shape[] = {1, 3};
  const bitlab_tensor input{data, shape, 2, nullptr};
  const bitlab_tensor* outputs = nullptr;
  size_t count = 0;
  EXPECT_EQ(bitlab_session_run(session, &input, 1, &outputs, &count), 2);
  EXPECT_STREQ(bitlab_last_error(), "[session] input [batch, 2], got [1, 3] (input=x)");
  EXPECT_EQ(bitlab_session_run(session, nullptr, 1, &outputs, &count), 2);
  bitlab_session_free(session);
  bitlab_model_free(model);
  bitlab_session_free(nullptr);
  bitlab_model_free(nullptr);
}

TEST_F(CApi, TellsItsVersion) {
  EXPECT_EQ(bitlab_abi_version(), BITLAB_ABI_VERSION);
  EXPECT_EQ(std::string(bitlab_version()), version());
}

}  // namespace
}  // namespace bitlab::runtime
