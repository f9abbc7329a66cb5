// Where data come from: tars, folders of pictures, CIFAR's records, downloads; and what is said of those that are broken.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/base/log.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/download.h"
#include "bitlab/data/image.h"
#include "bitlab/data/internal/file_set.h"
#include "bitlab/data/internal/sha256.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

class SourcesTest : public ::testing::Test {
 protected:
  SourcesTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_sources_{}", getpid())) {
    fs::create_directories(folder_);
    set_log_sink([this](LogLevel level, std::string_view message) {
      if (level == LogLevel::kWarning) warnings_ += std::string(message) + "\n";
    });
  }
  ~SourcesTest() override {
    set_log_sink({});
    fs::remove_all(folder_);
  }
  void write(const std::string& name, std::string_view content) const {
    fs::create_directories((folder_ / name).parent_path());
    ASSERT_TRUE(write_file_atomic(folder_ / name, content).ok());
  }
  // A picture of one colour.
  void picture(const std::string& name, uint8_t value, int64_t height = 4, int64_t width = 6) const {
    fs::create_directories((folder_ / name).parent_path());
    ASSERT_TRUE(
        write_png(folder_ / name, {3, height, width, std::vector<uint8_t>(static_cast<size_t>(3 * height * width), value)})
            .ok());
  }
  int run(const std::string& command) const {
    return std::system(("cd '" + folder_.string() + "' && " + command + " >/dev/null 2>&1").c_str());
  }

  fs::path folder_;
  std::string warnings_;
};

int64_t label_at(const Dataset& set, int64_t i) { return set.get(i).value().find("label")->values<int64_t>()[0]; }
uint8_t first_pixel(const Dataset& set, int64_t i) { return set.get(i).value().find("image")->bytes[0]; }

// Labels and first values, sorted: folders come in an order of their own.
std::vector<std::pair<int64_t, int>> contents_of(const Dataset& set) {
  std::vector<std::pair<int64_t, int>> list;
  for (int64_t i = 0; i < set.size(); ++i) list.emplace_back(label_at(set, i), first_pixel(set, i));
  std::sort(list.begin(), list.end());
  return list;
}

std::vector<int64_t> labels_of(const Dataset& set) {
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < set.size(); ++i) labels.push_back(label_at(set, i));
  return labels;
}

// --- tars, made by the command tar

TEST_F(SourcesTest, TarsAreReadLikeTheFolder) {
  const std::string deep = std::string(60, 'a') + "/" + std::string(90, 'b') + "/" + std::string(120, 'c');
  write("in/one.txt", "1");
  write("in/empty", "");
  write("in/sub/two.bin", std::string(1500, 'x'));
  write("in/" + deep, "deep");
  write("in/link_target", "t");
  fs::create_symlink("link_target", folder_ / "in/link");
  fs::create_directories(folder_ / "in/none");
  const auto expected = FileSet::open(folder_ / "in").value();
  for (const char* command : {"tar -cf a.tar --format=gnu -C in .", "tar -cf a.tar --format=pax -C in .",
                              "tar -czf a.tar --format=ustar -C in one.txt empty sub link link_target none"}) {
    ASSERT_EQ(run(command), 0) << command;
    const auto set = FileSet::open(folder_ / "a.tar").value();
    std::vector<std::string> names = expected->names();
    std::erase(names, "link");  // a folder's link leads to the file, a tar's is passed over
    if (std::string(command).find("ustar") != std::string::npos) std::erase(names, deep);
    ASSERT_EQ(set->names(), names) << command;
    for (size_t i = 0; i < names.size(); ++i)
      EXPECT_EQ(set->read(i).value(), expected->read(expected->find(names[i]).value()).value()) << names[i];
    EXPECT_EQ(set->describe(set->find("two.bin").value()), (folder_ / "a.tar").string() + ":sub/two.bin");
  }
}

TEST_F(SourcesTest, BrokenTarsAreRefused) {
  write("in/one.txt", std::string(700, '1'));
  write("in/two.txt", "2");
  ASSERT_EQ(run("tar -cf a.tar -C in one.txt two.txt && tar -czf a.tgz -C in one.txt two.txt"), 0);
  const std::string tar = read_file(folder_ / "a.tar").value(), zipped = read_file(folder_ / "a.tgz").value();
  const auto open = [&](std::string_view content) {
    write("b.tar", content);
    return FileSet::open(folder_ / "b.tar");
  };
  for (const size_t size : {600U, 1000U, 1535U})
    EXPECT_EQ(open(tar.substr(0, size)).error().code, ErrorCode::kCorrupt) << size;
  for (size_t size = 2; size < zipped.size(); size += 7)
    EXPECT_EQ(open(zipped.substr(0, size)).error().code, ErrorCode::kCorrupt) << size;
  for (size_t i = 0; i < 512; i += 3) {  // every byte of a header is in its sum
    std::string wrong = tar;
    wrong[i] = static_cast<char>(wrong[i] ^ 1);
    EXPECT_FALSE(open(wrong).ok()) << i;
  }
  EXPECT_EQ(open("").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(FileSet::open(folder_ / "none").error().code, ErrorCode::kNotFound);
}

// --- folders of pictures

TEST_F(SourcesTest, FoldersAreClasses) {
  for (int i = 0; i < 3; ++i) {
    picture(fmt::format("set/train/dog/{}.png", i), static_cast<uint8_t>(100 + i));
    picture(fmt::format("set/train/cat/{}.PNG", i), static_cast<uint8_t>(i));
  }
  picture("set/test/dog/9.png", 109, 8, 12);
  write("set/train/readme.txt", "no picture");
  ASSERT_EQ(run("tar -czf set.tgz set"), 0);
  for (const char* name : {"set", "set.tgz", "."}) {
    const DataOptions options{.root = folder_ / name};
    const DatasetPtr training = load_dataset("folder", Split::kTrain, options).value();
    EXPECT_EQ(training->preprocess().image()->labels, (std::vector<std::string>{"cat", "dog"}));
    EXPECT_EQ(contents_of(*training),
              (std::vector<std::pair<int64_t, int>>{{0, 0}, {0, 1}, {0, 2}, {1, 100}, {1, 101}, {1, 102}}));
    EXPECT_EQ(labels_of(*training), labels_of(*load_dataset("folder", Split::kTrain, options).value()));
    const DatasetPtr test = load_dataset("folder", Split::kTest, options).value();
    EXPECT_EQ(labels_of(*test), (std::vector<int64_t>{1}));
    EXPECT_EQ(test->get(0).value().find("image")->shape, (std::vector<int64_t>{3, 4, 6})) << "resized to the first's";
  }
  const DataOptions sized{.root = folder_ / "set",
                          .own = {{"height", "5"}, {"width", "3"}, {"channels", "1"}, {"mean", "[0.1]"}, {"std", "0.2"}}};
  const DatasetPtr grey = load_dataset("folder", Split::kTrain, sized).value();
  EXPECT_EQ(grey->get(0).value().find("image")->shape, (std::vector<int64_t>{1, 5, 3}));
  EXPECT_EQ(grey->preprocess().image()->mean, std::vector<float>{0.1F});
}

TEST_F(SourcesTest, EveryTenthPictureIsTestedOnWhereNoFolderSays) {
  for (int i = 0; i < 25; ++i) picture(fmt::format("{}/{:02}.png", i < 12 ? "a" : "b", i), static_cast<uint8_t>(i));
  const DatasetPtr training = load_dataset("folder", Split::kTrain, {.root = folder_}).value(),
                   test = load_dataset("folder", Split::kTest, {.root = folder_}).value();
  EXPECT_EQ(training->size(), 23);
  EXPECT_EQ(contents_of(*test), (std::vector<std::pair<int64_t, int>>{{0, 9}, {1, 19}}));
}

TEST_F(SourcesTest, BrokenPicturesStopOrAreCounted) {
  for (int i = 0; i < 4; ++i) picture(fmt::format("train/{}/{}.png", i % 2, i), 50);
  picture("test/2/0.png", 50);
  const std::string jpeg = read_file(fs::path(BITLAB_SOURCE_DIR) / "bitlab/data/testdata/colours.jpg").value();
  write("train/0/9.jpg", std::string_view(jpeg).substr(0, jpeg.size() / 2));
  const auto load = [&](Split split, std::map<std::string, std::string> own) {
    return load_dataset("folder", split, {.root = folder_, .own = std::move(own)});
  };
  const DatasetPtr stops = load(Split::kTrain, {}).value();
  std::string stopped;
  for (int64_t i = 0; i < stops->size(); ++i)
    if (const auto sample = stops->get(i); !sample.ok()) stopped += sample.error().message;
  EXPECT_EQ(stopped, fmt::format("[jpeg] a JPEG picture, got 'Premature end of JPEG file' (path={}/train/0/9.jpg)",
                                 folder_.string()));
  EXPECT_EQ(load(Split::kTrain, {{"errors", "skip"}}).value()->size(), 4);
  EXPECT_EQ(warnings_,
            fmt::format("[folder] 1 of 5 samples left out, the first of them: [jpeg] a JPEG picture, got 'Premature end of "
                        "JPEG file' (path={}/train/0/9.jpg)\n",
                        folder_.string()));
  EXPECT_EQ(load(Split::kTest, {}).error().message,
            fmt::format("[folder] a class that there are pictures to train on of, got '2' (path={}/test/2/0.png)",
                        folder_.string()));
  EXPECT_EQ(load(Split::kTest, {{"errors", "skip"}}).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(load(Split::kTrain, {{"errors", "hide"}}).error().message, "[folder] errors of {stop, skip}, got 'hide'");
  EXPECT_EQ(load(Split::kTrain, {{"height", "3"}}).error().message,
            "[folder] a height and a width, or neither, got 3 and 0");
  EXPECT_EQ(load(Split::kTrain, {{"mean", "1 x"}}).error().message, "[folder] numbers as mean, got '1 x'");
  EXPECT_EQ(load(Split::kTrain, {{"std", "0 1 1"}}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(load(Split::kTrain, {{"channels", "2"}}).error().code, ErrorCode::kInvalidArgument);
  fs::create_directories(folder_ / "empty/train");
  EXPECT_EQ(load_dataset("folder", Split::kTrain, {.root = folder_ / "empty"}).error().code, ErrorCode::kNotFound);
  picture("flat/a.png", 1);
  EXPECT_EQ(load_dataset("folder", Split::kTrain, {.root = folder_ / "flat"}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load_dataset("folder", Split::kTrain, {.root = folder_ / "absent"}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load_dataset("folder", Split::kTrain).error().code, ErrorCode::kInvalidArgument);
}

// --- CIFAR

std::string record(std::string label, int seed) {
  for (int i = 0; i < 3072; ++i) label += static_cast<char>(i * 7 + seed);
  return label;
}

TEST_F(SourcesTest, CifarIsReadFromItsRecords) {
  std::string names;
  for (int i = 0; i < 10; ++i) names += fmt::format("class{}\n", i);
  write("cifar-10-batches-bin/batches.meta.txt", names + "\n");
  for (int i = 1; i <= 5; ++i)
    write(fmt::format("cifar-10-batches-bin/data_batch_{}.bin", i),
          record(std::string(1, static_cast<char>(i)), i) + record("\x09", 50 + i));
  write("cifar-10-batches-bin/test_batch.bin", record(std::string(1, '\0'), 99));
  ASSERT_EQ(run("tar -czf cifar-10-binary.tar.gz cifar-10-batches-bin"), 0);
  for (const char* root : {".", "cifar-10-binary.tar.gz", "cifar-10-batches-bin"}) {
    const DatasetPtr training = load_dataset("cifar10", Split::kTrain, {.root = folder_ / root}).value();
    EXPECT_EQ(labels_of(*training), (std::vector<int64_t>{1, 9, 2, 9, 3, 9, 4, 9, 5, 9}));
    const Sample sample = training->get(4).value();
    const Array& image = *sample.find("image");
    EXPECT_EQ(image.shape, (std::vector<int64_t>{3, 32, 32}));
    for (int i = 0; i < 3072; ++i) ASSERT_EQ(image.bytes[static_cast<size_t>(i)], static_cast<uint8_t>(i * 7 + 3));
    EXPECT_EQ(training->preprocess().image()->labels[9], "class9");
    EXPECT_EQ(load_dataset("cifar10", Split::kTest, {.root = folder_ / root}).value()->size(), 1);
  }
  const auto test_error = [&](std::string_view content) {
    write("cifar-10-batches-bin/test_batch.bin", content);
    return load_dataset("cifar10", Split::kTest, {.root = folder_ / "cifar-10-batches-bin"}).error().message;
  };
  const std::string where = fmt::format("(path={}/cifar-10-batches-bin/test_batch.bin)", folder_.string());
  EXPECT_EQ(test_error(record("\x0A", 1)), "[cifar10] labels from 0 to 9, got 10 " + where);
  EXPECT_EQ(test_error(record("\x01", 1).substr(1)), "[cifar10] records of 3073 bytes, got 3072 in all " + where);
  EXPECT_EQ(test_error(""), "[cifar10] records of 3073 bytes, got 0 in all " + where);
  write("cifar-10-batches-bin/batches.meta.txt", "one\n");
  EXPECT_EQ(load_dataset("cifar10", Split::kTrain, {.root = folder_ / "cifar-10-batches-bin"}).error().code,
            ErrorCode::kCorrupt);
}

TEST_F(SourcesTest, Cifar100HasFineLabels) {
  std::string names;
  for (int i = 0; i < 100; ++i) names += fmt::format("class{}\n", i);
  write("fine_label_names.txt", names);
  write("train.bin", record(std::string("\x03\x63"), 1));
  EXPECT_EQ(labels_of(*load_dataset("cifar100", Split::kTrain, {.root = folder_}).value()), std::vector<int64_t>{99});
  EXPECT_EQ(load_dataset("cifar100", Split::kTest, {.root = folder_}).error().code, ErrorCode::kNotFound) << "no test.bin";
}

// --- downloads

// Examples of FIPS 180-4's supplement.
TEST(Sha256, HasTheKnownSums) {
  const auto sum = [](std::string_view text, size_t piece) {
    Sha256 sha;
    for (size_t i = 0; i < text.size(); i += piece) {
      const std::string_view part = text.substr(i, piece);
      sha.add({reinterpret_cast<const uint8_t*>(part.data()), part.size()});
    }
    return sha.finish();
  };
  EXPECT_EQ(sum("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sum("abc", 1), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sum("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 5),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  for (const size_t piece : {1U, 63U, 64U, 1000U})
    EXPECT_EQ(sum(std::string(1'000'000, 'a'), piece), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_F(SourcesTest, DownloadsAreCheckedAndGoOn) {
  unsetenv("BITLAB_OFFLINE");
  const std::string content(5000, 'q');
  write("good/file.bin", content);
  write("bad/file.bin", std::string(5000, 'r'));
  const auto url = [&](const char* mirror) { return "file://" + (folder_ / mirror / "file.bin").string(); };
  const std::string sum = sha256_of(folder_ / "good/file.bin").value();
  const RemoteFile remote{"file.bin", 5000, sum, {url("absent"), url("bad"), url("good")}};
  const fs::path cache = folder_ / "cache/set";
  if (std::system("curl --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no curl";
  EXPECT_EQ(fetch(remote, cache).value(), cache / "file.bin");
  EXPECT_EQ(read_file(cache / "file.bin").value(), content);
  EXPECT_FALSE(fs::exists(cache / "file.bin.part"));

  fs::remove(cache / "file.bin");
  write("cache/set/file.bin.part", content.substr(0, 1234));
  write("good/file.bin", std::string(1234, '!') + content.substr(1234));  // what is there already is not fetched again
  EXPECT_EQ(fetch({"file.bin", 5000, sum, {url("good")}}, cache).value(), cache / "file.bin");

  write("cache/set/file.bin", "short");
  EXPECT_EQ(fetch(remote, cache).error().code, ErrorCode::kCorrupt) << "a file that somebody put there is left alone";
  EXPECT_EQ(read_file(cache / "file.bin").value(), "short");
  fs::remove(cache / "file.bin");
  const std::string failure = fetch({"file.bin", 5000, sum, {url("bad")}}, cache).error().message;
  EXPECT_NE(failure.find("another checksum, "), std::string::npos) << failure;
  EXPECT_NE(failure.find("Put it into " + cache.string()), std::string::npos) << failure;
  setenv("BITLAB_OFFLINE", "1", 1);
  const Error offline = fetch(remote, cache).error();
  unsetenv("BITLAB_OFFLINE");
  EXPECT_EQ(offline.code, ErrorCode::kNotFound);
  EXPECT_NE(offline.message.find("BITLAB_OFFLINE is set. Put it into " + cache.string()), std::string::npos)
      << offline.message;
}

}  // namespace
}  // namespace bitlab::data
