// What PyTorch computes for the reference models (tests/pytorch, by tools/make_pytorch_values.py,
// which also says what the files hold), and how a device is held to it.
//
// Weights and images come from a formula of hashes: fnv1a64 and splitmix64 (Steele, Lea and Flood
// 2014, "Fast Splittable Pseudorandom Number Generators"). Bounds on relative errors by Euclidean
// norms: logits and first loss 1e-5, gradients 1e-4 a tensor; after all steps
//
//   error <= 2 · error of PyTorch in float32 + tiny
//
// with tiny = 1e-4 for losses, what gradients may be off by, and 1e-3 for what the steps added to a
// tensor: Adam moves an element by about the learning rate however small its gradient, and 1e-3 of
// the norm is one element of a million that went another way. Decay, moments and their corrections
// each weigh more. ReLUs make the steps discontinuous: rounding opens or closes a unit, and one of
// 2048 is 2 % of its bias' norm. There tiny = 1e-3 and 3e-2, and decay is strong enough to weigh
// more; in step 1, as the tool sees to, no input of a ReLU lies that near to zero.
//
// A constant added to the scores of a query leaves its softmax alone: the gradient of the keys'
// part of a qkv bias is zero, what is computed is rounding noise, and Adam steps as far for noise.
// That part is only bounded.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vitrine/checkpoint.h"
#include "vitrine/device.h"
#include "vitrine/executor.h"
#include "vitrine/optimizer.h"
#include "vitrine/recipe.h"
#include "vitrine/safetensors.h"

namespace vitrine::pytorch {

inline constexpr const char* kModels[] = {"mnist-tutorial", "notes-encoder", "d2l-224",
                                          "cifar10-small", "timm-32"};
inline constexpr double kLogitBound = 1e-5, kGradientBound = 1e-4;

// The formula ------------------------------------------------------------------------------------

inline std::uint64_t fnv1a64(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const char byte : text) {
    value = (value ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  }
  return value;
}

inline std::uint64_t hash(std::uint64_t name, std::int64_t i) {
  std::uint64_t z = name + static_cast<std::uint64_t>(i) + 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

inline double scale_of(const std::string& name, const Shape& shape) {
  const bool patch = name.starts_with("patch_embed"), token = name == "cls_token";
  double scale = 1.0;
  if (name.ends_with("bias")) {
    scale = 0.5;
  } else if (!token && name != "pos_embed" && !name.starts_with("images")) {
    const std::int64_t fan_in =
        patch ? shape.elements() / shape[0] : shape[static_cast<int>(shape.rank()) - 1];
    while (scale * scale * static_cast<double>(fan_in) > 3) scale /= 2;
  }
  return patch || token || name == "pos_embed" ? scale / 8 : scale;
}

/// Everything before the rounding to float is exact, with or without fused multiply-add.
inline void draw(const std::string& name, const Shape& shape, float* out) {
  const bool is_scale = name.find("norm") != std::string::npos && name.ends_with("weight");
  const double base = is_scale ? 1.0 : 0.0, scale = is_scale ? 0.5 : scale_of(name, shape);
  const std::uint64_t key = fnv1a64(name);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const auto k = static_cast<double>(hash(key, i) >> 40);
    out[i] = static_cast<float>(base + scale * ((k + 0.5) * 0x1p-23 - 1.0));
  }
}

// What is stored ---------------------------------------------------------------------------------

/// A file of tests/pytorch. The tests are compiled with its place; where they have been carried to
/// another machine, the checkout that they are started in has it.
inline std::filesystem::path stored_file(const std::string& model) {
  std::filesystem::path tests = VITRINE_TESTS_DIRECTORY;
  if (!std::filesystem::exists(tests)) tests = "tests";
  return tests / "pytorch" / (model + ".safetensors");
}

class Values {
 public:
  explicit Values(const std::string& model) : file_(stored_file(model)) {
    read_json(nlohmann::json::parse(text("config")), model, config_);
    if (model != "timm-32") use_preset(model);
    Recipe recipe;
    recipe.opt = text("opt") == "adam" ? OptimizerKind::adam : OptimizerKind::adamw;
    recipe.lr = std::stod(text("lr"));
    recipe.weight_decay = std::stod(text("weight_decay"));
    recipe.weight_decay_all = text("weight_decay_all") == "true";
    if (model == "mnist-tutorial" || model == "cifar10-small") {  // these documents train
      EXPECT_EQ(config_.recipe.opt, recipe.opt);
      EXPECT_EQ(config_.recipe.lr, recipe.lr);
      EXPECT_EQ(config_.recipe.weight_decay, recipe.weight_decay);
      EXPECT_EQ(config_.recipe.weight_decay_all, recipe.weight_decay_all);
    }
    recipe.batch_size = std::stoll(text("batch"));
    recipe.max_steps = std::stoll(text("steps"));
    config_.recipe = recipe;
    draw_batch();
  }

  const RunConfig& config() const { return config_; }
  const VitConfig& model() const { return config_.model; }
  std::int64_t batch() const { return config_.recipe.batch_size; }
  std::int64_t steps() const { return config_.recipe.max_steps; }
  const std::vector<float>& images() const { return images_; }
  const std::vector<std::int32_t>& labels() const { return labels_; }
  Shape images_shape() const {
    return {batch(), model().num_channels, model().image_height, model().image_width};
  }

  std::vector<float> weights(const Plan& plan) const {
    std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
    for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
      const Parameter& parameter = plan.graph().parameters()[p];
      draw(parameter.name, parameter.shape, &flat[plan.parameter_offset(static_cast<int>(p))]);
    }
    return flat;
  }

  bool whole(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<float> stored(const std::string& name) const {
    const SafetensorsEntry* entry = file_.find(name);
    if (entry == nullptr) throw BadInput(file_.path().string() + ": " + name + " is missing");
    return file_.read_f32(name, entry->shape);
  }

 private:
  std::string text(const std::string& key) const { return file_.metadata().at(key); }

  /// The preset without dropout: the model that PyTorch's values are of.
  void use_preset(const std::string& name) {
    const VitConfig stored = config_.model;
    config_ = preset(name);
    VitConfig& model = config_.model;
    model.hidden_dropout_prob = model.attention_probs_dropout_prob = 0;
    model.activation_dropout_prob = 0;
    VitConfig same = model;  // but for what it starts from
    same.init = stored.init;
    same.embedding_init = stored.embedding_init;
    same.patch_init_normal = stored.patch_init_normal;
    same.embedding_dropout_prob = stored.embedding_dropout_prob;
    EXPECT_TRUE(same == stored) << name << " is another model than " << text("config");
  }

  void draw_batch() {
    images_.resize(static_cast<std::size_t>(images_shape().elements()));
    draw(text("images"), images_shape(), images_.data());
    for (std::int64_t i = 0; i < batch(); ++i) {
      const std::uint64_t k = hash(fnv1a64("labels"), i) >> 40;
      labels_.push_back(static_cast<std::int32_t>(k % model().num_classes));
    }
  }

  SafetensorsFile file_;
  RunConfig config_;
  std::vector<float> images_;
  std::vector<std::int32_t> labels_;
};

// Errors -----------------------------------------------------------------------------------------

inline double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

/// |actual − stored| / |stored|
template <typename T>
double relative_error(const std::vector<T>& actual, const std::vector<float>& stored) {
  EXPECT_EQ(actual.size(), stored.size());
  std::vector<double> difference;
  for (std::size_t i = 0; i < std::min(actual.size(), stored.size()); ++i) {
    difference.push_back(static_cast<double>(actual[i]) - static_cast<double>(stored[i]));
  }
  return norm(difference) / norm({stored.begin(), stored.end()});
}

/// Sums of ±elements; the signs belong to the parameter.
inline std::vector<double> projected(const std::string& parameter, const std::vector<double>& x,
                                     std::size_t count) {
  std::vector<double> sums(count, 0.0);
  const std::uint64_t key = fnv1a64(parameter + ".signs");
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::uint64_t bits = hash(key, static_cast<std::int64_t>(i));
    for (std::size_t j = 0; j < count; ++j) {
      sums[j] += std::bit_cast<double>(std::bit_cast<std::uint64_t>(x[i]) ^ (bits >> j & 1) << 63);
    }
  }
  return sums;
}

/// A tensor stored as its norm and projections: the larger of what both say.
inline double projected_error(const Values& values, const std::string& kind,
                              const std::string& parameter, const std::vector<double>& actual) {
  const double expected = values.stored(kind + parameter + ".norm").at(0);
  const std::vector<float> projections = values.stored(kind + parameter + ".projections");
  std::vector<double> difference = projected(parameter, actual, projections.size());
  for (std::size_t j = 0; j < difference.size(); ++j) {
    difference[j] -= static_cast<double>(projections[j]);
  }
  const double root_mean_square =
      norm(difference) / std::sqrt(static_cast<double>(projections.size()));
  const double error = std::max(std::abs(norm(actual) - expected), root_mean_square) / expected;
  return std::isnan(norm(actual)) ? norm(actual) : error;
}

/// A tensor that is stored whole; `noise` bounds the keys' part of a qkv bias.
inline double whole_error(const Values& values, const std::string& kind,
                          const std::string& parameter, std::vector<double> actual, double noise) {
  std::vector<float> stored = values.stored(kind + parameter);
  EXPECT_EQ(actual.size(), stored.size()) << parameter;
  if (!parameter.ends_with("attn.qkv.bias") || actual.size() != stored.size()) {
    return relative_error(actual, stored);
  }
  const auto third = static_cast<std::ptrdiff_t>(stored.size() / 3);
  for (std::ptrdiff_t i = third; i < 2 * third; ++i) EXPECT_LE(std::abs(actual[i]), noise) << i;
  actual.erase(actual.begin() + third, actual.begin() + 2 * third);
  stored.erase(stored.begin() + third, stored.begin() + 2 * third);
  return relative_error(actual, stored);
}

inline double tensor_error(const Values& values, const std::string& kind,
                           const std::string& parameter, const std::vector<double>& actual,
                           double noise) {
  return values.whole(kind + parameter) ? whole_error(values, kind, parameter, actual, noise)
                                        : projected_error(values, kind, parameter, actual);
}

// Running and holding ----------------------------------------------------------------------------

/// What a number of steps leaves; gradients and weights as the plan lays them out.
struct Outcome {
  std::vector<float> logits;  ///< of the first step
  std::vector<float> losses;  ///< of each
  std::vector<float> gradients;
  std::vector<float> weights;
};

inline Outcome run_steps(Device& device, const Plan& plan, const Values& values,
                         std::int64_t steps) {
  Executor executor(device, plan);
  Optimizer optimizer(device, plan, optimizer_config(values.config().recipe));
  optimizer.upload_weights(values.weights(plan));
  const Buffer images =
      device.share(values.images().data(), values.images().size() * sizeof(float), "images");
  std::vector<BatchRow> rows;
  for (std::int64_t i = 0; i < values.batch(); ++i) {
    rows.push_back({.image = i,
                    .crop_width = static_cast<float>(values.model().image_width),
                    .crop_height = static_cast<float>(values.model().image_height)});
  }
  Outcome outcome;
  for (std::int64_t step = 0; step < steps; ++step) {
    std::ranges::fill(executor.row_input<std::int32_t>("labels"), -1);
    std::ranges::copy(rows, executor.row_input<BatchRow>("rows").begin());
    std::ranges::copy(values.labels(), executor.row_input<std::int32_t>("labels").begin());
    executor.reset_metrics();
    executor.set_state({.step = static_cast<std::uint32_t>(step),
                        .learning_rate = static_cast<float>(values.config().recipe.lr),
                        .loss_scale = 1.0f / static_cast<float>(values.batch())});
    executor.run(
        {.weights = optimizer.weights(), .inputs = {images.data()}, .valid_rows = values.batch()});
    executor.sum_gradients();
    outcome.losses.push_back(static_cast<float>(executor.metrics().batch_loss));
    if (step == 0) {
      outcome.logits = executor.output(plan.graph().find("logits"));
      outcome.logits.resize(static_cast<std::size_t>(values.batch() * values.model().num_classes));
      outcome.gradients.resize(static_cast<std::size_t>(plan.parameter_elements()));
      device.download(outcome.gradients.data(), executor.gradients(),
                      outcome.gradients.size() * sizeof(float));
    }
    optimizer.update(executor.gradients(), executor.state());
  }
  const Buffer trained = optimizer.host_weights();
  outcome.weights.assign(trained.as<float>(), trained.as<float>() + plan.parameter_elements());
  return outcome;
}

inline Plan plan_for(const Values& values, PatchProjection projection, const Device& device) {
  return plan_vit(
      values.model(),
      {.patch_projection = projection, .images = DType::f32, .stored_images = values.batch()},
      values.batch(), device.traits());
}

/// A parameter's part of a flat buffer.
inline std::vector<double> part(const Plan& plan, std::size_t p, const std::vector<float>& flat) {
  const float* first = flat.data() + plan.parameter_offset(static_cast<int>(p));
  return {first, first + plan.graph().parameters()[p].shape.elements()};
}

inline void expect_first_step(const Values& values, const Plan& plan, const Outcome& outcome) {
  EXPECT_LE(relative_error(outcome.logits, values.stored("logits")), kLogitBound) << "logits";
  const double loss = values.stored("loss").at(0);
  EXPECT_NEAR(outcome.losses.at(0), loss, kLogitBound * loss);
  const auto& parameters = plan.graph().parameters();
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    const std::vector<double> gradient = part(plan, p, outcome.gradients);
    EXPECT_LE(tensor_error(values, "grad.", parameters[p].name, gradient,
                           kGradientBound * norm(gradient)),
              kGradientBound)
        << "gradient of " << parameters[p].name;
  }
}

inline void expect_all_steps(const Values& values, const Plan& plan, const Outcome& outcome) {
  const bool smooth = values.model().hidden_act != ActivationKind::relu;
  const double loss_tiny = smooth ? 1e-4 : 1e-3, update_tiny = smooth ? 1e-3 : 3e-2;
  const double loss_bound =
      2.0 * static_cast<double>(values.stored("float32.loss").at(0)) + loss_tiny;
  for (std::size_t step = 0; step < outcome.losses.size(); ++step) {
    const double loss = values.stored("loss").at(step);
    EXPECT_NEAR(outcome.losses[step], loss, loss_bound * loss) << "loss of step " << step + 1;
  }
  // A step of Adam goes 1 / sqrt(1 − beta2) learning rates at most, and hardly ever more than one.
  const double noise = 2.0 * static_cast<double>(values.steps()) * values.config().recipe.lr;
  const std::vector<float> before = values.weights(plan);
  const auto& parameters = plan.graph().parameters();
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    std::vector<double> update = part(plan, p, outcome.weights);
    const std::vector<double> from = part(plan, p, before);
    for (std::size_t i = 0; i < update.size(); ++i) update[i] -= from[i];
    const double float32 = values.stored("float32." + parameters[p].name).at(1);
    EXPECT_LE(tensor_error(values, "update.", parameters[p].name, update, noise),
              2.0 * float32 + update_tiny)
        << "update of " << parameters[p].name;
  }
}

}  // namespace vitrine::pytorch
