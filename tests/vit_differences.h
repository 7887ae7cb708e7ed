// The network's gradients by central differences.
//
//   dL(w + t·v)/dt = <gradient, v>,  left side by (8 (L(h) − L(−h)) − (L(2h) − L(−2h))) / 12h
//
// v is random signs over one tensor, over all of them, or over the images. The loss is that of the
// device, summed in double; the tolerance is a part of ‖gradient‖, the size of such a derivative.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "vit_cases.h"

namespace vitrine {

class Differences {
 public:
  Differences(Device& device, const VitCase& c, const VitConfig& config, std::uint64_t seed)
      : vit_(device, config,
             {.mean = std::vector<float>(static_cast<std::size_t>(config.num_channels), 0.3f),
              .std = std::vector<float>(static_cast<std::size_t>(config.num_channels), 0.7f),
              .loss = c.loss,
              .label_smoothing = c.label_smoothing,
              .label_mixes = c.label_mixes,
              .image_gradient = true},
             c.chunking, kBatch),
        batch_(config, kBatch, c.chunking.rows * c.chunking.count, seed),
        weights_(random_weights(vit_.plan(), seed)),
        seed_(seed),
        signs_(seed, 300),
        step_(config.hidden_act == ActivationKind::relu ? 2e-4 : 1e-3) {}

  void check() {
    loss(weights_, batch_);
    gradients_ = vit_.gradients();
    const std::vector<float> image_gradient = stored_image_gradient();
    const auto& parameters = vit_.plan().graph().parameters();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      const std::int64_t offset = vit_.plan().parameter_offset(static_cast<int>(p));
      check_range(parameters[p].name, offset, parameters[p].shape.elements());
    }
    check_range("all weights", 0, vit_.plan().parameter_elements());
    check_images(image_gradient);
  }

 private:
  double loss(const std::vector<float>& weights, const Batch& batch) {
    vit_.executor().reset_metrics();
    vit_.run(weights, batch, {.seed = seed_, .step = 1, .loss_scale = 1.0f / kBatch}, kBatch);
    return vit_.executor().metrics().batch_loss;
  }

  double sign() { return signs_.below(2) ? 1.0 : -1.0; }

  // Rows of the batch read the stored images in reverse order.
  std::vector<float> stored_image_gradient() const {
    const std::vector<float> rows = vit_.output("images.grad");
    std::vector<float> stored(batch_.images.size());
    const std::int64_t image = static_cast<std::int64_t>(stored.size()) / kBatch;
    for (std::int64_t i = 0; i < kBatch; ++i) {
      std::copy_n(rows.begin() + i * image, image, stored.begin() + (kBatch - 1 - i) * image);
    }
    return stored;
  }

  void check_range(const std::string& name, std::int64_t offset, std::int64_t n) {
    std::vector<double> direction(weights_.size(), 0.0);
    for (std::int64_t i = offset; i < offset + n; ++i) direction[i] = sign();
    auto at = [&](double t) {
      std::vector<float> moved = weights_;
      for (std::int64_t i = offset; i < offset + n; ++i) {
        moved[i] = static_cast<float>(moved[i] + t * direction[i]);
      }
      return loss(moved, batch_);
    };
    compare(name, at, gradients_, direction);
  }

  void check_images(const std::vector<float>& gradient) {
    std::vector<double> direction(batch_.images.size());
    for (double& d : direction) d = sign();
    auto at = [&](double t) {
      Batch moved = batch_;
      for (std::size_t i = 0; i < direction.size(); ++i) {
        moved.images[i] = static_cast<float>(moved.images[i] + t * direction[i]);
      }
      return loss(weights_, moved);
    };
    compare("images", at, gradient, direction);
  }

  void compare(const std::string& name, const std::function<double(double)>& at,
               const std::vector<float>& gradient, const std::vector<double>& direction) {
    double expected = 0, squares = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      expected += gradient[i] * direction[i];
      squares += direction[i] == 0 ? 0 : static_cast<double>(gradient[i]) * gradient[i];
    }
    const double h = step_;
    const double found = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    const double rounding = 2e-7 / h;  // of a loss near 2
    EXPECT_NEAR(found, expected, 5e-3 * std::sqrt(squares) + rounding) << name;
    EXPECT_GT(squares, 0.0) << name;
  }

  VitRun vit_;
  Batch batch_;
  std::vector<float> weights_, gradients_;
  std::uint64_t seed_;
  RandomStream signs_;
  double step_;
};

}  // namespace vitrine
