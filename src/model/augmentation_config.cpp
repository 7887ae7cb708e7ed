// What a recipe says about augmentation: its checks, and the config of the draws.
#include <algorithm>
#include <charconv>

#include "model/checks.h"

namespace vitrine {
namespace {

// One number stands for brightness, contrast and saturation; hue is turned only where it is named.
std::array<double, 4> jitter_of(const std::vector<double>& given) {
  std::array<double, 4> jitter{};
  if (given.size() == 1) {
    std::fill_n(jitter.begin(), 3, given[0]);
  } else {
    std::copy_n(given.begin(), std::min(given.size(), jitter.size()), jitter.begin());
  }
  return jitter;
}

void validate_color_jitter(const std::vector<double>& given, const std::string& source) {
  constexpr double kHalfTurn = 0.5;
  const std::array<double, 4> jitter = jitter_of(given);
  const bool counted = given.size() <= 1 || given.size() == 3 || given.size() == 4;
  const bool fits = std::ranges::all_of(
      jitter, [](double strength) { return std::isfinite(strength) && strength >= 0; });
  expect(counted && fits && jitter[3] <= kHalfTurn, source, "color_jitter",
         nlohmann::json(given).dump(),
         "one number, three or four, at least 0, the fourth (hue) at most 0.5");
}

void expect_one_of(const std::string& word, const std::vector<std::string>& known,
                   const std::string& source, const std::string& key) {
  std::string expected;
  for (const std::string& name : known) expected += (expected.empty() ? "" : ", ") + name;
  expect(std::ranges::find(known, word) != known.end(), source, key,
         nlohmann::json(word).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
         "one of " + expected);
}

// The float's shortest decimal, as recipes say it: 0.3, where the float itself is above.
double as_written(float number) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, number);
  double value = number;
  if (error == std::errc()) std::from_chars(text, end, value);
  return value;
}

// timm's img_mean, rounded as Python does; big_vision replaces by mid-grey whatever the mean.
std::vector<std::uint8_t> fill_of(const AutoAugment& rule, const std::vector<float>& mean) {
  constexpr std::uint8_t kMidGrey = 128;
  if (rule.kind == AutoAugment::Kind::big_vision) {
    return std::vector<std::uint8_t>(mean.size(), kMidGrey);
  }
  std::vector<std::uint8_t> fill;
  for (const float number : mean) {
    const double level = std::clamp(std::nearbyint(255 * as_written(number)), 0.0, 255.0);
    fill.push_back(static_cast<std::uint8_t>(level));
  }
  return fill;
}

}  // namespace

void validate_augmentation(const Recipe& r, const std::string& source) {
  constexpr std::int64_t kMostBoxes = 64, kMostWorkers = 1024, kMostPixels = 1024;
  constexpr std::int64_t kMostRepeats = 1024;
  auto probability = [&](const char* key, double number) {
    expect(number >= 0 && number <= 1, source, key, text(number), "a number in [0, 1]");
  };
  probability("hflip", r.hflip);
  probability("vflip", r.vflip);
  probability("color_jitter_prob", r.color_jitter_prob);
  probability("grayscale_prob", r.grayscale_prob);
  probability("gaussian_blur_prob", r.gaussian_blur_prob);
  probability("reprob", r.reprob);
  probability("mixup_prob", r.mixup_prob);
  probability("mixup_switch_prob", r.mixup_switch_prob);
  expect_probability(r.val_split, source, "val_split");
  expect_at_least(r.mixup, 0, source, "mixup");
  expect_at_least(r.cutmix, 0, source, "cutmix");
  expect_between(r.crop_padding, 0, kMostPixels, source, "crop_padding");
  expect_between(r.recount, 1, kMostBoxes, source, "recount");
  expect_between(r.aug_repeats, 0, kMostRepeats, source, "aug_repeats");
  expect_between(r.workers, 0, kMostWorkers, source, "workers");
  expect(r.crop_pct > 0 && r.crop_pct <= 1, source, "crop_pct", text(r.crop_pct),
         "a number in (0, 1]");
  expect_one_of(r.crop_mode, {"center", "squash"}, source, "crop_mode");
  expect_one_of(r.train_interpolation, {"bilinear", "bicubic", "random"}, source,
                "train_interpolation");
  validate_color_jitter(r.color_jitter, source);
  parse_auto_augment(r.aa, source);
}

bool augments(const Recipe& r) {
  const Recipe plain;
  return r.vflip > 0 || r.train_crop_mode != plain.train_crop_mode ||
         r.train_interpolation != plain.train_interpolation || !r.aa.empty() ||
         jitter_of(r.color_jitter) != std::array<double, 4>{} || r.grayscale_prob > 0 ||
         r.gaussian_blur_prob > 0 || r.reprob > 0 || r.mixup > 0 || r.cutmix > 0 ||
         r.aug_repeats > 1;
}

AugmentationConfig augmentation(const RunConfig& config) {
  const Recipe& r = config.recipe;
  const AutoAugment rule = parse_auto_augment(r.aa, "recipe");
  const bool jitters =
      rule.kind == AutoAugment::Kind::none || rule.kind == AutoAugment::Kind::three;
  return {.height = config.model.image_height,
          .width = config.model.image_width,
          .channels = config.model.num_channels,
          .crop_mode = r.train_crop_mode,
          .scale = {r.scale[0], r.scale[1]},
          .ratio = {r.ratio[0], r.ratio[1]},
          .crop_padding = r.crop_padding,
          .interpolation = r.train_interpolation,
          .hflip = r.hflip,
          .vflip = r.vflip,
          .auto_augment = rule,
          .color_jitter = jitters ? jitter_of(r.color_jitter) : std::array<double, 4>{},
          .color_jitter_prob = r.color_jitter_prob,
          .grayscale_prob = r.grayscale_prob,
          .gaussian_blur_prob = r.gaussian_blur_prob,
          .reprob = r.reprob,
          .remode = r.remode,
          .recount = r.recount,
          .fill = fill_of(rule, transform(r, config.model.num_channels).mean),
          .mixup = r.mixup,
          .cutmix = r.cutmix,
          .mixup_prob = r.mixup_prob,
          .mixup_switch_prob = r.mixup_switch_prob,
          .mixup_mode = r.mixup_mode,
          .crop_pct = r.crop_pct,
          .crop_mode_eval = r.crop_mode};
}

}  // namespace vitrine
