// Weights, moments and their update; learning-rate schedules.
#include "vitrine/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <string_view>

#include "vitrine/conversion.h"

namespace vitrine {

double Schedule::at(std::int64_t step) const {
  if (step < warmup_steps) {
    return warmup_lr +
           (lr - warmup_lr) * static_cast<double>(step) / static_cast<double>(warmup_steps);
  }
  if (kind == ScheduleKind::constant) return lr;
  const std::int64_t length = std::max<std::int64_t>(total_steps - warmup_steps, 1);
  const double done =
      std::min(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(length));
  return min_lr + (lr - min_lr) * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
}

double ema_decay_at(const OptimizerConfig& config, std::int64_t step) {
  constexpr double kPower = -2.0 / 3.0;
  if (step == 0) return 0.0;
  if (!config.ema_warmup) return config.ema_decay;
  return std::min(config.ema_decay, 1.0 - std::pow(1.0 + static_cast<double>(step), kPower));
}

namespace {

bool is_embedding(const std::string& parameter) {
  return parameter == "cls_token" || parameter == "reg_token" || parameter == "pos_embed";
}

}  // namespace

bool decays_by_default(const Parameter& parameter) {
  return parameter.shape.rank() > 1 && !parameter.name.ends_with(".bias") &&
         !is_embedding(parameter.name);
}

namespace {

// The number i of "blocks.i.norm1.weight", -1 for what is in no block.
std::int64_t block_of(const std::string& parameter) {
  constexpr std::string_view kPrefix = "blocks.";
  return parameter.starts_with(kPrefix) ? std::atoll(parameter.c_str() + kPrefix.size()) : -1;
}

}  // namespace

std::int64_t layer_depth(const std::string& parameter, std::int64_t blocks) {
  if (block_of(parameter) >= 0) return block_of(parameter) + 1;
  if (parameter.starts_with("norm.")) return blocks;
  const bool embeds = is_embedding(parameter) || parameter.starts_with("patch_embed.");
  return embeds ? 0 : blocks + 1;
}

namespace {

std::vector<ParameterRegion> make_regions(const Plan& plan, const OptimizerConfig& config) {
  std::vector<ParameterRegion> regions;
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  std::int64_t blocks = 0;
  for (const Parameter& parameter : parameters) {
    blocks = std::max(blocks, block_of(parameter.name) + 1);
  }
  auto scale_of = [&](const Parameter& parameter) {
    if (!parameter.trained) return 0.0f;
    const std::int64_t above = blocks + 1 - layer_depth(parameter.name, blocks);
    return static_cast<float>(std::pow(config.layer_decay, static_cast<double>(above)));
  };
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const bool decays = config.decay_all || decays_by_default(parameters[i]);
    const float decay = decays ? static_cast<float>(config.weight_decay) : 0.0f;
    const float scale = scale_of(parameters[i]);
    const std::int64_t begin = plan.parameter_offset(static_cast<int>(i));
    const std::int64_t end = i + 1 < parameters.size()
                                 ? plan.parameter_offset(static_cast<int>(i) + 1)
                                 : plan.parameter_elements();
    // Padding is zero and stays zero, so a region may run over it into the next tensor.
    if (!regions.empty() && regions.back().weight_decay == decay &&
        regions.back().learning_rate_scale == scale) {
      regions.back().end = end;
    } else {
      regions.push_back(
          {.begin = begin, .end = end, .weight_decay = decay, .learning_rate_scale = scale});
    }
  }
  return regions;
}

}  // namespace

Optimizer::Optimizer(Device& device, const Plan& plan, const OptimizerConfig& config)
    : device_(device),
      config_(config),
      elements_(plan.parameter_elements()),
      working_type_(plan.graph().working_type()) {
  const auto bytes = static_cast<std::size_t>(elements_) * sizeof(float);
  weights_ = device.allocate(bytes, "weights");
  if (working_type_ != DType::f32) {
    working_ = device.allocate(static_cast<std::size_t>(elements_ * size_of(working_type_)),
                               "working weights");
  }
  first_moment_ = device.allocate(bytes, "first moments");
  second_moment_ = device.allocate(bytes, "second moments");
  if (config.ema_decay > 0) ema_ = device.allocate(bytes, "averaged weights");
  const std::vector<ParameterRegion> regions = make_regions(plan, config);
  num_regions_ = static_cast<std::int64_t>(regions.size());
  regions_ = device.allocate(regions.size() * sizeof(ParameterRegion), "parameter table");
  device.upload(regions_.data(), regions.data(), regions.size() * sizeof(ParameterRegion));
  state_ = device.allocate(sizeof(OptimizerState), "optimizer state");
}

void Optimizer::measure_norm(const float* gradients) {
  device_.kernels().gradient_norm(
      {.optimizer = state_.as<OptimizerState>(), .gradients = {gradients, elements_}});
}

void Optimizer::apply(const float* gradients, const StepState* state) {
  View<void> working;
  View<float> ema;
  if (working_.bytes() > 0) working = {working_.data(), elements_, working_type_};
  if (has_ema()) ema = {ema_.as<float>(), elements_};
  device_.kernels().adamw({.weights = {weights_.as<float>(), elements_},
                           .first_moment = {first_moment_.as<float>(), elements_},
                           .second_moment = {second_moment_.as<float>(), elements_},
                           .ema = ema,
                           .working_copy = working,
                           .gradients = {gradients, elements_},
                           .regions = {regions_.as<ParameterRegion>(), num_regions_},
                           .optimizer = state_.as<OptimizerState>(),
                           .state = state,
                           .beta1 = static_cast<float>(config_.beta1),
                           .beta2 = static_cast<float>(config_.beta2),
                           .eps = static_cast<float>(config_.eps),
                           .clip_norm = static_cast<float>(config_.clip_norm),
                           .decoupled = config_.kind == OptimizerKind::adamw});
}

OptimizerState Optimizer::state() const {
  OptimizerState state;
  device_.download(&state, state_.data(), sizeof state);
  return state;
}

void Optimizer::upload_weights(const std::vector<float>& numbers) {
  device_.upload(weights_.data(), numbers.data(), numbers.size() * sizeof(float));
  if (has_ema()) upload_ema(numbers);
  if (working_.bytes() == 0) return;
  const std::vector<char> working = converted(numbers, working_type_);
  device_.upload(working_.data(), working.data(), working.size());
}

const void* Optimizer::average() {
  if (working_.bytes() == 0) return ema_.data();
  if (average_.bytes() == 0) average_ = device_.allocate(working_.bytes(), "averaged weights");
  const Buffer host = device_.to_host(ema_);
  const std::vector<char> working =
      converted({host.as<float>(), host.as<float>() + elements_}, working_type_);
  device_.upload(average_.data(), working.data(), working.size());
  return average_.data();
}

void Optimizer::upload_ema(const std::vector<float>& numbers) {
  device_.upload(ema_.data(), numbers.data(), numbers.size() * sizeof(float));
}

Buffer share_weights(Device& device, const Plan& plan, const std::vector<float>& numbers) {
  const DType type = plan.graph().working_type();
  if (type == DType::f32) {
    return device.share(numbers.data(), numbers.size() * sizeof(float), "weights");
  }
  const std::vector<char> working = converted(numbers, type);
  Buffer buffer = device.allocate(working.size(), "weights");
  device.upload(buffer.data(), working.data(), working.size());
  return buffer;
}

void Optimizer::upload_moments(const std::vector<float>& first, const std::vector<float>& second,
                               const OptimizerState& state) {
  device_.upload(first_moment_.data(), first.data(), first.size() * sizeof(float));
  device_.upload(second_moment_.data(), second.data(), second.size() * sizeof(float));
  device_.upload(state_.data(), &state, sizeof state);
}

}  // namespace vitrine
