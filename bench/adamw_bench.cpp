// The update of all parameters of a preset, by the optimiser as a training step calls it: AdamW,
// the norm of the gradients, and the sum of the lanes' gradients where a plan has several.
//
// Peer: a plain copy of the same bytes.
#include "graph_case.h"
#include "reference/adamw.h"
#include "reference/reduce.h"
#include "vitrine/conversion.h"
#include "vitrine/training_step.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kElementsChecked = 10007;
constexpr std::int64_t kNumbers = 262147;  // drawn; more are these again

/// The plan of a preset's step.
Plan plan_of(const std::string& name, Precision precision, const DeviceTraits& traits) {
  const RunConfig config = preset(name);
  return plan_vit(config.model, {.precision = precision}, config.recipe.batch_size, traits);
}

/// Of the flat buffer; the same in every plan of the preset.
std::int64_t numbers_of(const std::string& name) {
  return plan_of(name, Precision::fp32, DeviceTraits{}).parameter_elements();
}

Cost cost_of_update(const Plan& plan, const std::string& name) {
  for (const StepOperation& operation : update_operations(plan)) {
    if (operation.operation == name) return {operation.flops, operation.bytes};
  }
  throw DeviceError(name + ": no operation of the update");
}

/// Gradients on the device, whose numbers the host knows.
class Gradients {
 public:
  Gradients(Device& device, std::int64_t n)
      : numbers_(random_normal(std::min(n, kNumbers), kSeed, 1)),
        memory_(device.allocate(static_cast<std::size_t>(n) * sizeof(float), "gradients")) {
    fill(device, memory_.data(), memory_.bytes(), converted(numbers_, DType::f32));
  }
  const float* data() const { return memory_.as<float>(); }
  float operator[](std::int64_t i) const {
    return numbers_[static_cast<std::size_t>(i) % numbers_.size()];
  }
  std::vector<float> all(std::int64_t n) const {
    std::vector<float> values;
    for (std::int64_t i = 0; i < n; ++i) values.push_back((*this)[i]);
    return values;
  }

 private:
  std::vector<float> numbers_;
  Buffer memory_;
};

OptimizerConfig recipe_of_steps() {
  OptimizerConfig config;
  config.decay_all = true;
  return config;
}

class UpdateCase : public Case {
 public:
  UpdateCase(Device& device, Plan plan)
      : device_(device),
        plan_(std::move(plan)),
        n_(plan_.parameter_elements()),
        optimizer_(device, plan_, recipe_of_steps()),
        gradients_(device, n_),
        step_(device.allocate(sizeof(StepState), "state")) {
    optimizer_.upload_weights(initial_weights());
    device.upload(step_.data(), &state_, sizeof state_);
    optimizer_.measure_norm(gradients_.data());  // the first step: finite, so it counts
  }
  ~UpdateCase() override { device_.synchronize(); }

 protected:
  std::vector<float> initial_weights() const {
    const std::vector<float> drawn = random_normal(std::min(n_, kNumbers), kSeed, 2);
    std::vector<float> values;
    for (std::int64_t i = 0; i < n_; ++i) {
      values.push_back(drawn[static_cast<std::size_t>(i) % drawn.size()]);
    }
    return values;
  }

  Device& device_;
  Plan plan_;
  std::int64_t n_;
  Optimizer optimizer_;
  Gradients gradients_;
  StepState state_{.learning_rate = 1e-3f};
  Buffer step_;
};

class AdamWCase final : public UpdateCase {
 public:
  using UpdateCase::UpdateCase;

  void run() override { optimizer_.apply(gradients_.data(), step_.as<StepState>()); }
  Cost cost() const override { return cost_of_update(plan_, "adamw"); }
  std::string error() const override {
    const OptimizerConfig config = recipe_of_steps();
    const reference::AdamWRecipe recipe{.decoupled = true,
                                        .beta1 = static_cast<float>(config.beta1),
                                        .beta2 = static_cast<float>(config.beta2),
                                        .eps = static_cast<float>(config.eps)};
    const ParameterRegion region{0, n_, static_cast<float>(config.weight_decay), 1.0f};
    const std::vector<float> before = initial_weights();
    const Buffer weights = optimizer_.host_weights();
    const Buffer first = optimizer_.host_first_moment(), second = optimizer_.host_second_moment();
    Comparison of_weights("weights", DType::f32), of_first("first_moment", DType::f32),
        of_second("second_moment", DType::f32);
    for (const std::int64_t i : sample(n_, kElementsChecked)) {
      const float w = before[static_cast<std::size_t>(i)];
      reference::AdamWElement<float> naive{w, 0, 0};
      reference::AdamWElement<double> exact{static_cast<double>(w), 0, 0};
      reference::adamw_step(recipe, region, state_.learning_rate, 0, gradients_[i], naive);
      reference::adamw_step(recipe, region, static_cast<double>(state_.learning_rate), 0,
                            static_cast<double>(gradients_[i]), exact);
      of_weights.add({weights.as<float>()[i]}, {naive.weight}, {exact.weight});
      of_first.add({first.as<float>()[i]}, {naive.first_moment}, {exact.first_moment});
      of_second.add({second.as<float>()[i]}, {naive.second_moment}, {exact.second_moment});
    }
    return first_error({of_weights, of_first, of_second, working_copy(weights)});
  }

 private:
  /// What the graph reads, against the master weights.
  Comparison working_copy(const Buffer& weights) const {
    const DType type = plan_.graph().working_type();
    std::vector<char> bytes(static_cast<std::size_t>(n_ * size_of(type)));
    device_.download(bytes.data(), optimizer_.weights(), bytes.size());
    const std::vector<float> copy = as_floats(bytes, type);
    Comparison comparison("working_copy", type);
    for (const std::int64_t i : sample(n_, kElementsChecked)) {
      const float w = weights.as<float>()[i];
      comparison.add({copy[static_cast<std::size_t>(i)]}, {w}, {static_cast<double>(w)});
    }
    return comparison;
  }
};

class NormCase final : public UpdateCase {
 public:
  using UpdateCase::UpdateCase;

  void run() override { optimizer_.measure_norm(gradients_.data()); }
  Cost cost() const override { return cost_of_update(plan_, "gradient_norm"); }
  std::string error() const override {
    const double expected = reference::norm(gradients_.all(n_));
    const double found = optimizer_.state().gradient_norm;
    return std::abs(found / expected - 1) < 1e-12 * std::sqrt(static_cast<double>(n_))
               ? ""
               : "gradient_norm: found " + std::to_string(found) + ", expected " +
                     std::to_string(expected);
  }
};

class SumPartsCase final : public Case {
 public:
  SumPartsCase(Device& device, const Plan& plan)
      : device_(device),
        cost_(cost_of_update(plan, "sum_parts")),
        n_(plan.parameter_elements()),
        lanes_(plan.chunking().lanes),
        parts_(device, n_ * lanes_),
        sum_(device.allocate(static_cast<std::size_t>(n_) * sizeof(float), "sum")) {}
  ~SumPartsCase() override { device_.synchronize(); }

  void run() override {
    device_.kernels().sum_parts({.out = {sum_.as<float>(), n_},
                                 .parts = {parts_.data(), n_ * lanes_},
                                 .num_parts = lanes_,
                                 .n = n_});
  }
  Cost cost() const override { return cost_; }
  std::string error() const override {
    std::vector<float> found(static_cast<std::size_t>(n_));
    device_.download(found.data(), sum_.data(), sum_.bytes());
    return found == reference::sum_parts(parts_.all(n_ * lanes_), n_) ? "" : "sum: bits differ";
  }

 private:
  Device& device_;
  Cost cost_;
  std::int64_t n_, lanes_;
  Gradients parts_;
  Buffer sum_;
};

template <typename UpdateOperation>
void add_update(const std::string& operation, const std::string& name, Precision precision) {
  const Title title{operation + "/model:" + name + "/n:" + std::to_string(numbers_of(name)),
                    precision};
  add(title, [=](Device& device) {
    return std::make_unique<UpdateOperation>(device, plan_of(name, precision, device.traits()));
  });
  add(title.with_peer("copy"), [=](Device& device) {
    return copy_case(device,
                     cost_of_update(plan_of(name, precision, device.traits()), operation).bytes);
  });
}

void add_all() {
  std::vector<std::string> names = {"mnist-tutorial", "cifar10-small", "vit_tiny_patch16_224"};
  if (on_gpu()) {
    names.insert(names.end(),
                 {"vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"});
  }
  if (quick()) names = {"mnist-tutorial"};
  for (const std::string& name : names) {
    for (const Precision precision : precisions()) {
      add_update<AdamWCase>("adamw", name, precision);
    }
    add_update<NormCase>("gradient_norm", name, Precision::fp32);
    // Several lanes are the CPU's: the chunks of a small preset.
    if (!on_gpu() && name != "vit_tiny_patch16_224") {
      add_update<SumPartsCase>("sum_parts", name, Precision::fp32);
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
