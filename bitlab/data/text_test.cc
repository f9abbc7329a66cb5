// Tokenizers against the package `tokenizers` (testdata/make_fixtures.py); texts with labels; and what is said of those that are broken.
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/base/log.h"
#include "bitlab/data/dataset.h"
#include "bitlab/data/tokenizer.h"

namespace bitlab::data {
namespace {

std::string text_file(const std::string& name) {
  return read_file(std::filesystem::path(BITLAB_SOURCE_DIR) / "bitlab/data/testdata" / name).value();
}

TEST(Tokenizers, GiveTheNumbersOfTheReference) {
  const Json all = parse_json(text_file("encoded.json"), "test").value();
  for (const auto& [name, cases] : all.items()) {
    const TokenizerPtr tokenizer = parse_tokenizer(text_file(name + ".json")).value();
    for (const Json& item : cases) {
      const auto ids = item[1].get<std::vector<int64_t>>();
      const auto found = tokenizer->encode(item[0].get<std::string>());
      ASSERT_TRUE(found.ok()) << found.error().message;
      EXPECT_EQ(*found, ids) << name << ": " << item[0];
      if (item[2].is_string()) {
        EXPECT_EQ(tokenizer->decode(ids).value(), item[2].get<std::string>()) << name;
      }
      for (const int64_t id : ids) EXPECT_LT(id, tokenizer->size());
    }
  }
}

TEST(Tokenizers, OfBytesTakeAnything) {
  const TokenizerPtr bytes = byte_tokenizer();
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const auto ids = bytes->encode(all).value();
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(ids[i], static_cast<int64_t>(i));
  EXPECT_EQ(bytes->decode(ids).value(), all);
  EXPECT_EQ(bytes->decode(std::vector<int64_t>{256}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(load_tokenizer("bytes").value()->size(), 256);
  EXPECT_EQ(load_tokenizer("/nowhere.json").error().code, ErrorCode::kNotFound);
}

// A million characters without a space, whose pieces are joined again and again.
TEST(Tokenizers, TakeLongWords) {
  const TokenizerPtr bpe = parse_tokenizer(text_file("bpe.json")).value();
  const std::string word(1'000'000, 'a');
  EXPECT_EQ(bpe->decode(bpe->encode(word).value()).value(), word);
}

TEST(Tokenizers, RefuseWhatTheyDoNotKnow) {
  const std::string valid = text_file("word_piece.json"), bpe = text_file("bpe.json");
  const auto with = [](std::string text, std::string_view from, std::string_view to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return parse_tokenizer(text.replace(at, from.size(), to)).error();
  };
  EXPECT_EQ(with(valid, "\"BertPreTokenizer\"", "\"UnicodeScripts\"").message,
            "[tokenizer] a pre-tokenizer that is known here, got 'UnicodeScripts'");
  EXPECT_EQ(with(valid, "\"BertPreTokenizer\"", "\"Metaspace\"").code, ErrorCode::kCorrupt) << "without its character";
  EXPECT_EQ(with(valid, "\"BertNormalizer\"", "\"Precompiled\"").code, ErrorCode::kCorrupt) << "without its table";
  EXPECT_EQ(with(valid, "\"BertNormalizer\"", "\"Shouting\"").code, ErrorCode::kUnsupported);
  EXPECT_EQ(with(valid, "\"decoder\":null", "\"decoder\":{\"type\":\"CTC\"}").message,
            "[tokenizer] a decoder that is known here, got 'CTC'");
  EXPECT_EQ(with(valid, "\"WordPiece\"", "\"Unigram\"").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(valid, "\"WordPiece\"", "\"WordLevel\"").code, ErrorCode::kUnsupported);
  EXPECT_EQ(with(valid, "\"unk_token\":\"[UNK]\"", "\"unk_token\":\"[NONE]\"").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(valid, "\"vocab\":{", "\"vocab\":{\"new\":-1,").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(valid, "\"vocab\":{", "\"vocab\":{\"new\":16777215,").code, ErrorCode::kCorrupt) << "a large gap";
  EXPECT_EQ(with(valid, "\"vocab\":{", "\"vocab\":{\"new\":16777216,").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(bpe, "\"merges\":[", "\"merges\":[\"q zz\",").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(bpe, "\"merges\":[", "\"merges\":[3,").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(bpe, "\"dropout\":null", "\"dropout\":0.1").code, ErrorCode::kUnsupported);
  const std::string split = text_file("split.json"), unigram = text_file("unigram.json");
  EXPECT_EQ(with(split, "\"Isolated\"", "\"Torn\"").message,
            "[tokenizer] a behavior of a pre-tokenizer that is known here, got 'Torn'");
  EXPECT_EQ(with(split, "{\"Regex\":", "{\"Glob\":").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(split, "\\\\p{N}{1,3}", "[a&&[^b]]").code, ErrorCode::kUnsupported);
  EXPECT_EQ(with(unigram, "\"unk_id\":0", "\"unk_id\":16777215").code, ErrorCode::kCorrupt);
  EXPECT_EQ(with(unigram, "\"prepend_scheme\":\"always\"", "\"prepend_scheme\":\"twice\"").code, ErrorCode::kUnsupported);
  EXPECT_EQ(with(unigram, "\"precompiled_charsmap\":\"", "\"precompiled_charsmap\":\"****").code, ErrorCode::kCorrupt);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"type\":\"Sequence\",\"normalizers\":[";
  deep += "{\"type\":\"NFC\"}";
  for (int i = 0; i < 100'000; ++i) deep += "]}";
  EXPECT_EQ(with(bpe, "\"normalizer\":null", "\"normalizer\":" + deep).code, ErrorCode::kCorrupt);
  for (const char* text :
       {"", "[]", "{}", "{\"model\": 3}", "{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\"}}"})
    EXPECT_FALSE(parse_tokenizer(text).ok()) << text;
  for (size_t size = 0; size < bpe.size(); size += 97) EXPECT_FALSE(parse_tokenizer(bpe.substr(0, size)).ok()) << size;
  const TokenizerPtr tokenizer = parse_tokenizer(bpe).value();
  for (const char* text : {"\xFF", "a\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82"})
    EXPECT_EQ(tokenizer->encode(text).error().code, ErrorCode::kCorrupt) << text;
  EXPECT_EQ(tokenizer->encode("ab\xFF").error().message, "[text] UTF-8, got none at byte 2");
}

// Places in the table of replacements that lead out of it, or into the middle of a character.
TEST(Tokenizers, SurviveBrokenTables) {
  const std::string unigram = text_file("unigram.json");
  const std::string_view key = "\"precompiled_charsmap\":\"";
  const size_t begin = unigram.find(key) + key.size(), end = unigram.find('"', begin);
  int read = 0;
  for (size_t place = begin; place < end; ++place) {
    std::string broken = unigram;
    broken[place] = broken[place] == '/' ? 'A' : '/';
    const auto tokenizer = parse_tokenizer(broken);
    if (!tokenizer.ok()) continue;
    ++read;
    EXPECT_TRUE((*tokenizer)->encode("e\u0301 \u338d \ufb01 \uff21\u3000\u2460\t1\r\n").ok());
  }
  EXPECT_GT(read, 100);
}

TEST(Tokenizers, TakePiecesInTheirOrder) {
  const auto with = [](std::string_view sections, const std::string& text) {
    const std::string json = fmt::format(
        R"({{"model": {{"type": "Unigram", "unk_id": 0, "vocab": [["?", -9], ["a", -1], ["b", -2], ["ab", -2.5], ["_", -1], ["_a", -3], ["c", -1]]}}, {}}})",
        sections);
    const auto tokenizer = parse_tokenizer(json);
    EXPECT_TRUE(tokenizer.ok()) << sections << (tokenizer.ok() ? "" : tokenizer.error().message);
    return tokenizer.ok() ? (*tokenizer)->encode(text).value() : std::vector<int64_t>();
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(with(R"("pre_tokenizer": null)", "abxyc"), (Ids{3, 0, 6})) << "-2.5 is more than -1 - 2; unknown ones are one";
  const std::string meta = R"("pre_tokenizer": {"type": "Metaspace", "replacement": "_")";
  EXPECT_EQ(with(meta + "}", "ab a"), (Ids{4, 3, 4, 1})) << "-1 - 1 is more than -3";
  EXPECT_EQ(with(meta + R"(, "add_prefix_space": false})", "ab a"), (Ids{3, 4, 1}));
  EXPECT_EQ(with(meta + R"(, "prepend_scheme": "first"}, "added_tokens": [{"id": 7, "content": "<>"}])", "a<>a"),
            (Ids{4, 1, 7, 1}));
  EXPECT_EQ(
      with(
          R"("normalizer": {"type": "Prepend", "prepend": "b"}, "added_tokens": [{"id": 7, "content": "<>", "rstrip": true}])",
          "a<>  <>"),
      (Ids{2, 1, 7, 7}));
}

class LabelledTextTest : public ::testing::Test {
 protected:
  LabelledTextTest() : folder_(std::filesystem::temp_directory_path() / fmt::format("bitlab_labelled_{}", getpid())) {
    std::filesystem::create_directories(folder_);
    set_log_sink([this](LogLevel, std::string_view message) { said_ += message; });
  }
  ~LabelledTextTest() override {
    set_log_sink({});
    std::filesystem::remove_all(folder_);
  }
  void write(const char* name, std::string_view content) const {
    ASSERT_TRUE(write_file_atomic(folder_ / name, content).ok());
  }
  Result<DatasetPtr> load(Split split, std::map<std::string, std::string> own = {}, const char* name = "") const {
    own.emplace("tokens", "5");
    return load_dataset("labelled_text", split, {.root = folder_ / name, .own = std::move(own)});
  }
  std::filesystem::path folder_;
  std::string said_;
};

std::vector<int64_t> tokens_at(const Dataset& set, int64_t i) {
  const Sample sample = set.get(i).value();
  const auto values = sample.find("tokens")->values<int64_t>();
  return {values.begin(), values.end()};
}

int64_t label_of_text(const Dataset& set, int64_t i) { return set.get(i).value().find("label")->values<int64_t>()[0]; }

TEST_F(LabelledTextTest, ComesFromTsvAndJsonl) {
  write("train.tsv", "good film\t10\nbad\t9\r\n\nabc\t2");
  write("dev.jsonl", "{\"label\": 9, \"text\": \"bad\", \"more\": 1}\n");
  const DatasetPtr training = load(Split::kTrain).value(), test = load(Split::kTest).value();
  const Preprocess preprocess = training->preprocess();
  EXPECT_EQ(preprocess.text()->labels, (std::vector<std::string>{"2", "9", "10"})) << "numbers in their order";
  EXPECT_EQ(preprocess.sizes(), (std::map<std::string, int64_t>{{"classes", 3}, {"tokens", 5}, {"vocabulary", 257}}));
  EXPECT_EQ(Preprocess::from_json(preprocess.to_json()).value(), preprocess);
  ASSERT_EQ(training->size(), 3);
  EXPECT_EQ(tokens_at(*training, 0), (std::vector<int64_t>{'g', 'o', 'o', 'd', ' '}));
  EXPECT_EQ(tokens_at(*training, 1), (std::vector<int64_t>{'b', 'a', 'd', 256, 256}));
  EXPECT_EQ(label_of_text(*training, 0), 2);
  EXPECT_EQ(label_of_text(*test, 0), 1);
  EXPECT_EQ(test->preprocess(), preprocess);

  write("train.tsv", "id\tsentence\tmark\n1\tyes\tup\n2\tno\tdown\n");
  const DatasetPtr named = load(Split::kTrain, {{"text", "sentence"}, {"label", "mark"}}).value();
  EXPECT_EQ(named->preprocess().text()->labels, (std::vector<std::string>{"down", "up"}));
  EXPECT_EQ(tokens_at(*named, 1)[1], 'o');

  std::string lines;
  for (int i = 0; i < 21; ++i) lines += fmt::format("line {}\t{}\n", i, i % 2);
  write("one.tsv", lines);
  EXPECT_EQ(load(Split::kTrain, {}, "one.tsv").value()->size(), 19);
  EXPECT_EQ(label_of_text(*load(Split::kTest, {}, "one.tsv").value(), 1), 1);
}

TEST_F(LabelledTextTest, BrokenLinesStopOrAreCounted) {
  write("train.tsv", "fine\t0\nno label\nfine\t1\n\t1\n");
  write("test.tsv", "what\t7\n");
  const std::string path = folder_.string();
  EXPECT_EQ(load(Split::kTrain).error().message,
            fmt::format("[labelled_text] 2 columns, got 1 (path={}/train.tsv, line=2)", path));
  EXPECT_EQ(load(Split::kTrain, {{"errors", "skip"}}).value()->size(), 2);
  EXPECT_EQ(said_,
            fmt::format("[labelled_text] 2 of 4 samples left out, the first of them: [labelled_text] 2 columns, got 1 "
                        "(path={}/train.tsv, line=2)",
                        path));
  EXPECT_EQ(
      load(Split::kTest).error().message,
      fmt::format("[labelled_text] a label that there are texts to train on of, got '7' (path={}/test.tsv, line=1)", path));
  EXPECT_EQ(load(Split::kTest, {{"errors", "skip"}}).error().code, ErrorCode::kCorrupt);
  std::filesystem::remove(folder_ / "test.tsv");
  EXPECT_EQ(load(Split::kTest).error().code, ErrorCode::kNotFound);
  write("test.jsonl", "{\"text\": 3, \"label\": 1}\n");
  EXPECT_EQ(load(Split::kTest).error().code, ErrorCode::kCorrupt);
  write("test.jsonl", "{\"text\": \n");
  EXPECT_EQ(load(Split::kTest).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(load_dataset("labelled_text", Split::kTrain).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace bitlab::data
