#include <atomic>
#include <chrono>
#include <cmath>
#include <fcntl.h>
#include <filesystem>
#include <limits>
#include <set>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/file.h"
#include "bitlab/base/internal/float_environment.h"
#include "bitlab/base/internal/heap.h"
#include "bitlab/base/internal/nearest.h"
#include "bitlab/base/listed.h"
#include "bitlab/base/log.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/process.h"
#include "bitlab/base/protobuf.h"
#include "bitlab/base/result.h"
#include "bitlab/base/text.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/base/trace.h"

namespace bitlab {
namespace {

namespace fs = std::filesystem;

// --- results

Result<int> half(int value) {
  if (value % 2 != 0) return make_error(ErrorCode::kInvalidArgument, "[half] an even number, got {}", value);
  return value / 2;
}

Result<int> quarter(int value) {
  BITLAB_TRY(const int once, half(value));
  return half(once);
}

TEST(Result, PassesErrorsOn) {
  EXPECT_EQ(quarter(12).value(), 3);
  const Result<int> failed = quarter(6);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "[half] an even number, got 3");
}

TEST(Result, IsCopiedMovedAndAssigned) {
  Result<std::string> held = std::string("a text that is too long for the string itself");
  const Result<std::string> same = held, failed = make_error(ErrorCode::kCorrupt, "[test] all of it, got a part of it");
  Result<std::string> copied = failed;
  EXPECT_EQ(copied.error().message, failed.error().message);
  const Result<std::string> moved = std::move(copied);
  EXPECT_EQ(moved.error().code, ErrorCode::kCorrupt);
  held = moved;
  EXPECT_EQ(held.error().message, failed.error().message);
  held = same;
  EXPECT_EQ(*held, *same);
  Status status = make_error(ErrorCode::kCorrupt, "[test] all of it, got a part of it");
  const Status status_copied = status;
  EXPECT_EQ(status_copied.error().message, status.error().message);
  status = Status();
  EXPECT_TRUE(status.ok());
  const Error error = make_error(ErrorCode::kIoError, "[test] a file, got none");
  EXPECT_EQ(Status(error).error().message, error.message);
}

TEST(Result, ValueThrowsTheError) {
  try {
    static_cast<void>(half(1).value());
    FAIL();
  } catch (const Exception& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "[half] an even number, got 1");
  }
}

TEST(Errors, GroupsAreExitCodes) {
  EXPECT_EQ(static_cast<int>(error_group(ErrorCode::kShapeMismatch)), 2);
  EXPECT_EQ(static_cast<int>(error_group(ErrorCode::kCorrupt)), 3);
  EXPECT_EQ(static_cast<int>(error_group(ErrorCode::kNoKernel)), 4);
  EXPECT_EQ(static_cast<int>(error_group(ErrorCode::kInternal)), 5);
  EXPECT_EQ(error_name(ErrorCode::kUnknownName), "UnknownName");
  EXPECT_FALSE(error_meaning(ErrorCode::kOutOfMemory).empty());
}

// --- files

class FileTest : public ::testing::Test {
 protected:
  FileTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_base_{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~FileTest() override {
    fs::permissions(folder_, fs::perms::owner_all);
    fs::remove_all(folder_);
  }
  fs::path folder_;
};

TEST_F(FileTest, WritesAndReadsBack) {
  const fs::path path = folder_ / "a.bin";
  const std::string content("x\0y\n", 4);
  ASSERT_TRUE(write_file_atomic(path, std::string_view("old")).ok());
  ASSERT_TRUE(write_file_atomic(path, std::string_view(content)).ok());
  EXPECT_EQ(read_file(path).value(), content);
  const auto mapped = MappedFile::open(path).value();
  EXPECT_EQ(std::string(mapped->bytes().begin(), mapped->bytes().end()), content);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "a temporary file was left";
}

TEST_F(FileTest, AFailureLeavesTheOldFile) {
  const fs::path path = folder_ / "a.bin";
  ASSERT_TRUE(write_file_atomic(path, std::string_view("old")).ok());
  fs::create_directories(folder_ / "full" / "a.bin");  // a folder where the file should be: rename fails
  EXPECT_FALSE(write_file_atomic(folder_ / "full" / "a.bin", std::string_view("new")).ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "full"), {}), 1) << "a temporary file was left";
  if (geteuid() != 0) {
    fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_EQ(write_file_atomic(path, std::string_view("new")).error().code, ErrorCode::kIoError);
  }
  EXPECT_EQ(read_file(path).value(), "old");
}

TEST_F(FileTest, LinksAndPipesStayWhatTheyAre) {
  const fs::path file = folder_ / "a.bin", link = folder_ / "link", pipe = folder_ / "pipe", dangling = folder_ / "dangling";
  ASSERT_TRUE(write_file_atomic(file, std::string_view("old")).ok());
  fs::create_symlink("a.bin", link);
  ASSERT_TRUE(write_file_atomic(link, std::string_view("new")).ok());
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(file).value(), "new");
  fs::create_symlink("none", dangling);
  ASSERT_TRUE(write_file_atomic(dangling, std::string_view("there")).ok());
  EXPECT_EQ(read_file(dangling).value(), "there");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_TRUE(write_file_atomic(pipe, std::string_view("piped")).ok());
  char read_back[8] = {};
  EXPECT_EQ(read(reader, read_back, sizeof read_back), 5);
  EXPECT_STREQ(read_back, "piped");
  EXPECT_EQ(close(reader), 0);
  EXPECT_TRUE(fs::is_fifo(pipe));
  // A device's own link: were the device replaced, it would be for every process of the machine.
  fs::create_symlink("/dev/full", folder_ / "full");
  const Status full = write_file_atomic(folder_ / "full", std::string_view("x"));
  EXPECT_EQ(full.error().code, ErrorCode::kIoError) << full.error().message;
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 5) << "a temporary file was left";
}

TEST_F(FileTest, MissingAndEmptyFiles) {
  EXPECT_EQ(read_file(folder_ / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(folder_ / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(write_file_atomic(folder_ / "none" / "a", std::string_view("x")).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(read_file(folder_).ok()) << "a folder is no file";
  ASSERT_TRUE(write_file_atomic(folder_ / "empty", std::string_view()).ok());
  EXPECT_TRUE(MappedFile::open(folder_ / "empty").value()->bytes().empty());
}

TEST_F(FileTest, FoldersAreCreatedAndProbed) {
  EXPECT_TRUE(ensure_writable_folder(folder_ / "a" / "b").ok());
  EXPECT_TRUE(fs::is_directory(folder_ / "a" / "b"));
  EXPECT_FALSE(ensure_writable_folder("/proc/none").ok());
  ASSERT_TRUE(write_file_atomic(folder_ / "file", std::string_view("x")).ok());
  EXPECT_FALSE(ensure_writable_folder(folder_ / "file").ok());
}

// --- memory, threads, floating point

TEST(AlignedBuffer, IsAlignedAndZero) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{100'000}}) {
    const AlignedBuffer buffer = AlignedBuffer::allocate(size).value();
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kAlignment, 0U);
    for (uint8_t byte : buffer.bytes()) ASSERT_EQ(byte, 0);
  }
  EXPECT_EQ(AlignedBuffer::allocate(std::numeric_limits<size_t>::max() / 2).error().code, ErrorCode::kOutOfMemory);
}

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    const auto pool = make_thread_pool(threads);
    EXPECT_EQ(pool->threads(), threads);
    for (int64_t count : {0, 1, 2, 7, 1000})
      for (int round = 0; round < 20; ++round) {
        std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
        std::atomic<bool> workers_fit{true};
        pool->run(count, [&](int64_t i, int worker) {
          ++calls[static_cast<size_t>(i)];
          if (worker < 0 || worker >= threads) workers_fit = false;
        });
        for (const auto& n : calls) ASSERT_EQ(n, 1);
        EXPECT_TRUE(workers_fit);
      }
  }
}

// Where the memory for their stacks is missing; sanitizers and emulators have address spaces of their own.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(EvenParts, CoverTheRangeInPartsThatThreadsShareEvenly) {
  for (const int64_t most : {16, 48, 64})
    for (const int64_t count : {0, 1, 5, 63, 64, 65, 100, 196, 197, 784, 3136})
      for (const int64_t things : {1, 2, 3, 5})
        for (const int threads : {1, 2, 3, 8}) {
          const EvenParts parts(count, most, 16, things, threads);
          int64_t end = 0, longest = 0;
          for (int64_t i = 0; i < parts.parts; ++i) {
            ASSERT_EQ(parts.begin(i), end) << count << " by " << most;
            end = parts.begin(i + 1);
            longest = std::max(longest, end - parts.begin(i));
            ASSERT_GT(end, parts.begin(i));
          }
          ASSERT_EQ(end, count);
          ASSERT_LE(longest, most);
          // As many parts as that only where there are units enough.
          if (threads > 1 && things * parts.parts > threads && parts.parts < (count + 15) / 16) {
            ASSERT_EQ(things * parts.parts % threads, 0) << count << " by " << most << " on " << threads;
          }
        }
  const EvenParts vit(197, 64, 16, 1, 2);  // two threads took 128 and 69 of these
  EXPECT_EQ(vit.parts, 4);
  EXPECT_EQ(vit.begin(2), 96);
}

TEST(ThreadPool, TakesTheThreadsThatTheSystemStarts) {
  const auto run_short = [] {
    const rlimit room{size_t{1} << 28, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &room) != 0) std::_Exit(2);
    const auto pool = make_thread_pool(500);
    std::atomic<int> done{0};
    pool->run(1000, [&](int64_t, int worker) { done += worker < pool->threads() ? 1 : 0; });
    std::_Exit(pool->threads() < 500 && done == 1000 ? 0 : 1);
  };
  EXPECT_EXIT(run_short(), testing::ExitedWithCode(0), "");
}
#endif

TEST(ThreadPool, WorkersThatRunTogetherHaveTheirOwnNumbers) {
  const auto pool = make_thread_pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> shared{false};
  pool->run(2000, [&](int64_t, int worker) {
    auto& mine = inside[static_cast<size_t>(worker)];
    if (++mine != 1) shared = true;
    --mine;
  });
  EXPECT_FALSE(shared);
}

// Workers wake up while a run ends and the next one begins, with a task of its own; what they write is there when it ends.
TEST(ThreadPool, RunsThatFollowEachOtherDoNotMeet) {
  const auto pool = make_thread_pool(5);
  std::vector<int64_t> values(64);
  for (int64_t round = 0; round < 3000; ++round) {
    const int64_t count = 2 + round % 63;
    pool->run(count, [&values, round](int64_t i, int) { values[static_cast<size_t>(i)] = round * i; });
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], round * i);
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // they fall asleep
  }
}

#if defined(__x86_64__)
TEST(FloatEnvironment, IsTheContractsInTasksAndTheCallersAfter) {
  const uint32_t before = _mm_getcsr(), flushing = before | 0x8040;  // FTZ and DAZ
  _mm_setcsr(flushing);
  const auto pool = make_thread_pool(3);
  std::atomic<int> kept{0};
  volatile float least = std::numeric_limits<float>::denorm_min();
  pool->run(64, [&](int64_t, int) { kept += least * 1.0F != 0.0F; });
  EXPECT_EQ(_mm_getcsr() & ~0x3FU, flushing & ~0x3FU);
  _mm_setcsr(before);
  EXPECT_EQ(kept, 64);
}
#endif

TEST(Machine, KnowsItself) {
  const Machine& machine = this_machine();
  EXPECT_FALSE(machine.cpu.empty());
  EXPECT_GE(machine.cores, 1);
#if defined(__x86_64__)
  EXPECT_EQ(machine.features.contains(Feature::avx2), __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(machine.features.contains(Feature::avx512f), __builtin_cpu_supports("avx512f") != 0);
#endif
}

TEST(FeatureSet, SubtractsAndPrints) {
  const FeatureSet both{Feature::avx2, Feature::avx512f};
  EXPECT_EQ(both.minus({Feature::avx2}).to_string(), "avx512f");
  EXPECT_TRUE(both.minus(both).empty());
  EXPECT_EQ(both.to_string(), "avx2 avx512f");
}

TEST(Log, GoesToTheSinkAndNowhereElse) {
  std::string seen;
  set_log_sink([&](LogLevel, std::string_view text) { seen += text; });
  log(LogLevel::kWarning, "{} and {}", 1, "two");
  set_log_sink({});
  log(LogLevel::kWarning, "dropped");
  EXPECT_EQ(seen, "1 and two");
}

TEST(Trace, EmitsOneEventAScope) {
  std::vector<std::string> names;
  int64_t duration = -1;
  const TraceSink sink = [&](const TraceEvent& event) {
    names.emplace_back(event.name);
    duration = event.end_ns - event.begin_ns;
  };
  { const TraceScope scope(sink, "test", "once"); }
  const TraceSink nobody;
  { const TraceScope scope(nobody, "test", "unheard"); }
  EXPECT_EQ(names, std::vector<std::string>{"once"});
  EXPECT_GE(duration, 0);
}

// --- names

TEST(Nearest, NeedsTheFewestChanges) {
  const std::vector<std::string> known{"epochs", "seed", "threads", "feed"};
  EXPECT_EQ(*nearest("epoch", known), "epochs");
  EXPECT_EQ(*nearest("xeed", known), "seed") << "the first of equals";
  EXPECT_EQ(*nearest("tre4ds", known, 2), "threads");
  EXPECT_EQ(nearest("tre4ds", known, 1), nullptr);
  EXPECT_EQ(*nearest("", known), "seed");
  EXPECT_EQ(nearest("seed", {}), nullptr);
}

// --- text

TEST(Listed, KnowsWholeWordsAlone) {
  for (const char* word : {"arm_neon", "arm", "arm_dotprod"})
    EXPECT_EQ(is_listed("arm arm_dotprod", word), std::string_view(word) != "arm_neon") << word;
  EXPECT_FALSE(is_listed("arm_neon", "arm"));
  EXPECT_FALSE(is_listed("arm", "arm_neon"));
  EXPECT_FALSE(is_listed("arm_neon", ""));
  EXPECT_TRUE(is_listed("", "arm_neon"));
}

TEST(Text, FormatsBytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 30), "5.0 GiB");
}

TEST(Text, AlignsTables) {
  EXPECT_EQ(one_line("a\nb\x1b[31m\x7f\t\xc3\xa9"), "a?b?[31m??\xc3\xa9");
  EXPECT_EQ(first_line("expected a\n at b"), "expected a");
  EXPECT_EQ(first_line(""), "");
  EXPECT_EQ(format_table({{"name", "n", "text"}, {"a", "12", "b"}, {"longer", "3", ""}}),
            "name     n  text\n"
            "----------------\n"
            "a       12  b\n"
            "longer   3\n");
}

// --- the heap

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Heap, KeepsFreedMemory) {
  constexpr size_t kBytes = size_t{30} << 20;
  const auto faults_of_a_round = [] {
    rusage before{}, after{};
    getrusage(RUSAGE_SELF, &before);
    {
      const std::vector<char> memory(kBytes, 1);
      EXPECT_EQ(memory[kBytes - 1], 1);
    }
    getrusage(RUSAGE_SELF, &after);
    return after.ru_minflt - before.ru_minflt;
  };
  faults_of_a_round();
  const auto given_back = faults_of_a_round();
  keep_freed_memory();
  faults_of_a_round();
  EXPECT_LT(faults_of_a_round(), given_back / 4 + 1);
}
#endif

TEST(Process, HasWhatItWroteAndItsEnd) {
  const std::vector<std::string> script{"sh", "-c", "printf out; printf 'no\\n' >&2; exit 3"};
  const Finished errors = run_process(script, Capture::kErrors).value();
  EXPECT_EQ(errors.exit_code, 3);
  EXPECT_EQ(errors.text, "no\n");
  EXPECT_EQ(run_process({"sh", "-c", "seq 100000"}, Capture::kOutput).value().text.size(), 588895U)
      << "more than a pipe holds";
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}, Capture::kOutput).value().exit_code, -1);
  EXPECT_EQ(run_process({"sh", "-c", "read line || printf ended >&2"}, Capture::kErrors).value().text, "ended");
  EXPECT_EQ(run_process({"/nowhere/program"}, Capture::kOutput).error().code, ErrorCode::kNotFound);
}

// The examples of protobuf.dev/programming-guides/encoding.
TEST(Protobuf, FieldsAreThoseOfTheGuide) {
  EXPECT_EQ(ProtobufMessage().number(1, 150).bytes(), "\x08\x96\x01");
  EXPECT_EQ(ProtobufMessage().text(2, "testing").bytes(), "\x12\x07testing");
  EXPECT_EQ(ProtobufMessage().message(3, ProtobufMessage().number(1, 150)).bytes(), "\x1a\x03\x08\x96\x01");
  EXPECT_EQ(ProtobufMessage().number(1, -2).bytes(), "\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
  EXPECT_EQ(ProtobufMessage().float32(1, 1.0F).bytes(), std::string("\x0d\x00\x00\x80\x3f", 5));
}

TEST(Protobuf, RepeatedNumbersComeOneByOneOrPacked) {
  std::vector<int64_t> numbers;
  ProtobufReader reader("\x08\x03\x0a\x03\x8e\x02\x05");  // 3; then 270 and 5, packed
  while (reader.next()) EXPECT_TRUE(append_varints(reader, numbers));
  EXPECT_EQ(numbers, (std::vector<int64_t>{3, 270, 5}));
  ProtobufReader cut("\x0a\x01\x8e");
  ASSERT_TRUE(cut.next());
  EXPECT_FALSE(append_varints(cut, numbers));
}

TEST(Protobuf, ReadingEndsWhereNothingFits) {
  const ProtobufMessage message = ProtobufMessage().number(1, 300).text(2, "abc").float64(3, 0.5);
  ProtobufReader reader(message.bytes());
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.number, 300U);
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.content, "abc");
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.field, 3);
  EXPECT_FALSE(reader.next());
  for (size_t size = 0; size < message.bytes().size(); ++size) {
    int whole = 0;
    for (ProtobufReader cut(std::string_view(message.bytes()).substr(0, size)); cut.next();) ++whole;
    EXPECT_LT(whole, 3) << size;
  }
  EXPECT_FALSE(ProtobufReader("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").next());
  EXPECT_FALSE(ProtobufReader("\x0b").next());  // a group, which no message here has
  ProtobufReader cut(
      std::string_view("\x08\x01\x12\x05"
                       "a",
                       5));
  ASSERT_TRUE(cut.next());
  EXPECT_FALSE(cut.is_broken());
  EXPECT_FALSE(cut.next());
  EXPECT_TRUE(cut.is_broken());
  EXPECT_FALSE(cut.next());
}

}  // namespace
}  // namespace bitlab
