#include "bitlab/format/formats.h"

#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/format/bit/bit.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/program/print.h"

namespace bitlab::format {
namespace {

TEST(Formats, AFileIsOfTheFormatOfItsExtension) {
  const program::Program program = bit::test::small_program();
  const auto path = std::filesystem::temp_directory_path() / fmt::format("formats_test_{}.bit", getpid());
  ASSERT_TRUE(save(program, path).ok());
  EXPECT_EQ(program::print(bit::load(path).value()), program::print(program));
  EXPECT_EQ(program::print(read("bit", path).value()), program::print(program));
  std::filesystem::remove(path);
}

TEST(Formats, ConvertingTellsBytesAndWeights) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("formats_test_{}", getpid());
  std::filesystem::create_directory(folder);
  ASSERT_TRUE(save(bit::test::small_program(), folder / "m.bit").ok());
  const Conversion made = convert(folder / "m.bit", folder / "model", {.format = "onnx", .variant = "int2"}).value();
  EXPECT_EQ(made.weights, 2 * 5 + 2 + 3 * 2);
  EXPECT_EQ(made.source_bytes, static_cast<int64_t>(std::filesystem::file_size(folder / "m.bit")));
  ASSERT_EQ(made.saved.files.size(), 1U);
  EXPECT_EQ(made.saved.bytes, static_cast<int64_t>(std::filesystem::file_size(folder / "model")));
  std::filesystem::remove_all(folder);
}

TEST(Formats, OthersAreRefusedWithWhatThereIs) {
  const program::Program program = bit::test::small_program();
  const auto error = [](const auto& status) { return status.ok() ? "no error" : status.error().message; };
  std::string names, extensions;
  for (const FormatInfo& format : format_list()) {
    names += (names.empty() ? "" : ", ") + std::string(format.name);
    extensions += (extensions.empty() ? "" : ", ") + std::string(format.extension);
  }
  EXPECT_EQ(error(save(program, "network.txt")),
            fmt::format("[format] a file with an extension of {{{}}}, got '.txt'", extensions));
  EXPECT_EQ(error(save(program, "network")), fmt::format("[format] a file with an extension of {{{}}}, got ''", extensions));
  EXPECT_EQ(write("gguf2", program, "m").error().message, fmt::format("[format] a format of {{{}}}, got 'gguf2'", names));
  EXPECT_EQ(read("", "m.bit").error().code, ErrorCode::kUnknownName);
  EXPECT_EQ(write("bit", program, "m.bit", {.variant = "int2"}).error().message,
            "[format] a variant of bit of {}, got 'int2'");
  EXPECT_EQ(error(save(program, "network.bit", {.format = "exe"})),
            fmt::format("[format] a format of {{{}}}, got 'exe'", names));
  EXPECT_EQ(save(program, "/proc/none/network.bit").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(save(program, "/proc/none/network.c").error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists("network.txt"));
}

}  // namespace
}  // namespace bitlab::format
