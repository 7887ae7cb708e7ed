// Checkpoints of a small network with random weights, and what reading them says.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "temporary_directory.h"
#include "vitrine/checkpoint.h"
#include "vitrine/random.h"

namespace vitrine {

namespace fs = std::filesystem;

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

inline RunConfig small_config() {
  RunConfig config;
  config.model = {.image_height = 8,
                  .image_width = 12,
                  .patch_size = 4,
                  .num_channels = 1,
                  .hidden_size = 12,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 3,
                  .intermediate_size = 20,
                  .num_classes = 3};
  config.recipe.lr = 0.1;
  config.recipe.seed = 9;
  config.preset = "mine";
  config.class_names = {"a", "b", "c"};
  return config;
}

inline TrainerState some_state(std::int64_t step) {
  return {.step = step,
          .epoch = 2,
          .step_in_epoch = 3,
          .optimizer = {.adam_step = 31, .skipped_steps = 2, .gradient_norm = kInfinity},
          .metrics = {{.loss = 0.1, .batch_loss = 1.0 / 3, .samples = 5, .top1 = 4, .top5 = 5},
                      {.loss = kNan, .batch_loss = -kInfinity}},
          .epoch_seconds = 1e-300,
          .epochs = {{.epoch = 1,
                      .step = 20,
                      .train_loss = kNan,
                      .train_top1 = 0.7,
                      .test_loss = 2.0 / 3,
                      .test_top1 = 0.123456789012345678,
                      .test_top5 = 1,
                      .learning_rate = 1e-7,
                      .seconds = 3.25,
                      .images_per_second = kInfinity,
                      .skipped_steps = 2}},
          .steps = {{.step = 10, .loss = 5e-324, .learning_rate = 0.001}, {.loss = kNan}}};
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest()
      : config_(small_config()),
        device_(make_cpu_device(1)),
        plan_(plan_vit(config_.model, {}, 5, device_->traits())) {}

  Tensors random_tensors(std::uint64_t seed) const {
    Tensors tensors;
    RandomStream random(seed, 0);
    for (auto* flat : {&tensors.weights, &tensors.first_moment, &tensors.second_moment}) {
      flat->assign(static_cast<std::size_t>(plan_.parameter_elements()), 0.0f);
      for (std::size_t i = 0; i < plan_.graph().parameters().size(); ++i) {
        const std::int64_t offset = plan_.parameter_offset(static_cast<int>(i));
        for (std::int64_t k = 0; k < plan_.graph().parameters()[i].shape.elements(); ++k) {
          (*flat)[static_cast<std::size_t>(offset + k)] =
              static_cast<float>(random.uniform(-1.0, 1.0));
        }
      }
    }
    return tensors;
  }
  void save(std::int64_t step, const std::vector<std::string>& names, std::uint64_t seed = 5) {
    save_checkpoint(run_.path(), config_, plan_, random_tensors(seed), some_state(step), names);
  }
  /// What opening and loading says; "" when nothing is wrong.
  std::string error_of_loading(const fs::path& path) const {
    return error_of([&] { load_tensors(open_checkpoint(path), plan_); });
  }
  static std::string error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message;
    }
    return "";
  }
  /// Loading fails, naming the file and every part.
  void expect_error(const std::string& file, std::initializer_list<std::string> parts) const {
    const std::string message = error_of_loading(run_.path());
    EXPECT_NE(message.find(file + ": "), std::string::npos) << "message: " << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
  }
  void rewrite_weights(const std::vector<SafetensorsTensor>& list) const {
    write_safetensors(run_ / "last" / "model.safetensors", list);
  }
  std::set<std::string> listing() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  std::string target(const std::string& name) const {
    return fs::read_symlink(run_ / name).string();
  }

  RunConfig config_;
  std::unique_ptr<Device> device_;
  Plan plan_;
  TemporaryDirectory run_;
};

}  // namespace vitrine
