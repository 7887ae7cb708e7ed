// Checkpoints with something missing, cut off or of another model: one line says which file, what
// was found and what was expected.
#include <nlohmann/json.hpp>

#include "checkpoint_test.h"
#include "io/files.h"

namespace vitrine {
namespace {

using nlohmann::json;

TEST_F(CheckpointTest, MissingFiles) {
  EXPECT_NE(error_of_loading(run_ / "nowhere").find("expected a checkpoint or a run"),
            std::string::npos);
  EXPECT_NE(error_of_loading(run_.path()).find("found no config.json"), std::string::npos);
  save(1, {"last"});
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "config.json"}) {
    const fs::path path = run_ / "last" / file;
    const std::string contents = read_file(path);
    fs::remove(path);
    EXPECT_NE(error_of_loading(run_.path()).find(file), std::string::npos)
        << error_of_loading(run_.path());
    write_file(path, contents);
    EXPECT_EQ(error_of_loading(run_.path()), "");
  }
}

TEST_F(CheckpointTest, TruncatedAtAnyPlace) {
  save(1, {"last"});
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    const fs::path path = run_ / "last" / file;
    const std::string contents = read_file(path);
    for (std::size_t bytes : {std::size_t{0}, std::size_t{5}, std::size_t{100}, contents.size() / 2,
                              contents.size() - 1}) {
      SCOPED_TRACE(bytes);
      write_file(path, contents.substr(0, bytes));
      expect_error(file, {});
    }
    write_file(path, contents);
  }
}

TEST_F(CheckpointTest, WeightsThatDoNotFit) {
  save(1, {"last"});
  const Tensors tensors = random_tensors(3);
  const std::vector<SafetensorsTensor> good = named_tensors(plan_, tensors.weights.data());
  auto without_last = good;
  const std::string missing = good.back().name;
  without_last.pop_back();
  rewrite_weights(without_last);
  expect_error("model.safetensors", {"missing " + missing});

  auto extra = good;
  extra.push_back({"stranger.weight", DType::f32, Shape{2}, tensors.weights.data()});
  rewrite_weights(extra);
  expect_error("model.safetensors", {"unexpected stranger.weight"});

  auto misshaped = good;
  ASSERT_EQ(misshaped[0].shape.rank(), 3);
  misshaped[0].shape = Shape{misshaped[0].shape.elements()};
  rewrite_weights(misshaped);
  expect_error("model.safetensors",
               {"wrong shape " + good[0].name, "found " + misshaped[0].shape.str(),
                "expected " + good[0].shape.str()});

  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensors broken = tensors;
    broken.weights[static_cast<std::size_t>(plan_.parameter_offset(1))] = bad;
    rewrite_weights(named_tensors(plan_, broken.weights.data()));
    expect_error("model.safetensors", {good[1].name, "expected finite numbers"});
  }
  rewrite_weights(good);
  EXPECT_EQ(error_of_loading(run_.path()), "");
}

TEST_F(CheckpointTest, MomentsThatDoNotFit) {
  save(1, {"last"});
  const Tensors tensors = random_tensors(3);
  write_safetensors(run_ / "last" / "optimizer.safetensors",
                    named_tensors(plan_, tensors.first_moment.data(), "first_moment."));
  expect_error("optimizer.safetensors", {"second_moment."});
}

TEST_F(CheckpointTest, OfAnotherModel) {
  save(1, {"last"});
  VitConfig other = config_.model;
  other.hidden_size = 24;
  const Plan plan = plan_vit(other, {}, 5, device_->traits());
  const std::string message =
      error_of([&] { load_weights(run_ / "last" / "model.safetensors", other, plan); });
  EXPECT_NE(message.find("does not fit the model"), std::string::npos) << message;
  EXPECT_NE(message.find("cls_token (found [1, 1, 12], expected [1, 1, 24])"), std::string::npos)
      << message;
}

TEST_F(CheckpointTest, DamagedText) {
  save(1, {"last"});
  const fs::path state = run_ / "last" / "trainer_state.json";
  const fs::path config = run_ / "last" / "config.json";
  const json whole = json::parse(read_file(state));
  for (const auto& [key, value] : whole.items()) {
    if (key == "recipe" || key == "preset" || key == "epoch_data_seconds") continue;
    SCOPED_TRACE(key);
    json damaged = whole;
    damaged.erase(key);
    write_file(state, damaged.dump());
    if (key == "tuning") {
      EXPECT_EQ(open_checkpoint(run_.path()).state.tuning, "");  // checkpoints before it had none
      damaged[key] = 3;
      write_file(state, damaged.dump());
      expect_error("trainer_state.json", {"tuning: found 3, expected a text"});
      continue;
    }
    expect_error("trainer_state.json", {key + ": found nothing"});
    damaged[key] = "text";
    write_file(state, damaged.dump());
    expect_error("trainer_state.json", {key + ": found \"text\""});
  }
  json damaged = whole;
  damaged["metrics"][1].erase("samples");
  write_file(state, damaged.dump());
  expect_error("trainer_state.json", {"samples: found nothing"});
  damaged = whole;
  damaged["recipe"]["batch_size"] = 0;
  write_file(state, damaged.dump());
  expect_error("trainer_state.json: recipe", {"batch_size: found 0, expected 1 to 16777216"});
  for (const char* text : {"", "{", "no JSON", "[1, 2]", "null"}) {
    write_file(state, text);
    expect_error("trainer_state.json", {"JSON"});
  }
  write_file(state, whole.dump());
  write_file(config, "{\"hidden_size\": 12");
  expect_error("config.json", {"not JSON"});
  write_file(config, "{\"hidden_size\": 13}");
  expect_error("config.json", {"hidden_size: found 13"});
}

}  // namespace
}  // namespace vitrine
