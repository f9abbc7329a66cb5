// Files of events: what stays when a training goes on, and what another training, or damage, left.
#include "bitlab/train/sink.h"

#include <cmath>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"

namespace bitlab::train {
namespace {

class Sinks : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static Event event(Event::Kind kind, int64_t step, int64_t epoch, std::vector<Metric> numbers) {
    return {.kind = kind, .step = step, .steps = 4, .epoch = epoch, .epochs = 2, .numbers = std::move(numbers)};
  }
  // Two epochs of two steps, with an evaluation each, and the end.
  static std::vector<Event> events() {
    using Kind = Event::Kind;
    return {event(Kind::kStep, 1, 1, {{"loss", 0.5}}),
            event(Kind::kStep, 2, 1, {{"loss", 0.25}}),
            event(Kind::kEvaluation, 2, 1, {{"validation.a,\"b\"", std::nan("")}}),
            event(Kind::kEpoch, 2, 1, {{"loss", 0.375}}),
            event(Kind::kStep, 3, 2, {{"loss", -1e-300}}),
            event(Kind::kStep, 4, 2, {{"loss", 1e300}}),
            event(Kind::kEvaluation, 4, 2, {{"layer.fc.sparsity", 0.5}}),
            event(Kind::kEpoch, 4, 2, {{"loss", 0.1}}),
            event(Kind::kEnd, 4, 2, {{"best_epoch", 2}})};
  }
  // Writes the events with these indices, as of a training that begins at `position`.
  static void write(Sink& sink, const EventPosition& position, size_t begin, size_t end) {
    ASSERT_TRUE(sink.begin(position).ok());
    for (size_t i = begin; i < end; ++i) ASSERT_TRUE(sink.write(events()[i]).ok());
  }
  std::string content(const char* name) const { return read_file(folder_ / name).value(); }

  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / fmt::format("bitlab_sinks_{}", getpid());
};

TEST_F(Sinks, JsonLines) {
  write(*json_lines(folder_ / "log"), {}, 0, 5);
  EXPECT_EQ(content("log"),
            "{\"event\":\"step\",\"step\":1,\"epoch\":1,\"loss\":0.5}\n"
            "{\"event\":\"step\",\"step\":2,\"epoch\":1,\"loss\":0.25}\n"
            "{\"event\":\"evaluation\",\"step\":2,\"epoch\":1,\"validation.a,\\\"b\\\"\":null}\n"
            "{\"event\":\"epoch\",\"step\":2,\"epoch\":1,\"loss\":0.375}\n"
            "{\"event\":\"step\",\"step\":3,\"epoch\":2,\"loss\":-1e-300}\n");
}

TEST_F(Sinks, CsvGetsColumnsAsTheyCome) {
  write(*csv(folder_ / "table"), {}, 0, events().size());
  EXPECT_EQ(content("table"),
            "event,step,epoch,loss,\"validation.a,\"\"b\"\"\",layer.fc.sparsity,best_epoch\n"
            "step,1,1,0.5,,,\nstep,2,1,0.25,,,\nevaluation,2,1,,nan,,\nepoch,2,1,0.375,,,\nstep,3,2,-1e-300,,,\n"
            "step,4,2,1e+300,,,\nevaluation,4,2,,,0.5,\nepoch,4,2,0.1,,,\nend,4,2,,,,2\n");
}

TEST_F(Sinks, EveryNthStep) {
  write(*json_lines(folder_ / "log", 3), {}, 0, events().size());
  const std::string text = content("log");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6) << text;
  EXPECT_EQ(text.find("\"step\":1,"), std::string::npos);
}

// Whatever was written behind the place of the checkpoint, and whatever was cut off in the middle, the file ends as that of a whole training.
TEST_F(Sinks, GoOnWithoutDuplicates) {
  struct File {
    std::string name;
    std::shared_ptr<Sink> (*make)(const std::filesystem::path& folder);
  };
  const std::vector<File> files{{"log", [](const auto& folder) { return json_lines(folder / "log"); }},
                                {"table", [](const auto& folder) { return csv(folder / "table"); }},
                                {"events.out.tfevents.0.bitlab", [](const auto& folder) { return tensorboard(folder); }}};
  struct Cut {
    EventPosition position;
    size_t first;  // of the events that come again
  };
  const std::vector<Cut> cuts{{{1, 0, 0, false}, 1}, {{2, 0, 0, false}, 2}, {{2, 0, 0, true}, 3}, {{2, 1, 0, true}, 4},
                              {{3, 1, 0, false}, 5}, {{4, 1, 0, false}, 6}, {{4, 2, 0, true}, 8}};
  for (const File& file : files) {
    // Wall-clock times are in event files: there the sizes are compared, which their contents give.
    const bool has_times = file.name.starts_with("events");
    write(*file.make(folder_), {}, 0, events().size());
    const std::string whole = content(file.name.c_str());
    for (const Cut& cut : cuts)
      for (size_t written = cut.first; written <= events().size(); ++written)
        for (const size_t torn : {0, 1, 9}) {
          write(*file.make(folder_), {}, 0, written);
          std::string before = content(file.name.c_str());
          if (written > cut.first) before.resize(before.size() - torn);  // what is behind the place is whole
          ASSERT_TRUE(write_file_atomic(folder_ / file.name, std::string_view(before)).ok());
          write(*file.make(folder_), cut.position, cut.first, events().size());
          const std::string after = content(file.name.c_str());
          EXPECT_EQ(after.size(), whole.size()) << file.name << " " << cut.first << " " << written << " " << torn;
          EXPECT_TRUE(has_times || after == whole) << file.name << " " << cut.first << " " << written << " " << torn;
        }
  }
}

TEST_F(Sinks, WhatIsNotTheirsIsReplaced) {
  for (const std::string_view before :
       {"", "nonsense", "nonsense\n", "{\"event\":\"step\"}\n", "event,step\n1,2\n", "\xff\xfe\n"}) {
    for (const char* name : {"log", "table", "events.out.tfevents.0.bitlab"})
      ASSERT_TRUE(write_file_atomic(folder_ / name, before).ok());
    write(*json_lines(folder_ / "log"), {3, 1, 0, false}, 5, 6);
    write(*csv(folder_ / "table"), {3, 1, 0, false}, 5, 6);
    write(*tensorboard(folder_), {3, 1, 0, false}, 5, 6);
    EXPECT_EQ(content("log"), "{\"event\":\"step\",\"step\":4,\"epoch\":2,\"loss\":1e+300}\n");
    EXPECT_EQ(content("table"), "event,step,epoch,loss\nstep,4,2,1e+300\n");
    EXPECT_EQ(content("events.out.tfevents.0.bitlab").substr(0, 8), std::string("\x1a\0\0\0\0\0\0\0", 8)) << "the version's";
  }
}

TEST_F(Sinks, ErrorsNameTheFile) {
  EXPECT_EQ(json_lines(folder_ / "none" / "log")->begin({}).error().code, ErrorCode::kNotFound);
  const auto full = json_lines("/dev/full");
  ASSERT_TRUE(full->begin({}).ok());
  const Error error = full->write(events()[0]).error();
  EXPECT_EQ(error.code, ErrorCode::kIoError);
  EXPECT_NE(error.message.find("path=/dev/full"), std::string::npos) << error.message;
}

TEST_F(Sinks, AreMadeFromTheConfig) {
  LogConfig config;
  EXPECT_EQ(make_sinks(config, folder_).size(), 2U);
  config.formats = {config::LogFormat::kTensorBoard};
  config.folder = folder_ / "elsewhere";
  std::filesystem::create_directories(config.folder);
  const auto sinks = make_sinks(config, folder_);
  ASSERT_EQ(sinks.size(), 1U);
  write(*sinks[0], {}, 0, events().size());
  EXPECT_TRUE(std::filesystem::exists(folder_ / "elsewhere" / "events.out.tfevents.0.bitlab"));
}

}  // namespace
}  // namespace bitlab::train
