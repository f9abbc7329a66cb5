// Files of Python's torch.save (testdata/make_fixtures.py wrote them) against the formula that made their values; and broken ones.
#include "bitlab/train/state_dict.h"

#include <caffe2/serialize/inline_container.h>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/train/checkpoint.h"

namespace bitlab::train {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) { return fs::path(BITLAB_SOURCE_DIR) / "bitlab/train/testdata" / name; }

// values() of make_fixtures.py.
at::Tensor values(at::IntArrayRef shape, int64_t k, at::ScalarType type = at::kFloat) {
  const at::Tensor numbers = (torch::arange(c10::multiply_integers(shape)) * 7 + k).remainder(23) - 11;
  const bool floating = at::isFloatingType(type) || at::isComplexType(type);
  return (floating ? numbers.to(at::kDouble) / 8 : numbers).reshape(shape).to(type);
}

void expect_equal(const at::Tensor& found, const at::Tensor& expected, const std::string& name) {
  EXPECT_EQ(found.scalar_type(), expected.scalar_type()) << name;
  EXPECT_TRUE(found.is_contiguous()) << name;
  EXPECT_FALSE(found.requires_grad()) << name;
  EXPECT_TRUE(torch::equal(found, expected)) << name << '\n' << found << "\nexpected\n" << expected;
}

std::string error_of(const std::string& name) { return read_pytorch_file(fixture(name)).error().message; }

class StateDictTest : public ::testing::Test {
 protected:
  StateDictTest() : path_(fs::temp_directory_path() / fmt::format("bitlab_state_dict_{}.pth", ::getpid())) {}
  ~StateDictTest() override { fs::remove(path_); }

  Result<StateDict> read(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return load_state_dict(path_);
  }
  fs::path path_;
};

TEST_F(StateDictTest, ReadsAModule) {
  const StateDict file = load_state_dict(fixture("plain.pth")).value();
  EXPECT_TRUE(file.skipped.empty());
  ASSERT_EQ(file.tensors.size(), 7U);
  const std::vector<std::pair<std::string, std::vector<int64_t>>> order{{"fc.weight", {4, 3}},    {"fc.bias", {4}},
                                                                        {"bn.weight", {4}},       {"bn.bias", {4}},
                                                                        {"bn.running_mean", {4}}, {"bn.running_var", {4}}};
  for (size_t k = 0; k < order.size(); ++k)
    expect_equal(file.tensors.at(order[k].first), values(order[k].second, static_cast<int64_t>(k)), order[k].first);
  expect_equal(file.tensors.at("bn.num_batches_tracked"), torch::tensor(int64_t{5}), "num_batches_tracked");
}

TEST_F(StateDictTest, ReadsEveryDtype) {
  const State raw = read_pytorch_file(fixture("dtypes.pth")).value().tensors;
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
  EXPECT_EQ(raw.at("uint16").scalar_type(), at::kUInt16);
  EXPECT_EQ(raw.at("float8").scalar_type(), at::kFloat8_e4m3fn);

  const State state = load_state_dict(fixture("dtypes.pth")).value().tensors;
  for (const char* name : {"float16", "bfloat16", "float32", "float64"})
    expect_equal(state.at(name), values({2, 3}, 1), name);
  for (const char* name : {"int64", "int8", "complex64"}) expect_equal(state.at(name), raw.at(name), name);
  expect_equal(state.at("uint8"), (torch::arange(6) * 50).to(at::kByte).view({2, 3}), "uint8");
  EXPECT_TRUE(torch::equal(state.at("uint16").to(at::kLong), (torch::arange(6) * 13000).view({2, 3})));
  EXPECT_TRUE(torch::equal(state.at("bool").to(at::kLong), torch::tensor({1, 0, 1}, at::kLong)));
  expect_equal(state.at("float8"), torch::tensor({0.5F, -1.75F, 448.0F}), "float8");
  expect_equal(state.at("large"), torch::tensor({std::numeric_limits<float>::infinity(), 0.1F}), "large");
}

TEST_F(StateDictTest, ReadsViews) {
  using torch::indexing::None, torch::indexing::Slice;
  const State state = load_state_dict(fixture("views.pth")).value().tensors;
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

TEST_F(StateDictTest, FindsTheModelInACheckpoint) {
  const StateDict file = load_state_dict(fixture("wrapped.pth")).value();
  EXPECT_EQ(file.tensors.size(), 3U);
  expect_equal(file.tensors.at("module.weight"), values({2, 3}, 3), "a parameter");
  expect_equal(file.tensors.at("module.bias"), values({2}, 4), "a tensor with requires_grad");
  expect_equal(file.tensors.at("module.marked"), values({2}, 5), "a parameter with an attribute");
  const std::vector<std::string> skipped{
      "epoch (int)",    "lr (float)",       "best (NoneType)",           "big (int)",           "raw (_codecs.encode)",
      "classes (list)", "optimizer (dict)", "args (argparse.Namespace)", "module.version (int)"};
  EXPECT_EQ(file.skipped, skipped);
}

TEST_F(StateDictTest, FlattensNestedDictionaries) {
  const StateDict file = load_state_dict(fixture("nested.pth")).value();
  EXPECT_EQ(file.tensors.size(), 2U);
  expect_equal(file.tensors.at("encoder.weight"), values({2, 2}, 6), "encoder.weight");
  expect_equal(file.tensors.at("encoder.layers.0"), values({1}, 7), "encoder.layers.0");
  EXPECT_EQ(file.skipped, (std::vector<std::string>{"adam (state of an optimizer)", "epoch (int)"}));
}

TEST_F(StateDictTest, ReadsSubclassesAndItsOwnCheckpoints) {
  expect_equal(load_state_dict(fixture("subclass.pth")).value().tensors.at("weight"), values({4}, 8), "weight");
  const State state{{"a", values({3, 2}, 1).t()}, {"b", torch::tensor(0.1, at::kDouble)}, {"c", torch::zeros({0})}};
  save_checkpoint(state, path_).value();
  const State loaded = load_checkpoint(path_).value();
  ASSERT_EQ(loaded.size(), state.size());
  for (const auto& [name, tensor] : state) expect_equal(loaded.at(name), tensor.contiguous(), name);
}

TEST_F(StateDictTest, SaysWhatElseAFileIs) {
  const auto path = [](const std::string& name) { return fmt::format(" (path={})", fixture(name).string()); };
  EXPECT_EQ(error_of("module.pth"),
            "[state_dict] a dictionary of tensors, got 'torch.nn.modules.linear.Linear'; save a module with "
            "torch.save(module.state_dict(), path)" +
                path("module.pth"));
  EXPECT_EQ(error_of("sparse.pth"),
            "[state_dict] dense tensors, got one that torch._utils._rebuild_sparse_tensor makes" + path("sparse.pth"));
  EXPECT_EQ(error_of("legacy.pth"),
            "[state_dict] the zip format of torch.save, got the format before PyTorch 1.6; convert it with "
            "torch.save(torch.load(old), new)" +
                path("legacy.pth"));
  EXPECT_EQ(error_of("script.pt"),
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
TEST_F(StateDictTest, RefusesTensorsThatCannotBe) {
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
  EXPECT_EQ(
      changed(views, sizes, std::string_view("K\x01K\x04K\x06\x86q\x08K\x06K\x01\x86", 13)),
      "[state_dict] tensors within their storages, got sizes [4, 6] with strides [6, 1] from 1 on in one of 24 values" +
          path);
  EXPECT_EQ(changed(views, sizes, std::string_view("K\0K\xffK\xff\x86q\x08K\0K\0\x86", 13)),
            "[state_dict] at most 64 values for each byte of the file, got more" + path);
  EXPECT_EQ(changed(views, sizes, std::string_view("K\0K\x7fK\x7f\x86q\x08K\0K\0\x86", 13)), "");
  EXPECT_EQ(changed(views, "FloatStorage", "QInt8Storage"), "[state_dict] dense tensors, got QInt8" + path);
  EXPECT_EQ(changed(views, "FloatStorage", "FlootStorage"),
            "[state_dict] a dtype of LibTorch, got 'torch.FlootStorage'" + path);
  EXPECT_EQ(changed(views, "tied", "base"), "[state_dict] each name once, got 'base' twice" + path);
  EXPECT_EQ(changed(views, "tied", "ti\nd"),
            "[state_dict] keys that are numbers or short printable names, got 'ti?d'" + path);
  EXPECT_EQ(changed(views, "data.pkl", "data.pkk"), "[state_dict] a record 'data.pkl', got none" + path);
  EXPECT_EQ(changed(views, "little", "bigger"), "[state_dict] little-endian tensors, got others" + path);
}

// A pickle by itself, in a zip file without storages but one float32.
TEST_F(StateDictTest, RefusesPicklesThatCannotBe) {
  using namespace std::string_literals;
  const auto error = [&](const std::string& pickle, bool compress = false) {
    std::string bytes;
    caffe2::serialize::PyTorchStreamWriter writer([&bytes](const void* data, size_t size) {
      bytes.append(static_cast<const char*>(data), size);
      return size;
    });
    const float value = 1;
    writer.writeRecord("data/0", &value, sizeof value);
    writer.writeRecord("data.pkl", pickle.data(), pickle.size(), compress);
    writer.writeEndOfFile();
    const std::string message = read(bytes).error().message, path = fmt::format(" (path={})", path_.string());
    EXPECT_TRUE(message.ends_with(path)) << message;
    return message.substr(0, message.size() - path.size());
  };
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
      {"K\1K\2a.", "a list or a dictionary to fill, got another value"},
      {"}(K\1u.", "a list or a dictionary to fill, got another value"},
      {"c" + std::string(300, 'm') + "\nname\n.", "names of classes, got one of 4 letters"},
      {"K\1.", "a dictionary of tensors, got 'int'; save a module with torch.save(module.state_dict(), path)"},
      {"}q\0K\1h\0s."s, "dictionaries at most 16 deep, got a deeper one"},
  };
  for (const auto& [pickle, expected] : broken) EXPECT_EQ(error(pickle), "[state_dict] " + expected);

  std::string tree = "}q\0"s;  // ten levels of dictionaries, each with its predecessor eight times
  for (char level = 1; level <= 10; ++level) {
    tree += "}q"s + level + "(";
    for (char child = 0; child < 8; ++child) tree += "K"s + child + "h" + static_cast<char>(level - 1);
    tree += "u";
  }
  EXPECT_EQ(error(tree + "."), "[state_dict] at most 100000 entries, got more");
  EXPECT_EQ(error(std::string(100'000, 'N') + ".", /*compress=*/true),
            "[state_dict] records within the file, got 100001 bytes for 'data.pkl'");

  const auto tensor = [&](const std::string& arguments, const std::string& function = "_rebuild_tensor_v2") {
    return error("}K\1ctorch._utils\n"s + function + "\n" + arguments + "Rs.");
  };
  const std::string storage =
      "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"s
      "0N"
      "K\1tQK\0"s;
  const std::string no_storage =
      "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"s
      "7N"
      "K\1tQK\0"s;
  EXPECT_EQ(tensor("K\1\x85"), "[state_dict] a storage in a pickled tensor, got another value");
  EXPECT_EQ(tensor(")"), "[state_dict] a storage in a pickled tensor, got another value");
  EXPECT_EQ(tensor(no_storage + "))t"), "[state_dict] a record 'data/7', got none");
  EXPECT_EQ(tensor(storage + "(J\xff\xff\xff\xfft)t"), "[state_dict] sizes and strides of at least 0, got -1");
  EXPECT_EQ(tensor(storage + "K\1\x85)t"),
            "[state_dict] a stride for each dimension and an offset of at least 0, got 0 strides and 0");
  EXPECT_EQ(tensor(storage + "(" + std::string(130, 'K') + "t)t"), "[state_dict] at most 64 dimensions, got 65");
  const std::string huge = "(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft";
  EXPECT_EQ(tensor(storage + huge + huge + "t"),
            "[state_dict] tensors within their storages, got sizes [2147483647, 2147483647, 2147483647] with strides "
            "[2147483647, 2147483647, 2147483647] from 0 on in one of 1 values");
  std::string nest = ")";
  for (int i = 0; i < 6; ++i) nest = "ctorch._utils\n_rebuild_parameter\n" + nest + "R\x85";
  EXPECT_EQ(tensor(nest, "_rebuild_parameter"),
            "[state_dict] a pickled tensor, got a nest of torch._utils._rebuild_parameter");
}

TEST_F(StateDictTest, BrokenFilesNeverCrash) {
  for (const char* name : {"plain.pth", "dtypes.pth", "views.pth", "wrapped.pth", "nested.pth", "subclass.pth"}) {
    const std::string whole = read_file(fixture(name)).value();
    for (size_t size = 0; size < whole.size(); size += 61)
      EXPECT_EQ(read(std::string_view(whole).substr(0, size)).error().code, ErrorCode::kCorrupt)
          << name << " cut to " << size;
    int64_t refused = 0;
    for (size_t at = 0; at < whole.size(); at += 7)
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

TEST_F(StateDictTest, ComparesNamesAndShapes) {
  const State model{
      {"conv1.weight", torch::zeros({2, 3})}, {"conv1.bias", torch::zeros({2})}, {"fc.scale", torch::zeros({})}};
  State file{{"conv1.weights", torch::zeros({2, 3})}, {"conv1.bias", torch::zeros({3})}, {"fc.scale", torch::zeros({1})}};
  EXPECT_EQ(to_text(compare(model, file)),
            "Missing in the file: 1\n"
            "  conv1.weight  [2, 3]  near 'conv1.weights'\n"
            "Unknown to the model: 1\n"
            "  conv1.weights  [2, 3]  near 'conv1.weight'\n"
            "Of another shape: 2\n"
            "  conv1.bias  [2], got [3]\n"
            "  fc.scale    [], got [1]\n");
  EXPECT_TRUE(compare(model, model).empty());
  EXPECT_EQ(to_text(compare(model, model)), "");
  EXPECT_TRUE(compare(model, {}, [](std::string_view) { return true; }).empty());

  State wrapped;
  for (const auto& [name, tensor] : model) wrapped["_orig_mod.module." + name] = tensor;
  EXPECT_EQ(compare(model, wrapped).prefix, "_orig_mod.module.");
  EXPECT_TRUE(compare(model, strip_prefix(wrapped, "_orig_mod.module.").value()).empty());
  wrapped["fc.scale"] = torch::zeros({});
  EXPECT_EQ(strip_prefix(wrapped, "_orig_mod.module.").error().message,
            "[train] names that differ without the prefix '_orig_mod.module.', got 'fc.scale' twice");

  State many;
  for (int i = 0; i < 25; ++i) many[fmt::format("w{:02}", i)] = torch::zeros({1});
  const std::string text = to_text(compare(many, {}));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 22);
  EXPECT_NE(text.find("  w19  [1]\n  and 5 more\n"), std::string::npos) << text;
}

TEST_F(StateDictTest, LoadsAllOrNothing) {
  torch::nn::Linear layer(3, 4);
  const at::Tensor before = layer->weight.detach().clone();
  const State file = load_state_dict(fixture("plain.pth")).value().tensors;
  State state{{"weight", file.at("fc.weight")}, {"bias", file.at("fc.bias")}};
  State other = state;
  other["extra"] = other["more"] = torch::zeros({1});
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] a parameter of the model, got 'extra' and 1 more");
  EXPECT_EQ(load_into(*layer, {}).error().message, "[train] every parameter of the model, got none for 'bias' and 1 more");
  other = state;
  other["weight"] = torch::zeros({4, 4});
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] a shape of [4, 3], got [4, 4] (name=weight)");
  other["weight"] = torch::zeros({4, 3}, at::kLong);
  EXPECT_EQ(load_into(*layer, other).error().message, "[train] values of Float, got Long (name=weight)");
  EXPECT_TRUE(torch::equal(layer->weight, before));
  state.erase("bias");
  ASSERT_TRUE(load_into(*layer, state, [](std::string_view name) { return name == "bias"; }).ok());
  EXPECT_TRUE(torch::equal(layer->weight, values({4, 3}, 0)));
  EXPECT_TRUE(layer->weight.requires_grad());
}

}  // namespace
}  // namespace bitlab::train
