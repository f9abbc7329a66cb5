// Decoding, resizing and the operations of RandAugment against Pillow (testdata/make_fixtures.py); transforms against their formulas.
#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/data/image.h"
#include "bitlab/data/image_ops.h"
#include "bitlab/data/transform.h"

namespace bitlab::data {
namespace {

std::string picture_file(const std::string& name) {
  return read_file(std::filesystem::path(BITLAB_SOURCE_DIR) / "bitlab/data/testdata" / name).value();
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The pixels of an image as the files have them, [height, width, channels].
std::string interleaved(const Image& image) {
  std::string out;
  const int64_t plane = image.height * image.width;
  for (int64_t i = 0; i < plane; ++i)
    for (int64_t c = 0; c < image.channels; ++c) out += static_cast<char>(image.pixels[static_cast<size_t>(c * plane + i)]);
  return out;
}

Image colours() { return decode_image(bytes_of(picture_file("colours.jpg")), 3).value(); }

TEST(Jpeg, DecodesAsPillowDoes) {
  const std::string decoded = picture_file("decoded.rgb");
  const Image image = colours(), grey = decode_image(bytes_of(picture_file("grey.jpg")), 1).value();
  EXPECT_EQ(image.height, 23);
  EXPECT_EQ(image.width, 17);
  EXPECT_EQ(interleaved(image) + interleaved(grey), decoded);
  const Image repeated = decode_image(bytes_of(picture_file("grey.jpg")), 3).value();
  for (size_t i = 0; i < repeated.pixels.size(); ++i) EXPECT_EQ(repeated.pixels[i], grey.pixels[i % grey.pixels.size()]);
}

TEST(Jpeg, RefusesBrokenFiles) {
  for (const char* name : {"colours.jpg", "grey.jpg"}) {
    const std::string file = picture_file(name);
    for (size_t size = 0; size < file.size(); ++size)
      EXPECT_EQ(decode_image(bytes_of(file).first(size), 3).error().code, ErrorCode::kCorrupt) << name << " " << size;
  }
  const std::string file = picture_file("colours.jpg");
  EXPECT_EQ(decode_image(bytes_of(file).first(file.size() - 2), 3).error().message,
            "[jpeg] a JPEG picture, got 'Premature end of JPEG file'");
  EXPECT_EQ(decode_image(bytes_of(file), 2).error().message, "[image] 1 or 3 channels, got 2");
  std::string huge = file;
  const size_t sizes = huge.find("\xFF\xC0") + 5;  // of the frame's header: height, width
  for (size_t i = 0; i < 4; ++i) huge[sizes + i] = '\x30';
  EXPECT_EQ(decode_image(bytes_of(huge), 3).error().message,
            "[jpeg] a JPEG picture, got 'more pixels than the file can hold'");
}

TEST(Resize, ResultsArePillows) {
  const std::string expected = picture_file("resized.rgb");
  std::string found;
  for (const auto& [height, width] :
       {std::pair<int64_t, int64_t>{23, 17}, {11, 17}, {23, 40}, {7, 5}, {50, 3}, {1, 1}, {46, 34}})
    found += interleaved(resize(colours(), height, width).value());
  EXPECT_EQ(found, expected);
  EXPECT_EQ(resize(colours(), 0, 3).error().message, "[resize] from 1 to 16384 pixels a side, got 0x3");
}

TEST(ImageOps, ResultsArePillows) {
  const std::string expected = picture_file("ops.rgb");
  const std::vector<std::pair<const char*, std::vector<double>>> cases{{"shear_x", {0.3, -0.17}},
                                                                       {"shear_y", {0.3, -0.17}},
                                                                       {"translate_x", {0.45, -0.2}},
                                                                       {"translate_y", {0.45, -0.2}},
                                                                       {"rotate", {30, -13.5}},
                                                                       {"brightness", {0.9, -0.35}},
                                                                       {"color", {0.9, -0.35}},
                                                                       {"contrast", {0.9, -0.35}},
                                                                       {"sharpness", {0.9, -0.35}},
                                                                       {"posterize", {4, 1}},
                                                                       {"solarize", {1, 0.4}},
                                                                       {"auto_contrast", {0}},
                                                                       {"equalize", {0}}};
  size_t at = 0;
  for (const auto& [name, amounts] : cases)
    for (const double amount : amounts) {
      Image image = colours();
      find_image_op(name).value().apply(image, amount);
      EXPECT_EQ(interleaved(image), expected.substr(at, image.pixels.size())) << name << " " << amount;
      at += image.pixels.size();
    }
  EXPECT_EQ(at, expected.size());
  EXPECT_EQ(cases.size() + 1, image_ops().size()) << "identity is the one without a case";
  EXPECT_EQ(find_image_op("blur").error().code, ErrorCode::kUnknownName);
}

TEST(ImageOps, TakePicturesOfOnePixelAndOfGrey) {
  for (const ImageOp& op : image_ops())
    for (const int64_t side : {1, 2, 3})
      for (const int64_t channels : {1, 3}) {
        Image image{channels, side, side, std::vector<uint8_t>(static_cast<size_t>(channels * side * side), 77)};
        op.apply(image, op.most);
        EXPECT_EQ(static_cast<int64_t>(image.pixels.size()), channels * side * side) << op.name;
      }
}

Sample sample_of(const Image& image) {
  return Sample{{Array::of<uint8_t>("image", {image.channels, image.height, image.width}, image.pixels)}};
}

// Zeros fill a square of the side around a pixel, and every pixel is the middle of one once in a while.
TEST(Transforms, CutsSquaresOut) {
  constexpr int64_t kHeight = 7, kWidth = 5;
  for (const int64_t side : {1, 3, 4, 20}) {
    std::set<std::vector<uint8_t>> seen, possible;
    for (int64_t y = 0; y < kHeight; ++y)
      for (int64_t x = 0; x < kWidth; ++x) {
        std::vector<uint8_t> expected(2 * kHeight * kWidth, 9);
        for (int64_t i = 0; i < static_cast<int64_t>(expected.size()); ++i) {
          const int64_t row = i / kWidth % kHeight, column = i % kWidth, from_y = y - side / 2, from_x = x - side / 2;
          if (row >= from_y && row < from_y + side && column >= from_x && column < from_x + side)
            expected[static_cast<size_t>(i)] = 0;
        }
        possible.insert(expected);
      }
    for (uint64_t i = 0; i < 1000; ++i) {
      Sample sample = sample_of({2, kHeight, kWidth, std::vector<uint8_t>(2 * kHeight * kWidth, 9)});
      Random random(1, 1, i);
      ASSERT_TRUE(cutout(side)(sample, random).ok());
      seen.insert(sample.arrays[0].bytes);
    }
    EXPECT_EQ(seen, possible) << side;
  }
}

// One operation: its result is that of one of the list at the magnitude, with either sign; each comes about equally often.
TEST(Transforms, RandAugmentDrawsFromItsList) {
  std::map<std::vector<uint8_t>, std::set<std::string>> names;
  for (const ImageOp& op : image_ops())
    for (const double sign : {1.0, -1.0}) {
      Image image = colours();
      op.apply(image, (op.is_signed ? sign : 1) * (op.least + (op.most - op.least) * 0.5));
      names[image.pixels].insert(std::string(op.name));
    }
  std::map<std::string, int64_t> counts;
  constexpr int64_t kDraws = 1400;
  for (uint64_t i = 0; i < kDraws; ++i) {
    Sample sample = sample_of(colours());
    Random random(2, 1, i);
    ASSERT_TRUE(rand_augment(1, 5)(sample, random).ok());
    ASSERT_TRUE(names.contains(sample.arrays[0].bytes)) << i;
    ++counts[*names[sample.arrays[0].bytes].begin()];
  }
  const double expected = kDraws / 14.0;
  for (const auto& [name, count] : counts)
    EXPECT_NEAR(static_cast<double>(count), expected, 6 * std::sqrt(expected)) << name;
  Sample two{{Array::of<uint8_t>("image", {2, 1, 1}, std::vector<uint8_t>{1, 2})}};
  Random random(1);
  EXPECT_EQ(rand_augment(1, 5)(two, random).error().message, "[rand_augment] 1 or 3 channels, got 2");
}

}  // namespace
}  // namespace bitlab::data
