// Weights, moments and their update; learning-rate schedules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/plan.h"

namespace vitrine {

enum class OptimizerKind : std::uint8_t { adam, adamw };
enum class ScheduleKind : std::uint8_t { constant, cosine };

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  double weight_decay = 0.05;
  bool decay_all = false;  ///< also biases, norms, class token and positions
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double clip_norm = 0.0;    ///< 0: no clipping
  double layer_decay = 1.0;  ///< see layer_depth
  double ema_decay = 0.0;    ///< of the moving average of the weights; 0: none
  bool ema_warmup = false;   ///< see ema_decay_at
};

/// The decay of the moving average in step `step` (from 0), as timm's ModelEmaV3 has it: 0 in step
/// 0, then ema_decay; with a warm-up min(ema_decay, 1 − (1 + step)^(−2/3)).
double ema_decay_at(const OptimizerConfig& config, std::int64_t step);

/// Linear warm-up from `warmup_lr`, then constant or half a cosine down to `min_lr`
/// (Loshchilov and Hutter 2017, arXiv:1608.03983).
struct Schedule {
  ScheduleKind kind = ScheduleKind::cosine;
  double lr = 1e-3, min_lr = 0.0, warmup_lr = 1e-6;
  std::int64_t warmup_steps = 0, total_steps = 1;
  double at(std::int64_t step) const;
};

/// Whether timm would decay this parameter: no for biases, norms, class token and positions.
bool decays_by_default(const Parameter& parameter);

/// Where timm's layer-wise learning-rate decay (Clark et al. 2020, arXiv:2003.10555; as in BEiT,
/// arXiv:2106.08254) puts a parameter of a model with `blocks` blocks: 0 the embedding, i + 1 block
/// i, blocks + 1 the head and a norm behind the pooling (fc_norm); the final norm goes with the
/// last block. The learning rate is multiplied by layer_decay^(blocks + 1 − depth).
std::int64_t layer_depth(const std::string& parameter, std::int64_t blocks);

/// Flat weights on a device in the working type of the plan's graph, for evaluation alone.
/// `numbers` must outlive the buffer.
Buffer share_weights(Device& device, const Plan& plan, const std::vector<float>& numbers);

/// The flat buffers of one model on a device.
class Optimizer {
 public:
  Optimizer(Device& device, const Plan& plan, const OptimizerConfig& config);

  /// What the graph reads: the weights in its working type.
  const void* weights() const { return working_.bytes() > 0 ? working_.data() : weights_.data(); }
  /// Norm of the gradients, clipping, update; skips the step when the norm is not finite.
  void update(const float* gradients, const StepState* state) {
    measure_norm(gradients);
    apply(gradients, state);
  }
  /// The two halves of `update`.
  void measure_norm(const float* gradients);
  void apply(const float* gradients, const StepState* state);
  OptimizerState state() const;
  /// The same as of now, for later.
  std::unique_ptr<Readback> read_state() const {
    return device_.read_back(state_.data(), state_.bytes());
  }

  // Whole flat buffers in host memory, for files: master weights and moments, f32.
  Buffer host_weights() const { return device_.to_host(weights_); }
  Buffer host_first_moment() const { return device_.to_host(first_moment_); }
  Buffer host_second_moment() const { return device_.to_host(second_moment_); }
  /// Whether the weights are averaged; the average starts as a copy of the weights.
  bool has_ema() const { return ema_.bytes() > 0; }
  /// What the graph reads to evaluate the average, as of now; the same memory at every call.
  const void* average();
  /// The average, f32; empty without one.
  Buffer host_ema() const { return has_ema() ? device_.to_host(ema_) : Buffer(); }
  /// The weights, and the average as a copy of them.
  void upload_weights(const std::vector<float>& numbers);
  /// The average of a run that goes on, after its weights.
  void upload_ema(const std::vector<float>& numbers);
  void upload_moments(const std::vector<float>& first, const std::vector<float>& second,
                      const OptimizerState& state);

 private:
  Device& device_;
  OptimizerConfig config_;
  std::int64_t elements_;
  DType working_type_;
  std::int64_t num_regions_ = 0;
  Buffer weights_, working_, first_moment_, second_moment_, ema_, average_, regions_, state_;
};

}  // namespace vitrine
