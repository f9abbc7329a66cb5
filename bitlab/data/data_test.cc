// Readers against the real files, hand-made bytes and broken bytes; normalization against its formula in double.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>
#include <zlib.h>

#include "bitlab/base/file.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/image.h"
#include "bitlab/data/internal/idx.h"
#include "bitlab/data/internal/mosaic.h"
#include "bitlab/data/loader.h"

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

int64_t label_of(const Dataset& set, int64_t index) { return set.get(index).value().find("label")->values<int64_t>()[0]; }

std::vector<uint8_t> pixels_of(const Dataset& set, int64_t index) { return set.get(index).value().find("image")->bytes; }

std::vector<uint8_t> all_pixels(const Dataset& set) {
  std::vector<uint8_t> all;
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto pixels = pixels_of(set, i);
    all.insert(all.end(), pixels.begin(), pixels.end());
  }
  return all;
}

TEST(Mnist, HasTheKnownCounts) {
  const DatasetPtr test = load_dataset("mnist", Split::kTest).value();
  ASSERT_EQ(test->size(), 10'000);
  EXPECT_EQ(test->get(9999).value().find("image")->shape, (std::vector<int64_t>{1, 28, 28}));
  // Test images by digit, as published in the literature.
  const int64_t expected[10] = {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009};
  int64_t counts[10] = {};
  for (int64_t i = 0; i < test->size(); ++i) ++counts[label_of(*test, i)];
  for (int digit = 0; digit < 10; ++digit) EXPECT_EQ(counts[digit], expected[digit]) << digit;
  EXPECT_EQ(label_of(*test, 0), 7);
}

TEST(Mnist, MeanAndDeviationAreThoseOfTheTrainingPixels) {
  const DatasetPtr training = load_dataset("mnist", Split::kTrain).value();
  ASSERT_EQ(training->size(), 60'000);
  double sum = 0, squares = 0;
  const auto pixels = all_pixels(*training);
  for (uint8_t pixel : pixels) sum += pixel / 255.0, squares += pixel / 255.0 * pixel / 255.0;
  const double count = static_cast<double>(pixels.size()), mean = sum / count;
  const Preprocess preprocess = training->preprocess();
  EXPECT_NEAR(mean, preprocess.image()->mean[0], 5e-5);
  EXPECT_NEAR(std::sqrt(squares / count - mean * mean), preprocess.image()->std[0], 5e-5);
}

TEST_F(DataTest, MnistFromAFolderIsChecked) {
  const auto load = [&] { return load_dataset("mnist", Split::kTest, {.root = folder_, .limit = 0}); };
  EXPECT_EQ(load().error().code, ErrorCode::kNotFound);
  const auto write = [&](const char* name, const std::vector<uint8_t>& bytes) {
    ASSERT_TRUE(write_file_atomic(folder_ / name, std::span<const uint8_t>(bytes)).ok());
  };
  write("t10k-images-idx3-ubyte", idx({2, 28, 28}, std::vector<uint8_t>(2 * 784, 9)));
  write("t10k-labels-idx1-ubyte", idx({2}, {3, 9}));
  EXPECT_EQ(load().value()->size(), 2);
  write("t10k-labels-idx1-ubyte", idx({2}, {3, 10}));
  EXPECT_EQ(load().error().message,
            fmt::format("[mnist] labels from 0 to 9, got 10 (path={}/t10k-labels-idx1-ubyte)", folder_.string()));
  write("t10k-labels-idx1-ubyte", idx({3}, {1, 2, 3}));
  EXPECT_EQ(load().error().code, ErrorCode::kCorrupt) << "more labels than images";
  write("t10k-images-idx3-ubyte", idx({2, 28, 27}, std::vector<uint8_t>(2 * 28 * 27)));
  EXPECT_EQ(load().error().code, ErrorCode::kCorrupt) << "another size";
}

TEST(Synthetic, IsTheSameEveryTimeAndBalanced) {
  const DatasetPtr a = load_dataset("synthetic", Split::kTrain).value(),
                   b = load_dataset("synthetic", Split::kTrain).value();
  EXPECT_EQ(all_pixels(*a), all_pixels(*b));
  const auto sizes = load_dataset("mnist", Split::kTest, {.root = {}, .limit = 1}).value()->preprocess().sizes();
  EXPECT_EQ(a->preprocess().sizes(), sizes);
  EXPECT_EQ(sizes, (std::map<std::string, int64_t>{{"channels", 1}, {"height", 28}, {"width", 28}, {"classes", 10}}));
  EXPECT_NE(all_pixels(*a), all_pixels(*load_dataset("synthetic", Split::kTest).value()));
  int64_t counts[10] = {};
  for (int64_t i = 0; i < a->size(); ++i) ++counts[label_of(*a, i)];
  for (int64_t count : counts) EXPECT_GT(count, a->size() / 20);
}

TEST(Datasets, LimitsAndNames) {
  EXPECT_EQ(load_dataset("synthetic", Split::kTest, {.root = {}, .limit = 7}).value()->size(), 7);
  EXPECT_EQ(load_dataset("synthetic", Split::kTest, {.root = {}, .limit = -1}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(load_dataset("mnst", Split::kTest).error().message,
            "[data] a data set of {mnist, fashion_mnist, cifar10, cifar100, folder, synthetic, text, tinyshakespeare, "
            "labelled_text}, got 'mnst'");
  EXPECT_EQ(load_dataset("text", Split::kTest, {.root = {}, .limit = 0, .own = {{"token", "3"}}}).error().message,
            "[data] an option of {tokens, tokenizer}, got 'token' (data=text)");
  EXPECT_EQ(dataset_names().size(), 9U);
}

TEST(Datasets, HoldOutPartitionsTheSamples) {
  const DatasetPtr set = load_dataset("synthetic", Split::kTrain, {.root = {}, .limit = 103}).value();
  for (double fraction : {0.0, 0.05, 0.5, 0.99}) {
    const HeldOut parts = hold_out(set, fraction).value();
    EXPECT_EQ(parts.held_out->size(), static_cast<int64_t>(std::floor(103 * fraction)));
    EXPECT_EQ(parts.kept->size() + parts.held_out->size(), 103);
    EXPECT_EQ(parts.kept->preprocess(), set->preprocess());
    std::multiset<std::vector<uint8_t>> all, again;
    for (int64_t i = 0; i < set->size(); ++i) all.insert(pixels_of(*set, i));
    for (const DatasetPtr& part : {parts.kept, parts.held_out})
      for (int64_t i = 0; i < part->size(); ++i) again.insert(pixels_of(*part, i));
    EXPECT_EQ(all, again);
  }
  EXPECT_FALSE(hold_out(set, 1.0).ok());
  EXPECT_FALSE(hold_out(set, std::nan("")).ok());
}

TEST(Datasets, PicturesHaveAnyNumberOfClasses) {
  ImageSpec spec{1, 1, 2, {0.0F}, {1.0F}, {}};
  for (int i = 0; i < 1000; ++i) spec.labels.push_back(std::to_string(i));
  const DatasetPtr set = ImageDataset::create(spec, {1, 2, 3, 4}, {999, 256}).value();
  EXPECT_EQ(label_of(*set, 0), 999);
  EXPECT_EQ(label_of(*set, 1), 256);
  EXPECT_EQ(set->preprocess().sizes().at("classes"), 1000);
  EXPECT_EQ(ImageDataset::create(spec, {1, 2}, {1000}).error().message, "[data] labels from 0 to 999, got 1000");
  EXPECT_EQ(ImageDataset::create(spec, {1, 2, 3}, {1}).error().message,
            "[data] 2 values for each of 1 labels, got 3 in all");
}

TEST_F(DataTest, TextComesInWindowsOfBytes) {
  const std::string text = "To be, or not to be: \xE2\x80\x94 that is the question.";
  const DatasetPtr set = TextDataset::create(text, 5).value();
  ASSERT_EQ(set->size(), (static_cast<int64_t>(text.size()) - 1) / 5);
  for (int64_t i = 0; i < set->size(); ++i) {
    const Sample sample = set->get(i).value();
    for (size_t j = 0; j < 5; ++j) {
      EXPECT_EQ(sample.find("tokens")->values<int64_t>()[j], static_cast<uint8_t>(text[static_cast<size_t>(i) * 5 + j]));
      EXPECT_EQ(sample.find("next")->values<int64_t>()[j], static_cast<uint8_t>(text[static_cast<size_t>(i) * 5 + j + 1]));
    }
  }
  EXPECT_EQ(set->preprocess().sizes(), (std::map<std::string, int64_t>{{"vocabulary", 256}, {"tokens", 5}}));
  EXPECT_FALSE(TextDataset::create("12345", 5).ok());
  EXPECT_TRUE(TextDataset::create("123456", 5).ok());

  std::string whole;
  for (int i = 0; i < 100; ++i) whole += static_cast<char>('0' + i % 10);
  ASSERT_TRUE(write_file_atomic(folder_ / "a.txt", std::string_view(whole)).ok());
  const DataOptions options{.root = folder_ / "a.txt", .limit = 0, .own = {{"tokens", "4"}}};
  EXPECT_EQ(load_dataset("text", Split::kTrain, options).value()->size(), 89 / 4);
  EXPECT_EQ(load_dataset("text", Split::kTest, options).value()->size(), 9 / 4);
  EXPECT_EQ(
      load_dataset("text", Split::kTest, {.root = options.root, .limit = 0, .own = {{"tokens", "4x"}}}).error().message,
      "[text] a whole number of tokens, got '4x'");
  // A text of 1,115,394 bytes that comes with BitLab; the cut after nine tenths is at byte 1,003,851.
  const DatasetPtr plays = load_dataset("tinyshakespeare", Split::kTrain, {}).value();
  EXPECT_EQ(plays->size(), 1'003'850 / 64);
  EXPECT_EQ(load_dataset("tinyshakespeare", Split::kTest, {}).value()->size(), 111'542 / 64);
  const Sample first = plays->get(0).value();
  const auto* bytes = reinterpret_cast<const int64_t*>(first.arrays[0].bytes.data());
  EXPECT_EQ(std::string(bytes, bytes + 13), "First Citizen");
  EXPECT_EQ(load_dataset("text", Split::kTest, {.root = folder_ / "b.txt"}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(load_dataset("text", Split::kTest, {.root = options.root}).error().code, ErrorCode::kInvalidArgument);
}

// --- batches

// Sample i is the number i, and takes longer the smaller it is, so that threads overtake each other.
struct Numbers : Dataset {
  int64_t count;
  explicit Numbers(int64_t n) : count(n) {}
  int64_t size() const override { return count; }
  Result<Sample> get(int64_t index) const override {
    if (index == 1000) return make_error(ErrorCode::kIoError, "[numbers] below 1000, got 1000");
    std::this_thread::sleep_for(std::chrono::microseconds(50 * (count - index)));
    return Sample{{Array::of<int64_t>("number", {}, std::span(&index, 1))}};
  }
};

using Batches = std::vector<std::vector<int64_t>>;

std::vector<int64_t> numbers_of(const Sample& batch) {
  const auto values = batch.find("number")->values<int64_t>();
  return {values.begin(), values.end()};
}

Batches epoch_of(Loader& loader) {
  Batches batches;
  while (auto batch = loader.next().value()) batches.push_back(numbers_of(*batch));
  return batches;
}

// Adds a random multiple of 1000.
Status jitter(Sample& sample, Random& random) {
  sample.find("number")->values<int64_t>()[0] += 1000 * random.between(0, 999);
  return {};
}

TEST(Loader, GoesThroughEpochs) {
  const auto set = std::make_shared<Numbers>(7);
  const auto in_order = Loader::create(set, {.batch_size = 3}).value();
  EXPECT_EQ(in_order->batches(), 3);
  for (int64_t epoch = 1; epoch < 3; ++epoch) {
    EXPECT_EQ(in_order->state().epoch, epoch);
    EXPECT_EQ(epoch_of(*in_order), (Batches{{0, 1, 2}, {3, 4, 5}, {6}}));
  }
  const auto whole = Loader::create(set, {.batch_size = 3, .drop_last = true}).value();
  EXPECT_EQ(epoch_of(*whole), (Batches{{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(whole->samples(), 6);

  const auto shuffled = Loader::create(set, {.batch_size = 7, .shuffle = true, .seed = 3}).value();
  const Batches first = epoch_of(*shuffled), second = epoch_of(*shuffled);
  EXPECT_NE(first, second);
  for (std::vector<int64_t> order : {first[0], second[0]}) {
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  }
  EXPECT_NE(epoch_of(*Loader::create(set, {.batch_size = 7, .shuffle = true, .seed = 4}).value()), first);
}

// Every position of 5 samples is taken by every sample about equally often.
TEST(Loader, ShufflesUniformly) {
  int64_t counts[5][5] = {};
  constexpr int64_t kEpochs = 5000;
  for (int64_t epoch = 1; epoch <= kEpochs; ++epoch) {
    const auto order = order_of_epoch(5, epoch, {.shuffle = true, .seed = 9});
    for (size_t i = 0; i < 5; ++i) ++counts[i][order[i]];
  }
  const double expected = kEpochs / 5.0, deviation = std::sqrt(expected * 0.8);
  for (const auto& row : counts)
    for (const int64_t count : row) EXPECT_NEAR(static_cast<double>(count), expected, 5 * deviation);
}

// Neither threads nor an interruption change a bit, random changes included.
TEST(Loader, ThreadsAndPlacesDoNotMatter) {
  const auto set = std::make_shared<Numbers>(53);
  const auto options = [](int64_t workers, int64_t prefetch) {
    LoaderOptions o{.batch_size = 4, .shuffle = true, .seed = 11, .workers = workers, .prefetch = prefetch};
    o.transforms = {jitter};
    return o;
  };
  const auto reference = Loader::create(set, options(0, 1)).value();
  const Batches first = epoch_of(*reference), second = epoch_of(*reference);
  EXPECT_NE(first, second);
  for (const auto& [workers, prefetch] : {std::pair<int64_t, int64_t>{1, 1}, {3, 1}, {4, 5}}) {
    const auto loader = Loader::create(set, options(workers, prefetch)).value();
    EXPECT_EQ(epoch_of(*loader), first) << workers;
    EXPECT_EQ(epoch_of(*loader), second) << workers;
    for (const int64_t place : {0, 5, 13, 14}) {
      ASSERT_TRUE(loader->seek({2, place}).ok());
      EXPECT_EQ(epoch_of(*loader), Batches(second.begin() + place, second.end())) << workers << " from " << place;
      EXPECT_EQ(loader->state().epoch, 3);
    }
    ASSERT_TRUE(loader->next().ok());  // is destroyed while threads work
  }
}

TEST(Loader, ProcessesShareTheSamples) {
  for (const int64_t size : {12, 13, 2}) {
    std::multiset<int64_t> all;
    for (int64_t rank = 0; rank < 3; ++rank) {
      const LoaderOptions options{.batch_size = 2, .shuffle = true, .rank = rank, .world = 3};
      const auto loader = Loader::create(std::make_shared<Numbers>(size), options).value();
      int64_t count = 0;
      for (const auto& batch : epoch_of(*loader))
        all.insert(batch.begin(), batch.end()), count += static_cast<int64_t>(batch.size());
      EXPECT_EQ(count, (size + 2) / 3);
      EXPECT_EQ(loader->samples(), count);
    }
    EXPECT_EQ(all.size(), static_cast<size_t>((size + 2) / 3 * 3));
    for (int64_t i = 0; i < size; ++i) EXPECT_GE(all.count(i), 1U) << i;
  }
}

TEST(Loader, RefusesAndPassesErrorsOn) {
  const auto message = [](LoaderOptions options, int64_t size = 3) {
    return Loader::create(std::make_shared<Numbers>(size), std::move(options)).error().message;
  };
  EXPECT_EQ(message({}, 0), "[loader] at least one sample, got none");
  EXPECT_EQ(message({.batch_size = 0}),
            "[loader] batch_size and prefetch of at least 1 and 0 to 1024 workers, got 0, 2 and 0");
  EXPECT_EQ(message({.workers = 1025}),
            "[loader] batch_size and prefetch of at least 1 and 0 to 1024 workers, got 128, 2 and 1025");
  EXPECT_EQ(message({.batch_size = 4, .drop_last = true}), "[loader] samples for a whole batch of 4, got 3");
  EXPECT_EQ(message({.rank = 2, .world = 2}), "[loader] a rank below the world's size, got 2 of 2");
  for (const int64_t workers : {0, 2}) {
    const auto loader = Loader::create(std::make_shared<Numbers>(1001), {.batch_size = 500, .workers = workers}).value();
    ASSERT_TRUE(loader->seek({1, 2}).ok());
    EXPECT_EQ(loader->next().error().code, ErrorCode::kIoError);
    EXPECT_EQ(loader->next().error().code, ErrorCode::kIoError);
    EXPECT_EQ(loader->seek({1, 4}).error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(Batches, AreOfOneForm) {
  const std::vector<int64_t> values{1, 2, 3};
  const Sample a{{Array::of<int64_t>("x", {3}, values)}}, b{{Array::of<int64_t>("x", {2}, std::span(values).first(2))}};
  const Sample both = stack(std::vector{a, a}).value();
  EXPECT_EQ(both.arrays[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::vector<int64_t>(both.arrays[0].values<int64_t>().begin(), both.arrays[0].values<int64_t>().end()),
            (std::vector<int64_t>{1, 2, 3, 1, 2, 3}));
  EXPECT_EQ(stack(std::vector{a, b}).error().message,
            "[data] samples of one form for a batch, int64 [3] 'x', got int64 [2] 'x'");
}

// Against the formula: pixel (y, x) of what comes out is that at (y + dy, x + dx), and the amounts cover their range.
TEST(Transforms, MoveAndMirrorPictures) {
  std::vector<uint8_t> pixels(2 * 4 * 5);
  std::iota(pixels.begin(), pixels.end(), uint8_t{1});
  const Sample sample{{Array::of<uint8_t>("image", {2, 4, 5}, pixels)}};
  std::set<std::pair<int64_t, int64_t>> seen;
  for (uint64_t i = 0; i < 400; ++i) {
    Sample moved = sample;
    Random random(1, 1, i);
    ASSERT_TRUE(random_crop(2)(moved, random).ok());
    bool found = false;
    for (int64_t dy = -2; dy <= 2; ++dy)
      for (int64_t dx = -2; dx <= 2; ++dx) {
        std::vector<uint8_t> expected;
        for (int64_t c = 0; c < 2; ++c)
          for (int64_t y = dy; y < 4 + dy; ++y)
            for (int64_t x = dx; x < 5 + dx; ++x)
              expected.push_back(y < 0 || y >= 4 || x < 0 || x >= 5 ? 0 : pixels[static_cast<size_t>((c * 4 + y) * 5 + x)]);
        if (moved.arrays[0].bytes == expected) seen.emplace(dy, dx), found = true;
      }
    EXPECT_TRUE(found) << i;
  }
  EXPECT_EQ(seen.size(), 25U);
  int64_t mirrored = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    Sample flipped = sample;
    Random random(1, 2, i);
    ASSERT_TRUE(random_flip()(flipped, random).ok());
    std::vector<uint8_t> expected = pixels;
    for (size_t row = 0; row < 8; ++row) std::reverse(expected.begin() + row * 5, expected.begin() + row * 5 + 5);
    if (flipped.arrays[0].bytes == expected) ++mirrored;
    EXPECT_TRUE(flipped.arrays[0].bytes == expected || flipped.arrays[0].bytes == pixels);
  }
  EXPECT_NEAR(static_cast<double>(mirrored), 100, 5 * std::sqrt(50));
  Sample none;
  Random random(1);
  EXPECT_EQ(random_flip()(none, random).error().message, "[data] an array 'image', got none");
}

TEST(Preprocessing, RoundTripsAndRefuses) {
  const Preprocess image{ImageSpec{3, 4, 5, {0.1F, 0.2F, 0.3F}, {1.0F, 2.0F, 0.5F}, {"cat", "d\"og"}}},
      text{TextSpec{256, 9}};
  for (const Preprocess& p : {image, text, Preprocess{}}) EXPECT_EQ(Preprocess::from_json(p.to_json()).value(), p);
  EXPECT_EQ(Preprocess::from_json("{\"kind\": \"sound\", \"sound\": {}}").error().message,
            "[preprocess] a kind of {none, image, text}, got 'sound'");
  for (const char* bad : {"", "[]", "{}", "{\"kind\": 3}", "{\"kind\": \"image\"}", "{\"kind\": \"image\", \"image\": {}}",
                          "{\"kind\": \"text\", \"text\": {\"vocabulary\": 0, \"tokens\": 1}}"})
    EXPECT_EQ(Preprocess::from_json(bad).error().code, ErrorCode::kCorrupt) << bad;
  Sample sample{{Array::of<uint8_t>("image", {2}, std::vector<uint8_t>{1, 2})}};
  EXPECT_EQ(image.apply(sample).error().message, "[data] 'image' as uint8 [..., 3, 4, 5], got uint8 [2]");
}

// --- pictures

TEST_F(DataTest, PngRoundTrips) {
  for (int64_t channels : {1, 3}) {
    Image image{channels, 5, 7, std::vector<uint8_t>(static_cast<size_t>(channels * 35))};
    std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{100});
    ASSERT_TRUE(write_png(folder_ / "a.png", image).ok());
    const Image back = read_image(folder_ / "a.png", channels).value();
    EXPECT_EQ(back.height, 5);
    EXPECT_EQ(back.width, 7);
    EXPECT_EQ(back.pixels, image.pixels);
  }
}

TEST_F(DataTest, PngChangesChannels) {
  ASSERT_TRUE(write_png(folder_ / "grey.png", {1, 1, 2, {10, 200}}).ok());
  EXPECT_EQ(read_image(folder_ / "grey.png", 3).value().pixels, (std::vector<uint8_t>{10, 200, 10, 200, 10, 200}));
  ASSERT_TRUE(write_png(folder_ / "white.png", {3, 1, 1, {255, 255, 255}}).ok());
  EXPECT_EQ(read_image(folder_ / "white.png", 1).value().pixels, std::vector<uint8_t>{255});
}

TEST_F(DataTest, BrokenPngsAreRefused) {
  ASSERT_TRUE(write_png(folder_ / "a.png", {1, 9, 9, std::vector<uint8_t>(81, 7)}).ok());
  const std::string bytes = read_file(folder_ / "a.png").value();
  for (size_t size = 0; size + 12 < bytes.size(); size += 3) {  // the last chunk, IEND, holds 12 bytes
    ASSERT_TRUE(write_file_atomic(folder_ / "b.png", std::string_view(bytes).substr(0, size)).ok());
    EXPECT_EQ(read_image(folder_ / "b.png", 1).error().code, ErrorCode::kCorrupt) << size;
  }
  EXPECT_EQ(read_image(folder_ / "none.png", 1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_image(folder_ / "a.png", 2).error().code, ErrorCode::kInvalidArgument);
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
