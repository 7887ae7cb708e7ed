// Files of the real libraries: every tensor finds its place, and the logits are the library's.
#include "exchange_fixtures.h"

#include <set>

#include "temporary_directory.h"
#include "vit_run.h"
#include "vitrine/checkpoint.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

constexpr double kEpsilons = 80;  // relative error 1e-5: sums of some thousand float products

class ExchangeFixtures : public testing::TestWithParam<ExchangeFixture> {
 protected:
  ExchangeFixtures()
      : directory_(exchange_directory() / GetParam().name), device_(make_cpu_device(1)) {}

  /// The model of config.json with as many classes as the expected logits have.
  RunConfig config() const {
    RunConfig config = open_checkpoint(directory_).config;
    config.model.num_classes = shape("expected.safetensors", "logits")[1];
    return config;
  }
  Shape shape(const char* file, const std::string& name) const {
    const SafetensorsFile expected(directory_ / file);
    return expected.find(name)->shape;
  }
  std::vector<float> numbers(const char* file, const std::string& name) const {
    return SafetensorsFile(directory_ / file).read_f32(name, shape(file, name));
  }
  Adaptation adaptation() const { return {.new_head = !GetParam().has_head}; }

  static std::vector<float> initial(const VitConfig& model, const Plan& plan) {
    return initial_weights(model, plan, /*seed=*/3);
  }

  /// Where the library's file has no head, the expected logits come with one.
  void place_head(const Plan& plan, std::vector<float>& weights) const {
    for (std::size_t i = 0; i < plan.graph().parameters().size(); ++i) {
      const std::string& name = plan.graph().parameters()[i].name;
      if (!name.starts_with("head.")) continue;
      const std::vector<float> head = numbers("expected.safetensors", name);
      std::copy(head.begin(), head.end(),
                weights.begin() + plan.parameter_offset(static_cast<int>(i)));
    }
  }

  /// The engine's logits of the images in `file` are those stored beside them.
  void expect_logits(const VitConfig& model, const Adaptation& adaptation, const char* file) {
    const std::int64_t images = shape(file, "labels")[0];
    VitRun run(*device_, model, {.training = false},
               {.batch = images, .rows = images, .count = 1, .lanes = 1}, images);
    std::vector<float> weights = initial(model, run.plan());
    read_weights(directory_ / "model.safetensors", model, run.plan(), adaptation, weights);
    if (!GetParam().has_head) place_head(run.plan(), weights);
    Batch batch(model, images, images, /*seed=*/1);
    batch.images = numbers(file, "images");
    for (std::int64_t i = 0; i < images; ++i) batch.rows[i].image = i;
    run.run(weights, batch, {}, images);
    expect_near_norm(run.output("logits"), numbers(file, "logits"), kEpsilons, "logits");
  }

  fs::path directory_;
  std::unique_ptr<Device> device_;
};

TEST_P(ExchangeFixtures, Logits) {
  expect_logits(config().model, adaptation(), "expected.safetensors");
}

TEST_P(ExchangeFixtures, LogitsAtAnotherSize) {
  if (!GetParam().has_resized) {
    EXPECT_FALSE(fs::exists(directory_ / "resized.safetensors"));
    return;
  }
  VitConfig model = config().model;
  const Shape images = shape("resized.safetensors", "images");
  model.image_height = images[2];
  model.image_width = images[3];
  expect_logits(model, {.new_resolution = true}, "resized.safetensors");

  // Without leave to interpolate, the file does not fit and the weights stay as they were.
  const Plan plan = plan_vit(model, {.training = false}, 1, device_->traits());
  std::vector<float> weights = initial(model, plan);
  const std::vector<float> before = weights;
  EXPECT_THROW(read_weights(directory_ / "model.safetensors", model, plan, {}, weights), BadInput);
  EXPECT_EQ(weights, before);
}

TEST_P(ExchangeFixtures, EveryTensorIsAccountedFor) {
  const VitConfig model = config().model;
  const Plan plan = plan_vit(model, {.training = false}, 1, device_->traits());
  std::vector<float> weights = initial(model, plan);
  const WeightReport report =
      read_weights(directory_ / "model.safetensors", model, plan, adaptation(), weights);
  EXPECT_EQ(report.naming, GetParam().naming);
  EXPECT_EQ(report.parameters, std::ssize(plan.graph().parameters()));
  EXPECT_EQ(report.loaded, report.parameters - (GetParam().has_head ? 0 : 2));
  EXPECT_EQ(std::set(report.ignored.begin(), report.ignored.end()),
            std::set(GetParam().ignored.begin(), GetParam().ignored.end()));
  const std::vector<std::string> head = {"head.weight", "head.bias"};
  EXPECT_EQ(report.initial, GetParam().has_head ? std::vector<std::string>{} : head);
  EXPECT_EQ(report.positions, "");
}

// Each tensor by itself: under another name, and in another shape.
TEST_P(ExchangeFixtures, EveryTensorIsMissed) {
  const VitConfig model = config().model;
  const Plan plan = plan_vit(model, {.training = false}, 1, device_->traits());
  const std::vector<float> before = initial(model, plan);
  const RawSafetensors good(directory_ / "model.safetensors");
  const TemporaryDirectory scratch;
  const fs::path file = scratch / "damaged.safetensors";
  auto expect_error = [&](const RawSafetensors& damaged, const std::vector<std::string>& parts) {
    damaged.write(file);
    std::vector<float> weights = before;
    std::string message;
    try {
      read_weights(file, model, plan, adaptation(), weights);
    } catch (const BadInput& error) {
      message = error.what();
    }
    EXPECT_NE(message.find("damaged.safetensors: does not fit the model"), std::string::npos)
        << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << "\nin: " << message;
    }
    EXPECT_EQ(weights, before);
  };
  for (const std::string& name : good.names()) {
    const auto& ignored = GetParam().ignored;
    if (std::find(ignored.begin(), ignored.end(), name) != ignored.end()) continue;
    SCOPED_TRACE(name);
    RawSafetensors damaged = good;
    damaged.rename(name, name + "s");
    expect_error(damaged, {"missing " + name, "unexpected " + name + "s"});
    damaged = good;
    auto& shape = damaged.header[name]["shape"];
    shape.insert(shape.begin(), 1);
    expect_error(damaged, {"wrong shape " + name, "found [1, "});
  }
}

TEST_P(ExchangeFixtures, Configuration) {
  const Checkpoint checkpoint = open_checkpoint(directory_);
  EXPECT_EQ(checkpoint.config.class_names, GetParam().class_names);
  EXPECT_EQ(checkpoint.config.recipe.mean, GetParam().mean);
  EXPECT_EQ(checkpoint.config.recipe.std, GetParam().std);
  EXPECT_EQ(weights_file(directory_), directory_ / "model.safetensors");
}

INSTANTIATE_TEST_SUITE_P(All, ExchangeFixtures, testing::ValuesIn(exchange_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ExchangeDirectory, HoldsTheFixturesOfTheList) {
  std::set<std::string> found, expected;
  for (const auto& entry : fs::directory_iterator(exchange_directory())) {
    if (entry.is_directory()) found.insert(entry.path().filename().string());
  }
  for (const ExchangeFixture& fixture : exchange_fixtures()) expected.insert(fixture.name);
  EXPECT_EQ(found, expected);
}

struct ResampleCase {
  const char* name;
  PatchGrid from, to;
  std::int64_t prefix;
};

TEST(ResamplePositions, AsTimm) {
  const SafetensorsFile file(exchange_directory() / "resample.safetensors");
  const std::vector<ResampleCase> cases = {
      {"4x4_to_7x7", {4, 4}, {7, 7}, 0},        {"7x7_to_3x5_prefix", {7, 7}, {3, 5}, 1},
      {"2x6_to_5x3_prefix", {2, 6}, {5, 3}, 1}, {"14x14_to_6x24", {14, 14}, {6, 24}, 0},
      {"3x3_to_1x1_prefix", {3, 3}, {1, 1}, 1}, {"1x2_to_2x4", {1, 2}, {2, 4}, 0}};
  EXPECT_EQ(file.entries().size(), 2 * cases.size());
  constexpr std::int64_t kHidden = 6;
  constexpr double kTimmEpsilons = 8;  // relative error 1e-6
  for (const ResampleCase& c : cases) {
    SCOPED_TRACE(c.name);
    auto read = [&](const char* end, PatchGrid grid) {
      const Shape shape{1, c.prefix + grid.rows * grid.columns, kHidden};
      std::vector<float> table = file.read_f32(std::string(c.name) + end, shape);
      table.erase(table.begin(), table.begin() + c.prefix * kHidden);
      return table;
    };
    expect_near_norm(resample_positions(read(".from", c.from), c.from, c.to, kHidden),
                     read(".to", c.to), kTimmEpsilons, c.name);
  }
}

}  // namespace
}  // namespace vitrine
