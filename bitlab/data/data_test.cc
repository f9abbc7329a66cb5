// Readers against the real files, hand-made bytes and broken bytes; normalization against its formula in double.
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>
#include <unistd.h>

#include <gtest/gtest.h>
#include <zlib.h>

#include "bitlab/base/file.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/idx.h"
#include "bitlab/data/image.h"
#include "bitlab/data/mosaic.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

class DataTest : public ::testing::Test {
 protected:
  DataTest() : folder_(fs::temp_directory_path() / fmt::format("bitlab_data_{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~DataTest() override { fs::remove_all(folder_); }
  fs::path folder_;
};

std::vector<uint8_t> idx(std::vector<uint8_t> shape, std::vector<uint8_t> values) {
  std::vector<uint8_t> bytes{0, 0, 8, static_cast<uint8_t>(shape.size())};
  for (uint8_t size : shape) bytes.insert(bytes.end(), {0, 0, 0, size});
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

std::vector<uint8_t> gzipped(const std::vector<uint8_t>& bytes) {
  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::vector<uint8_t> out(deflateBound(&stream, bytes.size()));
  stream.next_in = const_cast<uint8_t*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// --- idx

TEST(Idx, ReadsPlainAndGzipped) {
  const auto bytes = idx({2, 3}, {1, 2, 3, 4, 5, 255});
  for (const auto& form : {bytes, gzipped(bytes)}) {
    const IdxArray array = parse_idx(form).value();
    EXPECT_EQ(array.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.values, (std::vector<uint8_t>{1, 2, 3, 4, 5, 255}));
  }
}

TEST(Idx, RefusesBrokenBytes) {
  const auto bytes = idx({2, 3}, {1, 2, 3, 4, 5, 6});
  for (const auto& whole : {bytes, gzipped(bytes)})
    for (size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(parse_idx(std::span(whole).first(size)).ok()) << size;
  auto more = bytes;
  more.push_back(0);
  EXPECT_EQ(parse_idx(more).error().code, ErrorCode::kCorrupt);
  auto floats = bytes;
  floats[2] = 13;
  EXPECT_EQ(parse_idx(floats).error().code, ErrorCode::kUnsupported);
  auto rank = bytes;
  rank[3] = 0;
  EXPECT_EQ(parse_idx(rank).error().code, ErrorCode::kCorrupt);
  const std::vector<uint8_t> huge{0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
  EXPECT_EQ(parse_idx(huge).error().code, ErrorCode::kCorrupt) << "no memory is taken for what a header promises";
}

// --- data sets

TEST(Mnist, HasTheKnownCounts) {
  const ImageDataset test = load_dataset("mnist", Split::kTest).value();
  ASSERT_EQ(test.count, 10'000);
  EXPECT_EQ(test.pixels.size(), 10'000U * 784U);
  // Test images by digit, as published in the literature.
  const int64_t expected[10] = {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009};
  int64_t counts[10] = {};
  for (uint8_t label : test.labels) ++counts[label];
  for (int digit = 0; digit < 10; ++digit) EXPECT_EQ(counts[digit], expected[digit]) << digit;
  EXPECT_EQ(test.labels[0], 7);
}

TEST(Mnist, MeanAndDeviationAreThoseOfTheTrainingPixels) {
  const ImageDataset training = load_dataset("mnist", Split::kTrain).value();
  ASSERT_EQ(training.count, 60'000);
  double sum = 0, squares = 0;
  for (uint8_t pixel : training.pixels) sum += pixel / 255.0, squares += pixel / 255.0 * pixel / 255.0;
  const double count = static_cast<double>(training.pixels.size()), mean = sum / count;
  EXPECT_NEAR(mean, training.spec.mean[0], 5e-5);
  EXPECT_NEAR(std::sqrt(squares / count - mean * mean), training.spec.std[0], 5e-5);
}

TEST_F(DataTest, MnistFromAFolderIsChecked) {
  const auto load = [&] { return load_dataset("mnist", Split::kTest, {.root = folder_, .limit = 0}); };
  EXPECT_EQ(load().error().code, ErrorCode::kNotFound);
  const auto write = [&](const char* name, const std::vector<uint8_t>& bytes) {
    ASSERT_TRUE(write_file_atomic(folder_ / name, std::span<const uint8_t>(bytes)).ok());
  };
  write("t10k-images-idx3-ubyte", idx({2, 28, 28}, std::vector<uint8_t>(2 * 784, 9)));
  write("t10k-labels-idx1-ubyte", idx({2}, {3, 9}));
  EXPECT_EQ(load().value().count, 2);
  write("t10k-labels-idx1-ubyte", idx({2}, {3, 10}));
  EXPECT_EQ(load().error().code, ErrorCode::kCorrupt) << "a label of 10";
  write("t10k-labels-idx1-ubyte", idx({3}, {1, 2, 3}));
  EXPECT_EQ(load().error().code, ErrorCode::kCorrupt) << "more labels than images";
  write("t10k-images-idx3-ubyte", idx({2, 28, 27}, std::vector<uint8_t>(2 * 28 * 27)));
  EXPECT_EQ(load().error().code, ErrorCode::kCorrupt) << "another size";
}

TEST(Synthetic, IsTheSameEveryTimeAndBalanced) {
  const ImageDataset a = load_dataset("synthetic", Split::kTrain).value(),
                     b = load_dataset("synthetic", Split::kTrain).value();
  EXPECT_EQ(a.pixels, b.pixels);
  const ImageSpec mnist = load_dataset("mnist", Split::kTest, {.root = {}, .limit = 1}).value().spec;
  EXPECT_EQ(a.spec.values(), mnist.values());
  EXPECT_EQ(a.spec.labels, mnist.labels);
  EXPECT_NE(a.pixels, load_dataset("synthetic", Split::kTest).value().pixels);
  int64_t counts[10] = {};
  for (uint8_t label : a.labels) ++counts[label];
  for (int64_t count : counts) EXPECT_GT(count, a.count / 20);
}

TEST(Datasets, LimitsAndNames) {
  EXPECT_EQ(load_dataset("synthetic", Split::kTest, {.root = {}, .limit = 7}).value().count, 7);
  EXPECT_EQ(load_dataset("synthetic", Split::kTest, {.root = {}, .limit = -1}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(load_dataset("mnst", Split::kTest).error().message, "[data] a data set of {mnist, synthetic}, got 'mnst'");
  EXPECT_EQ(dataset_names().size(), 2U);
}

TEST(Datasets, HoldOutPartitionsTheSamples) {
  const ImageDataset set = load_dataset("synthetic", Split::kTrain, {.root = {}, .limit = 103}).value();
  for (double fraction : {0.0, 0.05, 0.5, 0.99}) {
    const HeldOut parts = hold_out(set, fraction).value();
    EXPECT_EQ(parts.held_out.count, static_cast<int64_t>(std::floor(103 * fraction)));
    EXPECT_EQ(parts.kept.count + parts.held_out.count, 103);
    EXPECT_EQ(parts.kept.pixels.size() + parts.held_out.pixels.size(), set.pixels.size());
    std::multiset<std::vector<uint8_t>> all, again;
    for (int64_t i = 0; i < set.count; ++i) all.insert(set.image(i).pixels);
    for (const ImageDataset* part : {&parts.kept, &parts.held_out})
      for (int64_t i = 0; i < part->count; ++i) again.insert(part->image(i).pixels);
    EXPECT_EQ(all, again);
  }
  EXPECT_FALSE(hold_out(set, 1.0).ok());
  EXPECT_FALSE(hold_out(set, std::nan("")).ok());
}

// --- pictures

TEST_F(DataTest, PngRoundTrips) {
  for (int64_t channels : {1, 3}) {
    Image image{channels, 5, 7, std::vector<uint8_t>(static_cast<size_t>(channels * 35))};
    std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{100});
    ASSERT_TRUE(write_png(folder_ / "a.png", image).ok());
    const Image back = read_png(folder_ / "a.png", channels).value();
    EXPECT_EQ(back.height, 5);
    EXPECT_EQ(back.width, 7);
    EXPECT_EQ(back.pixels, image.pixels);
  }
}

TEST_F(DataTest, PngChangesChannels) {
  ASSERT_TRUE(write_png(folder_ / "grey.png", {1, 1, 2, {10, 200}}).ok());
  EXPECT_EQ(read_png(folder_ / "grey.png", 3).value().pixels, (std::vector<uint8_t>{10, 200, 10, 200, 10, 200}));
  ASSERT_TRUE(write_png(folder_ / "white.png", {3, 1, 1, {255, 255, 255}}).ok());
  EXPECT_EQ(read_png(folder_ / "white.png", 1).value().pixels, std::vector<uint8_t>{255});
}

TEST_F(DataTest, BrokenPngsAreRefused) {
  ASSERT_TRUE(write_png(folder_ / "a.png", {1, 9, 9, std::vector<uint8_t>(81, 7)}).ok());
  const std::string bytes = read_file(folder_ / "a.png").value();
  for (size_t size = 0; size + 12 < bytes.size(); size += 3) {  // the last chunk, IEND, holds 12 bytes
    ASSERT_TRUE(write_file_atomic(folder_ / "b.png", std::string_view(bytes).substr(0, size)).ok());
    EXPECT_EQ(read_png(folder_ / "b.png", 1).error().code, ErrorCode::kCorrupt) << size;
  }
  EXPECT_EQ(read_png(folder_ / "none.png", 1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_png(folder_ / "a.png", 2).error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(write_png(folder_ / "c.png", {1, 9, 9, {}}).ok());
}

TEST(Normalize, FollowsTheFormulaForEveryByte) {
  ImageSpec spec{2, 16, 16, {0.1F, 0.5F}, {0.3F, 0.25F}, {}};
  std::vector<uint8_t> pixels(512);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  std::vector<float> out(512);
  normalize(spec, pixels, out);
  for (size_t i = 0; i < 512; ++i) {
    const size_t c = i / 256;
    EXPECT_NEAR(out[i],
                (static_cast<double>(i % 256) / 255 - static_cast<double>(spec.mean[c])) / static_cast<double>(spec.std[c]),
                1e-6);
  }
}

TEST(ImageSpec, RoundTripsAndRefuses) {
  const ImageSpec spec{3, 32, 30, {0.1F, 0.2F, 0.3F}, {1.0F, 2.0F, 0.5F}, {"cat", "d\"og"}};
  EXPECT_EQ(ImageSpec::from_json(spec.to_json()).value(), spec);
  for (const char* text :
       {"", "{}", "[]", "{\"channels\":1,\"height\":0,\"width\":1,\"mean\":[0],\"std\":[1],\"labels\":[]}",
        "{\"channels\":1,\"height\":1,\"width\":1,\"mean\":[0],\"std\":[0],\"labels\":[]}",
        "{\"channels\":1,\"height\":1,\"width\":1,\"mean\":[0,0],\"std\":[1],\"labels\":[]}",
        "{\"channels\":1,\"height\":1,\"width\":99999,\"mean\":[0],\"std\":[1],\"labels\":[]}",
        "{\"channels\":1,\"height\":1,\"width\":1,\"mean\":[1e99],\"std\":[1],\"labels\":[]}",
        "{\"channels\":1,\"height\":1,\"width\":1,\"mean\":[0],\"std\":[1],\"labels\":[1]}"})
    EXPECT_EQ(ImageSpec::from_json(text).error().code, ErrorCode::kCorrupt) << text;
}

TEST(Mosaic, HoldsTheEnlargedTiles) {
  const Tile tile{{1, 2, 2, {0, 50, 100, 150}}, "7", true};
  const Image sheet = mosaic(std::vector<Tile>(5, tile), 3, 4).value();
  EXPECT_EQ(sheet.channels, 3);
  std::set<uint8_t> reds(sheet.pixels.begin(), sheet.pixels.begin() + sheet.height * sheet.width);
  for (int value : {0, 50, 100, 150}) EXPECT_TRUE(reds.contains(static_cast<uint8_t>(value))) << value;
  EXPECT_FALSE(mosaic({}, 3).ok());
  EXPECT_FALSE(mosaic(std::vector<Tile>{tile, {{1, 1, 1, {0}}, "1", true}}, 3).ok());
}

}  // namespace
}  // namespace bitlab::data
