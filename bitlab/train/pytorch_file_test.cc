// Files of Python's torch.save (testdata/make_fixtures.py wrote them) against the formula that made their values; and broken ones.
#include "bitlab/train/pytorch_file.h"

#include <caffe2/serialize/inline_container.h>
#include <fstream>

#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/test_support.h"

namespace bitlab::train {
namespace {

namespace fs = std::filesystem;
using test::expect_equal, test::fixture, test::values;

std::string error_of_file(const std::string& name) { return read_pytorch_file(fixture(name)).error().message; }

class PytorchFileTest : public ::testing::Test {
 protected:
  PytorchFileTest() : path_(fs::temp_directory_path() / fmt::format("bitlab_pytorch_file_{}.pth", ::getpid())) {}
  ~PytorchFileTest() override { fs::remove(path_); }

  Result<State> read(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return read_pytorch_file(path_);
  }
  // A file with this pickle and a storage of one float32.
  Result<State> read_pickle(const std::string& pickle, bool compress = false) const {
    std::string bytes;
    caffe2::serialize::PyTorchStreamWriter writer([&bytes](const void* data, size_t size) {
      bytes.append(static_cast<const char*>(data), size);
      return size;
    });
    const float value = 1;
    writer.writeRecord("data/0", &value, sizeof value);
    writer.writeRecord("data.pkl", pickle.data(), pickle.size(), compress);
    writer.writeEndOfFile();
    return read(bytes);
  }
  std::string error_of_pickle(const std::string& pickle, bool compress = false) const {
    const auto result = read_pickle(pickle, compress);
    const std::string message = result.ok() ? "" : result.error().message, path = fmt::format(" (path={})", path_.string());
    EXPECT_TRUE(message.ends_with(path)) << message;
    return message.substr(0, message.size() - path.size());
  }
  fs::path path_;
};

TEST_F(PytorchFileTest, ReadsAModule) {
  const State file = read_pytorch_file(fixture("plain.pth")).value();
  ASSERT_EQ(file.size(), 7U);
  const std::vector<std::pair<std::string, std::vector<int64_t>>> order{{"fc.weight", {4, 3}},    {"fc.bias", {4}},
                                                                        {"bn.weight", {4}},       {"bn.bias", {4}},
                                                                        {"bn.running_mean", {4}}, {"bn.running_var", {4}}};
  for (size_t k = 0; k < order.size(); ++k)
    expect_equal(file.at(order[k].first), values(order[k].second, static_cast<int64_t>(k)), order[k].first);
  expect_equal(file.at("bn.num_batches_tracked"), torch::tensor(int64_t{5}), "num_batches_tracked");
}

TEST_F(PytorchFileTest, ReadsEveryDtype) {
  const State raw = read_pytorch_file(fixture("dtypes.pth")).value();
  for (const auto& [name, type] : std::map<std::string, at::ScalarType>{{"float16", at::kHalf},
                                                                        {"bfloat16", at::kBFloat16},
                                                                        {"float32", at::kFloat},
                                                                        {"float64", at::kDouble},
                                                                        {"int64", at::kLong},
                                                                        {"int32", at::kInt},
                                                                        {"int16", at::kShort},
                                                                        {"int8", at::kChar},
                                                                        {"complex64", at::kComplexFloat}})
    expect_equal(raw.at(name), values({2, 3}, 1, type), name);
  expect_equal(raw.at("uint8"), (torch::arange(6) * 50).to(at::kByte).view({2, 3}), "uint8");
  EXPECT_EQ(raw.at("uint16").scalar_type(), at::kUInt16);
  EXPECT_TRUE(torch::equal(raw.at("uint16").to(at::kLong), (torch::arange(6) * 13000).view({2, 3})));
  EXPECT_TRUE(torch::equal(raw.at("bool").to(at::kLong), torch::tensor({1, 0, 1}, at::kLong)));
  EXPECT_EQ(raw.at("float8").scalar_type(), at::kFloat8_e4m3fn);
  expect_equal(raw.at("float8").to(at::kFloat), torch::tensor({0.5F, -1.75F, 448.0F}), "float8");
  expect_equal(raw.at("large"), torch::tensor({1e300, 0.1}, at::kDouble), "large");
}

TEST_F(PytorchFileTest, ReadsViews) {
  using torch::indexing::None, torch::indexing::Slice;
  const State state = read_pytorch_file(fixture("views.pth")).value();
  const at::Tensor base = values({4, 6}, 2);
  expect_equal(state.at("base"), base, "base");
  expect_equal(state.at("tied"), base, "tied");
  expect_equal(state.at("transposed"), base.t().contiguous(), "transposed");
  expect_equal(state.at("corner"), base.index({Slice(1, 3), Slice(2, 5)}), "corner");
  expect_equal(state.at("every_second"), base.index({Slice(), Slice(None, None, 2)}), "every_second");
  expect_equal(state.at("expanded"), base[0].expand({3, 6}), "expanded");
  expect_equal(state.at("scalar"), base[3][5], "scalar");
  expect_equal(state.at("empty"), torch::empty({0, 6}), "empty");
}

TEST_F(PytorchFileTest, ResolvesFlags) {
  const State state = read_pytorch_file(fixture("flags.pth")).value();
  const at::Tensor w = values({2, 3}, 1), z = torch::complex(w, values({2, 3}, 2));
  for (const char* name : {"plain", "negative", "parameter", "attributed", "subclass", "buffer", "old_subclass", "device"})
    expect_equal(state.at(name), w, name);
  expect_equal(state.at("transposed"), values({3, 2}, 1).t().contiguous(), "transposed");
  expect_equal(state.at("conjugate"), torch::complex(w, -values({2, 3}, 2)), "conjugate");
  expect_equal(state.at("imaginary"), -values({2, 3}, 2), "imaginary");
  expect_equal(state.at("both"), torch::complex(-w, values({2, 3}, 2)), "both");
  expect_equal(state.at("integers"), values({4}, 3, at::kLong), "integers");
  EXPECT_EQ(state.size(), 13U);
}

TEST_F(PytorchFileTest, NamesWhatHasNoDenseValues) {
  PytorchFile file = PytorchFile::open(fixture("unreadable.pth")).value();
  const std::map<std::string, std::string> expected{
      {"sparse", "dense tensors, got a sparse one that torch._utils._rebuild_sparse_tensor makes"},
      {"compressed", "dense tensors, got a sparse one that torch._utils._rebuild_sparse_tensor makes"},
      {"quantized", "dense tensors, got a quantized one that torch._utils._rebuild_qtensor makes"},
      {"channels", "dense tensors, got a quantized one that torch._utils._rebuild_qtensor makes"},
      {"meta", "dense tensors, got one without values that torch._utils._rebuild_meta_tensor_no_storage makes"},
      {"nested", "dense tensors, got a nested one that torch._utils._rebuild_nested_tensor makes"},
      {"jagged", "dense tensors, got a nested one that torch.nested._internal.nested_tensor._rebuild_njt makes"},
      {"wrapper", "dense tensors, got one that torch._utils._rebuild_wrapper_subclass makes"},
      {"numpy", "dense tensors, got one that torch._utils._rebuild_device_tensor_from_numpy makes"},
      {"lazy", "dense tensors, got one without values that torch.nn.parameter.UninitializedParameter makes"},
      {"stateful", "tensors without a state of their own, got one that torch._utils._rebuild_tensor_v2 makes"}};
  EXPECT_EQ(file.entries().size(), expected.size() + 1);
  for (const auto& entry : file.entries()) {
    const auto result = file.read(entry);
    if (entry.name == "dense") {
      expect_equal(result.value(), values({4, 4}, 1), entry.name);
      EXPECT_EQ(entry.sizes, (std::vector<int64_t>{4, 4}));
      continue;
    }
    EXPECT_FALSE(entry.sizes) << entry.name;
    EXPECT_EQ(result.error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(result.error().message, fmt::format("[state_dict] {} (name={}) (path={})", expected.at(entry.name), entry.name,
                                                  fixture("unreadable.pth").string()));
  }
}

TEST_F(PytorchFileTest, SkipsWhateverElseThereIs) {
  PytorchFile file = PytorchFile::open(fixture("odd.pth")).value();
  std::map<std::string, at::Tensor> found;
  for (const auto& entry : file.entries())
    if (entry.sizes) found[entry.name] = file.read(entry).value();
  ASSERT_EQ(found.size(), 4U);
  expect_equal(found.at("state_dict.weight"), values({2, 3}, 3), "weight");
  expect_equal(found.at("state_dict.bias"), values({2}, 4), "bias");
  expect_equal(found.at("cyclic.weight"), values({2}, 5), "cyclic.weight");
  const std::vector<std::string> skipped{"<float> (int)",
                                         "<NoneType> (list)",
                                         "<bool> (__builtin__.set)",
                                         "<list> (dict)",
                                         "<_codecs.encode> (__builtin__.frozenset)",
                                         "<int> (int)",
                                         "values (list)",
                                         "more (list)",
                                         "containers (list)",
                                         "a?line (tensor)"};
  const std::vector<std::string> all = file.skipped({"state_dict.weight", "state_dict.bias"});
  EXPECT_EQ(std::vector<std::string>(all.begin(), all.begin() + 10), skipped);
  const std::vector<std::string> last{"cyclic (dict)",
                                      "deep (dict)",
                                      "storage (storage)",
                                      "sparse (tensor)",
                                      "anything (dict)",
                                      "state_dict._extra_state (dict)",
                                      "state_dict.act._extra_state (tensor)"};
  EXPECT_EQ(std::vector<std::string>(all.begin() + 11, all.end()), last);
  EXPECT_EQ(file.skipped({"cyclic.weight"}).at(11), "cyclic.itself (list)");
}

// Dictionaries within themselves, deep ones, and the sets of protocol 4.
TEST_F(PytorchFileTest, SkipsContainersWithoutEnd) {
  using namespace std::string_literals;
  const auto skipped = [&](const std::string& pickle) {
    EXPECT_TRUE(read_pickle(pickle).ok()) << read_pickle(pickle).error().message;
    return PytorchFile::open(path_).value().skipped({});
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(skipped("}q\0K\1h\0s."s), Lines{"1 (dict that it is in)"});
  EXPECT_EQ(skipped("}K\1\x8f(K\2\x90sK\3(K\4\x91s."), (Lines{"1 (list)", "3 (list)"}));
  EXPECT_EQ(skipped("}K\1\x88sK\2\x89s."), (Lines{"1 (bool)", "2 (bool)"}));
  EXPECT_EQ(skipped(std::string(100'000, ']') + std::string(99'999, 'a') + "."), Lines{"0 (list)"});
  std::string vocabulary = "}K\1}(";
  for (int i = 0; i < 150'000; ++i) vocabulary += fmt::format("X{}{:06}K\7", "\6\0\0\0"s, i);
  EXPECT_EQ(skipped(vocabulary + "us."), Lines{"1 (dict)"});
  std::string flat = "}(";
  for (int i = 0; i < 250; ++i) flat += "K"s + static_cast<char>(i) + "N";
  EXPECT_EQ(skipped(flat + "u.").size(), 101U);
  EXPECT_EQ(skipped(flat + "u.").back(), "and 150 more");
}

TEST_F(PytorchFileTest, RefusesFlagsThatItDoesNotKnow) {
  using namespace std::string_literals;
  const auto tensor = [&](const std::string& rest, const std::string& version = "2", const std::string& type = "Float") {
    return error_of_pickle("}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v"s + version + "\n((X\7\0\0\0storagectorch\n"s +
                           type + "Storage\nX\1\0\0\0"s + "0X\3\0\0\0cpuK\1tQK\0))\x89}"s + rest + "tRs.");
  };
  const std::string negative = "}X\3\0\0\0neg\x88s"s, conjugate = "}X\4\0\0\0conj\x88s"s;
  EXPECT_EQ(tensor("}X\4\0\0\0zero\x88s"s), "[state_dict] the flags 'conj' and 'neg' of a tensor, got 'zero' (name=w)");
  EXPECT_EQ(tensor("}K\1\x88s"), "[state_dict] the flags 'conj' and 'neg' of a tensor, got one without a name (name=w)");
  EXPECT_EQ(tensor("}X\3\0\0\0neg\x89s"s), "[state_dict] True for the flag 'neg' of a tensor, got False (name=w)");
  EXPECT_EQ(tensor("}X\3\0\0\0negK\1s"s), "[state_dict] True for the flag 'neg' of a tensor, got int (name=w)");
  EXPECT_EQ(tensor("]"), "[state_dict] flags of a tensor as a dictionary, got list (name=w)");
  EXPECT_EQ(tensor(conjugate), "[state_dict] complex values with the flag 'conj', got Float (name=w)");
  EXPECT_EQ(tensor(negative, "2", "Bool"), "[state_dict] numbers with the flag 'neg', got Bool (name=w)");
  EXPECT_EQ(tensor(negative + "N"), "[state_dict] at most 7 arguments of torch._utils._rebuild_tensor_v2, got 8 (name=w)");
  EXPECT_EQ(tensor("ctorch\nuint8\n" + negative + "N", "3"),
            "[state_dict] at most 8 arguments of torch._utils._rebuild_tensor_v3, got 9 (name=w)");
  EXPECT_EQ(tensor("ctorch\nfloat32\n" + conjugate, "3"),
            "[state_dict] complex values with the flag 'conj', got Float (name=w)");
}

TEST_F(PytorchFileTest, ReadsSubclassesAndItsOwnCheckpoints) {
  expect_equal(read_pytorch_file(fixture("subclass.pth")).value().at("weight"), values({4}, 8), "weight");
  const State state{{"a", values({3, 2}, 1).t()},
                    {"b", torch::tensor(0.1, at::kDouble)},
                    {"c", torch::zeros({0})},
                    {"d", torch::_neg_view(values({3}, 1))}};
  save_checkpoint(state, path_).value();
  const State loaded = load_checkpoint(path_).value();
  ASSERT_EQ(loaded.size(), state.size());
  for (const auto& [name, tensor] : state) expect_equal(loaded.at(name), tensor.contiguous().resolve_neg(), name);
}

TEST_F(PytorchFileTest, SaysWhatElseAFileIs) {
  const auto path = [](const std::string& name) { return fmt::format(" (path={})", fixture(name).string()); };
  EXPECT_EQ(error_of_file("module.pth"),
            "[state_dict] a dictionary of tensors, got 'torch.nn.modules.linear.Linear'; save a module with "
            "torch.save(module.state_dict(), path)" +
                path("module.pth"));
  EXPECT_EQ(error_of_file("sparse.pth"),
            "[state_dict] dense tensors, got a sparse one that torch._utils._rebuild_sparse_tensor makes (name=weight)" +
                path("sparse.pth"));
  EXPECT_EQ(error_of_file("legacy.pth"),
            "[state_dict] the zip format of torch.save, got the format before PyTorch 1.6; convert it with "
            "torch.save(torch.load(old), new)" +
                path("legacy.pth"));
  EXPECT_EQ(error_of_file("script.pt"),
            "[state_dict] a state_dict, got a TorchScript archive; save with torch.save(module.state_dict(), path)" +
                path("script.pt"));
  EXPECT_EQ(read("weights of a model").error().message,
            fmt::format("[state_dict] a zip file as torch.save writes, got 18 bytes that begin with 'weights ' (path={})",
                        path_.string()));
  std::error_code ignored;
  fs::remove(path_, ignored);
  EXPECT_EQ(read_pytorch_file(path_).error().code, ErrorCode::kNotFound);
  std::string safetensors("\x02\0\0\0\0\0\0\0{}", 10);
  EXPECT_EQ(read(safetensors).error().message.substr(0, 61),
            "[state_dict] the zip format of torch.save, got safetensors; c");
  EXPECT_EQ(read("").error().code, ErrorCode::kCorrupt);
}

// Parts of a valid file made wrong in place, so that the zip file stays one.
TEST_F(PytorchFileTest, RefusesTensorsThatCannotBe) {
  const std::string views = read_file(fixture("views.pth")).value();
  const auto changed = [&](std::string bytes, std::string_view from, std::string_view to) {
    EXPECT_EQ(from.size(), to.size());
    EXPECT_NE(bytes.find(from), std::string::npos) << from;
    for (size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + 1))
      bytes.replace(at, to.size(), to);
    const auto result = read(bytes);
    return result.ok() ? "" : result.error().message;
  };
  const std::string path = fmt::format(" (path={})", path_.string());
  // "base": offset 0, sizes (4, 6), strides (6, 1)
  const std::string_view sizes("K\0K\x04K\x06\x86q\x08K\x06K\x01\x86", 13);
  ASSERT_NE(views.find(sizes), std::string::npos);
  EXPECT_EQ(changed(views, sizes, std::string_view("K\x01K\x04K\x06\x86q\x08K\x06K\x01\x86", 13)),
            "[state_dict] tensors within their storages, got sizes [4, 6] with strides [6, 1] from 1 on in one of 24 values "
            "(name=base)" +
                path);
  EXPECT_EQ(changed(views, sizes, std::string_view("K\0K\xffK\xff\x86q\x08K\0K\0\x86", 13)),
            "[state_dict] at most 64 values for each byte of the file, got more (name=tied)" + path);
  EXPECT_EQ(changed(views, sizes, std::string_view("K\0K\x7fK\x7f\x86q\x08K\0K\0\x86", 13)), "");
  EXPECT_EQ(changed(views, "FloatStorage", "QInt8Storage"), "[state_dict] dense tensors, got QInt8 (name=base)" + path);
  EXPECT_EQ(changed(views, "FloatStorage", "FlootStorage"),
            "[state_dict] a dtype of LibTorch, got 'torch.FlootStorage' (name=base)" + path);
  EXPECT_EQ(changed(views, "tied", "base"), "[state_dict] each name once, got 'base' twice" + path);
  EXPECT_EQ(changed(views, "tied", "ti\nd"), "") << "a key that is no name is skipped";
  EXPECT_EQ(changed(views, "data.pkl", "data.pkk"), "[state_dict] a record 'data.pkl', got none" + path);
  EXPECT_EQ(changed(views, "little", "bigger"), "[state_dict] little-endian tensors, got 'bigger'" + path);
}

TEST_F(PytorchFileTest, RefusesPicklesThatCannotBe) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> broken{
      {"V1\n.", "an opcode of pickle protocols 2 to 5, got 0x56 at byte 0"},
      {"", "a whole pickle, got its end within byte 0"},
      {"X\xff\xff\xff\xff.", "a whole pickle, got its end within byte 6"},
      {"cmodule", "a whole pickle, got a line without an end"},
      {".", "a value on the pickle's stack, got none"},
      {"}(.", "a value on the pickle's stack, got none"},
      {"}u.", "a mark on the pickle's stack, got none"},
      {"h\5.", "a value that was memorized, got number 5"},
      {"K\1Q.", "values in a pickle as torch.save writes them, got one of another kind"},
      {"K\1K\2a.", "a list or a dictionary to fill, got int for 1 items"},
      {"}(K\1u.", "a list or a dictionary to fill, got dict for 1 items"},
      {"c" + std::string(300, 'm') + "\nname\n.", "names of classes, got one of 4 letters"},
      {"K\1.", "a dictionary of tensors, got 'int'; save a module with torch.save(module.state_dict(), path)"},
  };
  for (const auto& [pickle, expected] : broken) EXPECT_EQ(error_of_pickle(pickle), "[state_dict] " + expected);

  std::string tree = "}q\0"s;  // ten levels of dictionaries, each with its predecessor eight times
  for (char level = 1; level <= 10; ++level) {
    tree += "}q"s + level + "(";
    for (char child = 0; child < 8; ++child) tree += "K"s + child + "h" + static_cast<char>(level - 1);
    tree += "u";
  }
  EXPECT_EQ(error_of_pickle(tree + "."), fmt::format("[state_dict] at most {} entries, got more", 100'001 + tree.size()));
  const std::string one = "ctorch._utils\n_rebuild_tensor\n)R";
  std::string leaves = "}q\0("s;
  for (int i = 0; i < 250; ++i) leaves += "K"s + static_cast<char>(i) + one;
  leaves += "u}q\1("s;
  for (int i = 0; i < 250; ++i) leaves += "K"s + static_cast<char>(i) + "h\0"s;
  leaves += "u}(K\1h\1K\2h\1K\3X\0\0\4\0"s + std::string(4 << 16, ' ') + "u.";
  EXPECT_EQ(error_of_pickle(leaves), "[state_dict] at most 100000 tensors, got more");
  EXPECT_EQ(error_of_pickle(std::string(100'000, 'N') + ".", /*compress=*/true),
            "[state_dict] records within the file, got 100001 bytes for 'data.pkl'");

  const auto tensor = [&](const std::string& arguments, const std::string& function = "_rebuild_tensor_v2") {
    return error_of_pickle("}K\1ctorch._utils\n"s + function + "\n" + arguments + "Rs.");
  };
  const std::string storage =
      "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"s
      "0N"
      "K\1tQK\0"s;
  const std::string no_storage =
      "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"s
      "7N"
      "K\1tQK\0"s;
  EXPECT_EQ(tensor("K\1\x85"), "[state_dict] a storage in a pickled tensor, got int (name=1)");
  EXPECT_EQ(tensor(")"), "[state_dict] a storage in a pickled tensor, got none (name=1)");
  EXPECT_EQ(tensor(no_storage + "))t"), "[state_dict] a record 'data/7', got none (name=1)");
  EXPECT_EQ(tensor(storage + "(J\xff\xff\xff\xfft)t"), "[state_dict] sizes and strides of at least 0, got -1 (name=1)");
  EXPECT_EQ(tensor(storage + "K\1\x85)t"),
            "[state_dict] a stride for each dimension and an offset of at least 0, got 0 strides and 0 (name=1)");
  EXPECT_EQ(tensor(storage + "(" + std::string(130, 'K') + "t)t"), "[state_dict] at most 64 dimensions, got 65 (name=1)");
  const std::string huge = "(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft";
  EXPECT_EQ(tensor(storage + huge + huge + "t"),
            "[state_dict] tensors within their storages, got sizes [2147483647, 2147483647, 2147483647] with strides "
            "[2147483647, 2147483647, 2147483647] from 0 on in one of 1 values (name=1)");
  std::string nest = ")";
  for (int i = 0; i < 6; ++i) nest = "ctorch._utils\n_rebuild_parameter\n" + nest + "R\x85";
  EXPECT_EQ(tensor(nest, "_rebuild_parameter"),
            "[state_dict] a pickled tensor, got a nest of torch._utils._rebuild_parameter (name=1)");
}

TEST_F(PytorchFileTest, BrokenFilesNeverCrash) {
  for (const char* name :
       {"plain.pth", "dtypes.pth", "views.pth", "wrapped.pth", "nested.pth", "subclass.pth", "flags.pth", "odd.pth"}) {
    const std::string whole = read_file(fixture(name)).value();
    for (size_t size = 0; size < whole.size(); size += 61)
      EXPECT_EQ(read(std::string_view(whole).substr(0, size)).error().code, ErrorCode::kCorrupt)
          << name << " cut to " << size;
    int64_t refused = 0;
    for (size_t at = 0; at < whole.size(); at += 11)
      for (const int flip : {0x01, 0x80}) {
        std::string broken = whole;
        broken[at] = static_cast<char>(broken[at] ^ flip);
        const auto result = read(broken);
        if (result.ok()) continue;  // a value, or padding
        ++refused;
        EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
        EXPECT_TRUE(result.error().message.ends_with(")")) << result.error().message;
      }
    EXPECT_GT(refused, 50) << name;
  }
}

}  // namespace
}  // namespace bitlab::train
