// The recipe's keys and flags of augmentation: there and back, errors, what they make of a config.

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/flags.h"
#include "vitrine/error.h"
#include "vitrine/recipe.h"

namespace vitrine {
namespace {

using nlohmann::json;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "nothing was thrown";
}

std::string error_of(const json& document) {
  return error_of([&] {
    RunConfig config;
    read_json(document, "file", config);
    validate(config.recipe, "file");
  });
}

RunConfig from_json(const json& document) {
  RunConfig config;
  read_json(document, "file", config);
  validate(config.recipe, "file");
  return config;
}

RunConfig from_flags(std::vector<std::string> words) {
  CLI::App app;
  ConfigFlags flags;
  flags.add_to(app);
  std::reverse(words.begin(), words.end());
  app.parse(words);
  return flags.resolve();
}

const json kEverything = {{"aa", "rand-m9-mstd0.5-inc1"},
                          {"color_jitter", {0.4, 0.3, 0.2, 0.1}},
                          {"color_jitter_prob", 0.8},
                          {"grayscale_prob", 0.2},
                          {"gaussian_blur_prob", 0.3},
                          {"train_crop_mode", "pad"},
                          {"crop_padding", 4},
                          {"train_interpolation", "bicubic"},
                          {"vflip", 0.1},
                          {"reprob", 0.25},
                          {"remode", "pixel"},
                          {"recount", 2},
                          {"mixup", 0.8},
                          {"cutmix", 1.0},
                          {"mixup_prob", 0.9},
                          {"mixup_switch_prob", 0.4},
                          {"mixup_mode", "elem"},
                          {"crop_pct", 0.95},
                          {"crop_mode", "squash"},
                          {"aug_repeats", 3},
                          {"val_split", 0.1},
                          {"workers", 8}};

TEST(AugmentationKeys, ThereAndBack) {
  const RunConfig config = from_json(kEverything);
  const nlohmann::ordered_json written = recipe_json(config.recipe);
  const nlohmann::ordered_json standard = recipe_json(Recipe{});
  for (const auto& [key, value] : kEverything.items()) {
    EXPECT_EQ(json(written.at(key)), value) << key;
    EXPECT_NE(json(standard.at(key)), value) << key << " is its default: the test shows nothing";
  }
  EXPECT_EQ(from_json(json::parse(written.dump())).recipe, config.recipe);
}

TEST(AugmentationKeys, FlagsSayTheSame) {
  std::vector<std::string> words;
  for (const auto& [key, value] : kEverything.items()) {
    std::string flag = "--" + key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    words.push_back(flag);
    if (value.is_array()) {
      for (const json& element : value) words.push_back(element.dump());
    } else {
      words.push_back(value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  EXPECT_EQ(from_flags(words).recipe, from_json(kEverything).recipe);
}

TEST(AugmentationKeys, AliasesOfTorchvisionAndDeit) {
  auto expect = [](const std::vector<std::string>& words, const json& document) {
    EXPECT_EQ(from_flags(words).recipe, from_json(document).recipe) << words[0];
  };
  expect({"--auto-augment", "3a"}, {{"aa", "3a"}});
  expect({"--three-augment"}, {{"aa", "3a"}});
  expect({"--ThreeAugment"}, {{"aa", "3a"}});
  expect({"--aa", ""}, {{"aa", ""}});
  expect({"--random-erase", "0.1"}, {{"reprob", 0.1}});
  expect({"--src"}, {{"train_crop_mode", "src"}});
  expect({"--repeated-aug"}, {{"aug_repeats", 3}});
  expect({"--eval-crop-ratio", "1"}, {{"crop_pct", 1}});
  expect({"--mixup-alpha", "0.2"}, {{"mixup", 0.2}});
  expect({"--cutmix-alpha", "0.2"}, {{"cutmix", 0.2}});
  expect({"-j", "4"}, {{"workers", 4}});
  expect({"--color-jitter", "0.4"}, {{"color_jitter", 0.4}});
  expect({"--color-jitter", "0.4,0.3,0.2,0.1"}, {{"color_jitter", {0.4, 0.3, 0.2, 0.1}}});
  EXPECT_THROW(from_flags({"--src", "--train-crop-mode", "pad"}), CLI::ExcludesError);
  EXPECT_THROW(from_flags({"--three-augment", "--aa", "rand"}), CLI::ExcludesError);
}

TEST(AugmentationKeys, ErrorsSayWhatIsExpected) {
  auto expect = [](const json& document, const std::string& rest) {
    EXPECT_EQ(error_of(document), "file: " + rest);
  };
  for (const char* key : {"hflip", "vflip", "color_jitter_prob", "grayscale_prob",
                          "gaussian_blur_prob", "reprob", "mixup_prob", "mixup_switch_prob"}) {
    expect({{key, 1.25}}, std::string(key) + ": found 1.25, expected a number in [0, 1]");
    expect({{key, -0.5}}, std::string(key) + ": found -0.5, expected a number in [0, 1]");
  }
  expect({{"val_split", 1}}, "val_split: found 1, expected a number in [0, 1)");
  expect({{"mixup", -1}}, "mixup: found -1, expected at least 0");
  expect({{"cutmix", -1}}, "cutmix: found -1, expected at least 0");
  expect({{"crop_pct", 0}}, "crop_pct: found 0, expected a number in (0, 1]");
  expect({{"crop_pct", 1.1}}, "crop_pct: found 1.1, expected a number in (0, 1]");
  expect({{"crop_padding", -1}}, "crop_padding: found -1, expected 0 to 1024");
  expect({{"recount", 0}}, "recount: found 0, expected 1 to 64");
  expect({{"aug_repeats", -1}}, "aug_repeats: found -1, expected 0 to 1024");
  expect({{"workers", 5000}}, "workers: found 5000, expected 0 to 1024");
  expect({{"train_crop_mode", "rkrc"}},
         "train_crop_mode: found \"rkrc\", expected one of rrc, src, pad, none");
  expect({{"remode", "constant"}},
         "remode: found \"constant\", expected one of const, rand, pixel");
  expect({{"mixup_mode", "half"}}, "mixup_mode: found \"half\", expected one of batch, pair, elem");
  expect({{"crop_mode", "border"}}, "crop_mode: found \"border\", expected one of center, squash");
  expect({{"train_interpolation", "lanczos"}},
         "train_interpolation: found \"lanczos\", expected one of bilinear, bicubic, random");
  expect({{"aa", "augmix"}},
         "aa: found \"augmix\", expected \"3a\", \"randaug(2,10)\" or \"rand\" with any of -m9, "
         "-n2, -p0.5, -mstd0.5, -mmax10, -inc1");
  expect({{"aa", 3}}, "aa: found 3, expected a text");
  const std::string jitter =
      ", expected one number, three or four, at least 0, the fourth (hue) "
      "at most 0.5";
  expect({{"color_jitter", {0.1, 0.2}}}, "color_jitter: found [0.1,0.2]" + jitter);
  expect({{"color_jitter", -1}}, "color_jitter: found [-1.0]" + jitter);
  expect({{"color_jitter", {1, 1, 1, 0.6}}}, "color_jitter: found [1.0,1.0,1.0,0.6]" + jitter);
  expect({{"color_jitter", {1, 1, 1, 0, 0}}}, "color_jitter: found [1.0,1.0,1.0,0.0,0.0]" + jitter);
  expect({{"color_jitter", "x"}}, "color_jitter: found \"x\", expected a list of numbers");
}

TEST(AugmentationKeys, PresetsAreAsTheyWere) {
  const std::set<std::string> augmented = {"fashion-small", "cifar10-vit", "deit_small",
                                           "plain_vit_s16"};
  for (const PresetInfo& info : presets()) {
    EXPECT_EQ(augments(preset(info.name).recipe), augmented.contains(info.name)) << info.name;
  }
  const Recipe plain;
  EXPECT_FALSE(augments(plain));
  Recipe recipe;
  recipe.hflip = 0.5;
  recipe.scale = {0.08, 1.0};
  recipe.ratio = {0.5, 2.0};
  recipe.crop_pct = 1;
  recipe.workers = 3;
  recipe.val_split = 0.5;
  EXPECT_FALSE(augments(recipe));
  for (const json& document :
       {json{{"aa", "3a"}}, json{{"color_jitter", 0.1}}, json{{"grayscale_prob", 0.1}},
        json{{"gaussian_blur_prob", 0.1}}, json{{"train_crop_mode", "none"}},
        json{{"train_interpolation", "bicubic"}}, json{{"vflip", 0.1}}, json{{"reprob", 0.1}},
        json{{"mixup", 0.1}}, json{{"cutmix", 0.1}}, json{{"aug_repeats", 2}}}) {
    EXPECT_TRUE(augments(from_json(document).recipe)) << document;
  }
  for (const json& document : {json{{"color_jitter", 0}}, json{{"aug_repeats", 1}}}) {
    EXPECT_FALSE(augments(from_json(document).recipe)) << document;
  }
}

TEST(AugmentationConfig, IsWhatTheRecipeSays) {
  RunConfig run = from_json(kEverything);
  run.model.image_height = 96;
  run.model.image_width = 160;
  run.recipe.hflip = 0.4;
  run.recipe.scale = {0.2, 0.9};
  run.recipe.ratio = {0.6, 1.5};
  run.recipe.mean = {0.485f, 0.3f, 0.5f};
  run.recipe.std = {1, 1, 1};
  const AugmentationConfig config = augmentation(run);
  EXPECT_EQ(config.height, 96);
  EXPECT_EQ(config.width, 160);
  EXPECT_EQ(config.channels, 3);
  EXPECT_EQ(config.crop_mode, CropMode::pad);
  EXPECT_EQ(config.scale, (std::array<double, 2>{0.2, 0.9}));
  EXPECT_EQ(config.ratio, (std::array<double, 2>{0.6, 1.5}));
  EXPECT_EQ(config.crop_padding, 4);
  EXPECT_EQ(config.interpolation, "bicubic");
  EXPECT_EQ(config.hflip, 0.4);
  EXPECT_EQ(config.vflip, 0.1);
  EXPECT_EQ(config.auto_augment, parse_auto_augment("rand-m9-mstd0.5-inc1", ""));
  EXPECT_EQ(config.color_jitter, (std::array<double, 4>{}));  // as timm: RandAugment replaces it
  EXPECT_EQ(config.color_jitter_prob, 0.8);
  EXPECT_EQ(config.grayscale_prob, 0.2);
  EXPECT_EQ(config.gaussian_blur_prob, 0.3);
  EXPECT_EQ(config.reprob, 0.25);
  EXPECT_EQ(config.remode, EraseMode::pixel);
  EXPECT_EQ(config.recount, 2);
  EXPECT_EQ(config.fill, (std::vector<std::uint8_t>{124, 76, 128}));  // round(255 · 0.3) is 76
  EXPECT_EQ(config.mixup, 0.8);
  EXPECT_EQ(config.cutmix, 1.0);
  EXPECT_EQ(config.mixup_prob, 0.9);
  EXPECT_EQ(config.mixup_switch_prob, 0.4);
  EXPECT_EQ(config.mixup_mode, MixMode::elem);
  EXPECT_EQ(config.crop_pct, 0.95);
  EXPECT_EQ(config.crop_mode_eval, "squash");
  run.recipe.aa = "randaug(2,10)";
  EXPECT_EQ(augmentation(run).fill, (std::vector<std::uint8_t>{128, 128, 128}));
  run.recipe.aa = "3a";
  EXPECT_EQ(augmentation(run).color_jitter, (std::array<double, 4>{0.4, 0.3, 0.2, 0.1}));
  run.recipe.color_jitter = {0.3};
  EXPECT_EQ(augmentation(run).color_jitter, (std::array<double, 4>{0.3, 0.3, 0.3, 0}));
}

}  // namespace
}  // namespace vitrine
