// A whole network on a device with random weights and images, for tests of the graph, its passes,
// the executor and the devices.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "reference_check.h"
#include "vitrine/device.h"
#include "vitrine/executor.h"
#include "vitrine/optimizer.h"
#include "vitrine/plan.h"
#include "vitrine/vit.h"

namespace vitrine {

/// A small network of odd sizes; tests change what they are about.
inline VitConfig small_vit() {
  VitConfig c{.image_height = 8,
              .image_width = 12,
              .patch_size = 4,
              .num_channels = 3,
              .hidden_size = 12,
              .num_hidden_layers = 2,
              .num_attention_heads = 2,
              .intermediate_size = 20,
              .num_classes = 7};
  c.layer_norm_eps = 1e-5;
  return c;
}

/// Dropout at every place, drop-path too.
inline void drop_everywhere(VitConfig& c) {
  c.hidden_dropout_prob = 0.2;
  c.attention_probs_dropout_prob = 0.15;
  c.activation_dropout_prob = 0.25;
  c.embedding_dropout_prob = 0.1;
  c.drop_path_rate = 0.4;
}

/// What the network reads: f32 images, where each row of the batch comes from, labels, and how they
/// are mixed, for networks that read it.
struct Batch {
  std::vector<float> images;
  std::vector<BatchRow> rows;
  std::vector<std::int32_t> labels;
  std::vector<LabelMix> mixes;

  Batch(const VitConfig& c, std::int64_t valid, std::int64_t padded, std::uint64_t seed)
      : images(random_normal(valid * c.num_channels * c.image_height * c.image_width, seed, 100)),
        rows(static_cast<std::size_t>(padded)),
        labels(static_cast<std::size_t>(padded), -1),
        mixes(static_cast<std::size_t>(padded)) {
    RandomStream random(seed, 101), mixing(seed, 102);
    for (std::int64_t i = 0; i < valid; ++i) {
      // The stored images are used in reverse order.
      rows[i] = {.image = valid - 1 - i,
                 .crop_width = static_cast<float>(c.image_width),
                 .crop_height = static_cast<float>(c.image_height)};
      labels[i] = static_cast<std::int32_t>(random.below(c.num_classes));
      mixes[i] = {.other = static_cast<std::int32_t>(mixing.below(c.num_classes)),
                  .weight = static_cast<float>(mixing.uniform(0.0, 1.0))};
    }
  }

  /// Rows [first, first + count) of the same images, and empty rows up to `padded`.
  Batch part(std::int64_t first, std::int64_t count, std::int64_t padded) const {
    Batch piece = *this;
    piece.rows.assign(rows.begin() + first, rows.begin() + first + count);
    piece.labels.assign(labels.begin() + first, labels.begin() + first + count);
    piece.mixes.assign(mixes.begin() + first, mixes.begin() + first + count);
    piece.rows.resize(static_cast<std::size_t>(padded));
    piece.mixes.resize(static_cast<std::size_t>(padded));
    piece.labels.resize(static_cast<std::size_t>(padded), -1);
    return piece;
  }
};

/// Random weights for a plan: scales of norms around 1, the rest N(0, 0.3); padding stays zero.
inline std::vector<float> random_weights(const Plan& plan, std::uint64_t seed) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
    const Parameter& parameter = plan.graph().parameters()[p];
    const bool scale = parameter.name.find("norm") != std::string::npos &&
                       parameter.name.find("weight") != std::string::npos;
    const auto numbers = random_normal(parameter.shape.elements(), seed, 200 + p);
    float* out = flat.data() + plan.parameter_offset(static_cast<int>(p));
    for (std::size_t i = 0; i < numbers.size(); ++i) out[i] = 0.3f * numbers[i] + (scale ? 1 : 0);
  }
  return flat;
}

/// A plan with its executor.
class VitRun {
 public:
  VitRun(Device& device, const VitConfig& config, VitOptions options, const Chunking& chunking,
         std::int64_t stored_images)
      : device_(device),
        plan_(complete(config, options, chunking, stored_images), device.traits(), chunking),
        executor_(device, plan_) {}

  void run(const std::vector<float>& weights, const Batch& batch, const StepState& state,
           std::int64_t valid_rows, bool accumulate = false) {
    std::ranges::copy(batch.rows, executor_.row_input<BatchRow>("rows").begin());
    std::ranges::copy(batch.labels, executor_.row_input<std::int32_t>("labels").begin());
    if (executor_.has_row_input("mixes")) {
      std::ranges::copy(batch.mixes, executor_.row_input<LabelMix>("mixes").begin());
    }
    executor_.set_state(state);
    const Buffer weights_there = share_weights(device_, plan_, weights);
    const Buffer images =
        device_.share(batch.images.data(), batch.images.size() * sizeof(float), "images");
    executor_.run({.weights = weights_there.data(),
                   .inputs = {images.data()},
                   .valid_rows = valid_rows,
                   .accumulate = accumulate});
    device_.synchronize();
  }

  /// All lanes' gradients added up.
  std::vector<float> gradients() {
    executor_.sum_gradients();
    std::vector<float> sum(static_cast<std::size_t>(plan_.parameter_elements()));
    device_.download(sum.data(), executor_.gradients(), sum.size() * sizeof(float));
    return sum;
  }
  std::vector<float> output(const std::string& name) const {
    return executor_.output(plan_.graph().find(name));
  }

  const Plan& plan() const { return plan_; }
  Executor& executor() { return executor_; }

 private:
  static Graph complete(const VitConfig& config, VitOptions options, const Chunking& chunking,
                        std::int64_t stored_images) {
    options.rows = chunking.rows;
    options.images = DType::f32;
    options.stored_images = stored_images;
    Graph graph = build_vit(config, options);
    return graph;
  }

  Device& device_;
  Plan plan_;
  Executor executor_;
};

inline double norm_of(const float* values, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]) * values[i];
  return std::sqrt(sum);
}

/// Expects ‖a − b‖ ≤ epsilons · 2⁻²³ · ‖b‖.
inline void expect_near_norm(const float* a, const float* b, std::int64_t n, double epsilons,
                             const std::string& what) {
  std::vector<float> difference(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) difference[i] = a[i] - b[i];
  const double norm = norm_of(b, n);
  EXPECT_GT(norm, 0.0) << what;
  EXPECT_LE(norm_of(difference.data(), n),
            epsilons * static_cast<double>(std::numeric_limits<float>::epsilon()) * norm)
      << what;
}

inline void expect_near_norm(const std::vector<float>& a, const std::vector<float>& b,
                             double epsilons, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  expect_near_norm(a.data(), b.data(), static_cast<std::int64_t>(a.size()), epsilons, what);
}

/// Gradients tensor by tensor.
inline void expect_gradients_near(const Plan& plan, const std::vector<float>& a,
                                  const std::vector<float>& b, double epsilons) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
    const Parameter& parameter = plan.graph().parameters()[p];
    const std::int64_t offset = plan.parameter_offset(static_cast<int>(p));
    if (parameter.name.ends_with(".k_norm.bias")) {
      // What all keys share leaves a softmax as it is: the gradient is 0 but for rounding.
      const std::int64_t weight = plan.parameter_offset(static_cast<int>(p) - 1);
      for (const std::vector<float>* gradient : {&a, &b}) {
        EXPECT_LE(norm_of(gradient->data() + offset, parameter.shape.elements()),
                  epsilons * static_cast<double>(std::numeric_limits<float>::epsilon()) *
                      norm_of(b.data() + weight, parameter.shape.elements()))
            << parameter.name;
      }
      continue;
    }
    expect_near_norm(a.data() + offset, b.data() + offset, parameter.shape.elements(), epsilons,
                     parameter.name);
  }
}

}  // namespace vitrine
