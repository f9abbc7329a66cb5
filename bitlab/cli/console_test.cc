#include "bitlab/cli/console.h"

#include <gtest/gtest.h>

namespace bitlab::cli {
namespace {

TEST(Console, FormatsBytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 30), "5.0 GiB");
}

TEST(Console, AlignsTables) {
  EXPECT_EQ(format_table({{"name", "n", "text"}, {"a", "12", "b"}, {"longer", "3", ""}}),
            "name     n  text\n"
            "----------------\n"
            "a       12  b\n"
            "longer   3\n");
}

}  // namespace
}  // namespace bitlab::cli
