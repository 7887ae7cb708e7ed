// Files of other libraries through the program: `step` and `predict` compute what those libraries
// do, `export` gives back what was read, and damaged copies end the program with one line that
// names file and key, before anything is written.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "exchange_fixtures.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vit_run.h"
#include "vitrine/checkpoint.h"
#include "vitrine/image.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

const Words kNewHead = {"--num-classes", "3"};

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class FixturesProgram : public testing::TestWithParam<ExchangeFixture> {
 protected:
  FixturesProgram() : program_(fs::absolute(program_path()).string()), home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", program_.c_str(), 1);
    fs::copy(exchange_directory() / GetParam().name, directory_ / "model");
    fs::current_path(directory_.path());
  }
  ~FixturesProgram() override { fs::current_path(home_); }

  static std::map<std::string, fs::file_time_type> files() {
    std::map<std::string, fs::file_time_type> found;
    for (const auto& entry : fs::recursive_directory_iterator(".")) {
      found[entry.path().string()] = fs::last_write_time(entry.path());
    }
    return found;
  }
  /// Runs, expects success, and gives what was printed.
  static std::string output_of(const Words& words) {
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 0) << testing::PrintToString(words) << result.err;
    return result.out;
  }
  /// The program ends with 2 and one line that has every part, and leaves all files as they were.
  static void expect_failure(const Words& words, const Words& parts) {
    SCOPED_TRACE(testing::PrintToString(words));
    const auto before = files();
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.substr(0, 9), "vitrine: ") << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << part << "\nin: " << result.err;
    }
    EXPECT_EQ(files(), before);
  }

  /// The commands that read a checkpoint with its configuration.
  static std::vector<Words> commands() {
    Words train = {"train", "--initial-checkpoint", "model", "--epochs", "0", "--output", "run"};
    if (!GetParam().has_head) return {train + kNewHead};
    const char* format = GetParam().naming == Naming::timm ? "timm" : "hf";
    return {train, {"export", "model", "--format", format, "--output", "exported"}, step()};
  }
  static Words step() {
    return {"step",
            "--config",
            "model/config.json",
            "--weights",
            "model/model.safetensors",
            "--batch",
            "model/expected.safetensors",
            "--output",
            "out.safetensors"};
  }
  static void expect_all_fail(const Words& parts) {
    for (const Words& command : commands()) expect_failure(command, parts);
  }

  TemporaryDirectory directory_;
  std::string program_;
  fs::path home_;
};

TEST_P(FixturesProgram, Step) {
  if (!GetParam().has_head) {
    expect_failure(step() + kNewHead,
                   {"model/model.safetensors: ", "missing classifier.weight", "--num-classes 3"});
    return;
  }
  output_of(step());
  const SafetensorsFile expected("model/expected.safetensors");
  const Shape shape = expected.find("logits")->shape;
  expect_near_norm(SafetensorsFile("out.safetensors").read_f32("logits", {1, shape[0], shape[1]}),
                   expected.read_f32("logits", shape), 80, "logits");
}

// What predict makes of a picture is what step makes of it, normalised as the files say.
TEST_P(FixturesProgram, Predict) {
  if (!GetParam().has_head) return;
  // The whole image, as it is: no crop of the centre.
  json document = json::parse(read_file("model/config.json"));
  if (document.contains("pretrained_cfg")) document["pretrained_cfg"]["crop_pct"] = 1.0;
  write_file("model/config.json", document.dump());
  const RunConfig config = open_checkpoint("model").config;
  const VitConfig& m = config.model;
  const std::int64_t plane = m.image_height * m.image_width;
  Image image{m.num_channels, m.image_height, m.image_width, {}};
  RandomStream random(/*seed=*/7, 0);
  std::vector<float> normalised;
  for (std::int64_t i = 0; i < m.num_channels * plane; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(random.below(256)));
    const auto c = static_cast<std::size_t>(i / plane);
    const float mean = GetParam().mean.empty() ? 0 : GetParam().mean[c];
    const float std = GetParam().std.empty() ? 1 : GetParam().std[c];
    normalised.push_back((static_cast<float>(image.pixels.back()) / 255 - mean) / std);
  }
  const std::vector<std::uint8_t> png = encode_png(image);
  write_file("a.png", {reinterpret_cast<const char*>(png.data()), png.size()});
  const std::vector<std::int64_t> labels = {0};
  const std::vector<SafetensorsTensor> batch = {
      {"images", DType::f32, {1, m.num_channels, m.image_height, m.image_width}, normalised.data()},
      {"labels", DType::i64, {1}, labels.data()}};
  write_safetensors("model/expected.safetensors", batch);
  output_of(step());
  const std::vector<float> expected =
      SafetensorsFile("out.safetensors").read_f32("probabilities", {1, 1, m.num_classes});
  const json found = json::parse(output_of({"predict", "a.png", "--checkpoint", "model", "--json",
                                            "--top-k", std::to_string(m.num_classes)}));
  const json& classes = found.at(0).at("predictions");
  ASSERT_EQ(std::ssize(classes), m.num_classes);
  for (const json& entry : classes) {
    const auto label = entry.at("class").get<std::size_t>();
    EXPECT_NEAR(entry.at("probability").get<double>(), expected.at(label), 1e-5) << label;
    if (!config.class_names.empty()) {
      EXPECT_EQ(entry.at("name"), config.class_names[label]);
    }
  }
}

// A library's own file comes back tensor by tensor, bit by bit, and its configuration with it.
TEST_P(FixturesProgram, ExportGivesBack) {
  if (!GetParam().has_head) return;
  const bool timm = GetParam().naming == Naming::timm;
  const bool own_names = GetParam().naming == Naming::huggingface_v4;
  output_of({"export", "model", "--format", timm ? "timm" : "hf", "--output", "exported"});
  const RawSafetensors before("model/model.safetensors"), after("exported/model.safetensors");
  if (timm || own_names) {
    const std::vector<std::string> names = before.names(), found = after.names();
    EXPECT_EQ(std::set(found.begin(), found.end()), std::set(names.begin(), names.end()));
    for (const std::string& name : names) {
      EXPECT_EQ(after.header[name]["shape"], before.header[name]["shape"]) << name;
      EXPECT_TRUE(after.bytes(name) == before.bytes(name)) << name;
    }
  }
  const RunConfig given = open_checkpoint("model").config;
  const RunConfig exported = open_checkpoint("exported").config;
  EXPECT_EQ(exported.model, given.model);
  EXPECT_EQ(exported.class_names, given.class_names);
  fs::rename("model/expected.safetensors", "exported/expected.safetensors");
  fs::remove_all("model");
  fs::rename("exported", "model");
  output_of(step());
  const SafetensorsFile expected("model/expected.safetensors");
  const Shape shape = expected.find("logits")->shape;
  expect_near_norm(SafetensorsFile("out.safetensors").read_f32("logits", {1, shape[0], shape[1]}),
                   expected.read_f32("logits", shape), 80, "logits");
}

TEST_P(FixturesProgram, Truncated) {
  const std::string contents = read_file("model/model.safetensors");
  const std::size_t header = contents.find('}', contents.rfind("data_offsets"));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{7}, std::size_t{8}, header / 2,
                                  header + 1, contents.size() / 2, contents.size() - 1}) {
    SCOPED_TRACE(bytes);
    write_file("model/model.safetensors", contents.substr(0, bytes));
    expect_all_fail({"model/model.safetensors: "});
  }
}

TEST_P(FixturesProgram, RenamedAndReshaped) {
  const RawSafetensors good("model/model.safetensors");
  for (const char* part : {"pos", "qkv.weight", "query.weight", "q_proj.weight", "in_proj"}) {
    const auto names = good.names();
    const auto found = std::ranges::find_if(
        names, [&](const std::string& name) { return name.find(part) != std::string::npos; });
    if (found == names.end()) continue;
    SCOPED_TRACE(*found);
    RawSafetensors damaged = good;
    damaged.rename(*found, *found + "s");
    damaged.write("model/model.safetensors");
    expect_all_fail(
        {"model/model.safetensors: ", "missing " + *found, "unexpected " + *found + "s"});
    damaged = good;
    auto& shape = damaged.header[*found]["shape"];
    shape.insert(shape.begin(), 1);
    damaged.write("model/model.safetensors");
    expect_all_fail({"model/model.safetensors: ", *found, "found [1, "});
  }
}

TEST_P(FixturesProgram, OverlapAndNan) {
  const RawSafetensors good("model/model.safetensors");
  std::vector<std::string> names = good.names();
  std::erase_if(names, [](const std::string& name) { return name.find("norm") == name.npos; });
  if (names.size() < 2) names = good.names();
  RawSafetensors damaged = good;
  damaged.header[names[0]]["data_offsets"] = good.header[names[1]]["data_offsets"];
  damaged.header[names[0]]["shape"] = good.header[names[1]]["shape"];
  damaged.write("model/model.safetensors");
  expect_all_fail({"model/model.safetensors: "});

  damaged = good;
  const auto offset = good.header[names[1]]["data_offsets"][0].get<std::size_t>();
  for (const float bad : {std::nanf(""), -INFINITY}) {
    std::memcpy(damaged.data.data() + offset + sizeof bad, &bad, sizeof bad);
    damaged.write("model/model.safetensors");
    expect_all_fail({"model/model.safetensors: ", names[1], "finite numbers"});
  }
}

/// A key of a JSON file, by pointer, and what stands there instead.
struct Damage {
  const char* file;
  const char* pointer;
  json value;
};

TEST_P(FixturesProgram, DamagedConfiguration) {
  const std::string name = GetParam().name;
  std::vector<Damage> list;
  if (name.starts_with("timm")) {
    list = {{"config.json", "/model_args/act_layer", "silu"},
            {"config.json", "/model_args/global_pool", "map"},
            {"config.json", "/model_args/pre_norm", true},
            {"config.json", "/model_args/patch_drop_rate", 0.5},
            {"config.json", "/model_args/scale_attn_norm", true},
            {"config.json", "/model_args/dynamic_img_size", true},
            {"config.json", "/model_args/embed_dim", "wide"},
            {"config.json", "/architecture", "resnet50"},
            {"config.json", "/architecture", "vit_base_patch16_clip_224"},
            {"config.json", "/pretrained_cfg/std", {0.5, 0.0, 0.5}}};
  } else {
    list = {{"config.json", "/hidden_act", "swish"},
            {"config.json", "/hidden_size", 17},
            {"config.json", "/num_attention_heads", 3},
            {"config.json", "/patch_size", 5}};
  }
  if (name.starts_with("huggingface")) {
    list.push_back({"config.json", "/model_type", "bert"});
    list.push_back({"config.json", "/id2label", "none"});
    list.push_back({"preprocessor_config.json", "/do_rescale", false});
    list.push_back({"preprocessor_config.json", "/rescale_factor", 1.0});
    list.push_back({"preprocessor_config.json", "/image_std", {0.0}});
  }
  for (const auto& [file, pointer, value] : list) {
    SCOPED_TRACE(pointer + value.dump());
    const fs::path path = fs::path("model") / file;
    const std::string contents = read_file(path);
    json damaged = json::parse(contents);
    damaged[json::json_pointer(pointer)] = value;
    write_file(path, damaged.dump());
    const std::string key = json::json_pointer(pointer).back();
    // step reads no preprocessor_config.json: its images are normalised already.
    const Words parts = {path.filename().string() + ": ", key};
    for (const Words& command : commands()) {
      if (command[0] == "step" && file != std::string("config.json")) continue;
      expect_failure(command, parts);
    }
    write_file(path, contents);
  }
  for (const char* text : {"", "{", "[]", "null"}) {
    write_file("model/config.json", text);
    expect_all_fail({"model/config.json: "});
  }
}

INSTANTIATE_TEST_SUITE_P(All, FixturesProgram, testing::ValuesIn(exchange_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vitrine
