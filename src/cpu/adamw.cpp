// Adam and AdamW over the flat parameter buffers, with clipping and a moving average, in one pass.
//
//   g = clip * gradient               clip = min(1, clip_norm / (norm + 1e-6))
//   w = w (1 - lr weight_decay)       AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101
//   g = g + weight_decay w            Adam:  Kingma and Ba 2015, arXiv:1412.6980
//   m = m + (1 - beta1) (g - m)       v = beta2 v + (1 - beta2) g^2
//   w = w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   ema = ema_decay ema + (1 - ema_decay) w
//
// As torch.optim computes them. Elements are independent: each thread takes runs of 16,384 and
// intersects them with the regions. Frozen regions and elements between regions are not touched.
#include <algorithm>
#include <cmath>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#ifndef VITRINE_CPU_ADAMW_RUN
#define VITRINE_CPU_ADAMW_RUN
namespace vitrine::cpu {

// One run of elements of one region, and the factors of this step.
struct AdamWRun {
  float *weights, *first_moment, *second_moment, *ema, *working_copy;  // the last two may be null
  const float* gradients;
  std::int64_t begin, end;
  float clip;
  float keep;      // AdamW: what weight decay leaves of a weight
  float l2_decay;  // Adam: weight decay added to the gradient
  float first_rate, beta2, second_rate;
  float step_size, inverse_sqrt_bias_correction2, eps;
  float ema_decay, ema_rate;
};

}  // namespace vitrine::cpu
#endif  // VITRINE_CPU_ADAMW_RUN

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/adamw.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE void adamw_at(D d, const AdamWRun& run, std::int64_t i) {
  const auto set = [d](float value) HWY_ATTR { return hn::Set(d, value); };
  auto w = hn::LoadU(d, run.weights + i);
  auto m = hn::LoadU(d, run.first_moment + i);
  auto v = hn::LoadU(d, run.second_moment + i);
  auto g = hn::Mul(hn::LoadU(d, run.gradients + i), set(run.clip));
  g = hn::MulAdd(w, set(run.l2_decay), g);
  w = hn::Mul(w, set(run.keep));
  m = hn::MulAdd(hn::Sub(g, m), set(run.first_rate), m);
  v = hn::MulAdd(hn::Mul(g, g), set(run.second_rate), hn::Mul(v, set(run.beta2)));
  const auto denominator =
      hn::MulAdd(hn::Sqrt(v), set(run.inverse_sqrt_bias_correction2), set(run.eps));
  w = hn::NegMulAdd(hn::Div(m, denominator), set(run.step_size), w);
  hn::StoreU(w, d, run.weights + i);
  hn::StoreU(m, d, run.first_moment + i);
  hn::StoreU(v, d, run.second_moment + i);
  if (run.ema != nullptr) {
    const auto ema = hn::Mul(hn::LoadU(d, run.ema + i), set(run.ema_decay));
    hn::StoreU(hn::MulAdd(w, set(run.ema_rate), ema), d, run.ema + i);
  }
  if (run.working_copy != nullptr) hn::StoreU(w, d, run.working_copy + i);
}

// The tail goes through one-lane vectors: the same operations, so bits do not depend on the cut.
void adamw_run(const AdamWRun& run) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t lanes = hn::Lanes(d);
  std::int64_t i = run.begin;
  for (; i + lanes <= run.end; i += lanes) adamw_at(d, run, i);
  for (; i < run.end; ++i) adamw_at(one, run, i);
}

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(adamw_run);

namespace {

constexpr const char* kOperation = "adamw";
constexpr std::int64_t kGrain = 16384;
constexpr double kClipEps = 1e-6;

void check_regions(const AdamW& args, std::int64_t n) {
  std::int64_t previous_end = 0;
  for (std::int64_t i = 0; i < args.regions.size; ++i) {
    const ParameterRegion& region = args.regions[i];
    VITRINE_CHECK(region.begin >= previous_end && region.begin <= region.end && region.end <= n,
                  kOperation,
                  "regions[" + std::to_string(i) + "] is [" + std::to_string(region.begin) + ", " +
                      std::to_string(region.end) + "), expected a run inside [" +
                      std::to_string(previous_end) + ", " + std::to_string(n) + ")");
    previous_end = region.end;
  }
}

// What check_arguments leaves: states and regions lie in this device's memory.
void check_memory(const AdamW& args) {
  VITRINE_CHECK(args.optimizer->adam_step > 0 || !std::isfinite(args.optimizer->gradient_norm),
                kOperation,
                "optimizer->adam_step is " + std::to_string(args.optimizer->adam_step) +
                    ", expected at least 1: gradient_norm comes first");
  check_regions(args, args.weights.size);
}

// What is the same for all regions.
AdamWRun common_factors(const AdamW& args) {
  const auto step = static_cast<double>(args.optimizer->adam_step);
  const auto beta1 = static_cast<double>(args.beta1);
  const auto beta2 = static_cast<double>(args.beta2);
  AdamWRun run{};
  run.weights = args.weights.data;
  run.first_moment = args.first_moment.data;
  run.second_moment = args.second_moment.data;
  run.ema = args.ema.data;
  run.working_copy = args.working_copy.f32().data;
  run.gradients = args.gradients.data;
  run.clip = 1.0f;
  if (args.clip_norm > 0.0f) {
    const double ratio =
        static_cast<double>(args.clip_norm) / (args.optimizer->gradient_norm + kClipEps);
    run.clip = static_cast<float>(std::min(1.0, ratio));
  }
  run.first_rate = static_cast<float>(1.0 - beta1);
  run.beta2 = args.beta2;
  run.second_rate = static_cast<float>(1.0 - beta2);
  run.inverse_sqrt_bias_correction2 =
      static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, step)));
  run.eps = args.eps;
  run.ema_decay = args.state->ema_decay;
  run.ema_rate = 1.0f - args.state->ema_decay;
  return run;
}

void update_region(const AdamW& args, const ParameterRegion& region, AdamWRun run) {
  const double learning_rate = static_cast<double>(args.state->learning_rate) *
                               static_cast<double>(region.learning_rate_scale);
  const auto weight_decay = static_cast<double>(region.weight_decay);
  const double bias_correction1 = 1.0 - std::pow(static_cast<double>(args.beta1),
                                                 static_cast<double>(args.optimizer->adam_step));
  run.keep = args.decoupled ? static_cast<float>(1.0 - learning_rate * weight_decay) : 1.0f;
  run.l2_decay = args.decoupled ? 0.0f : region.weight_decay;
  run.step_size = static_cast<float>(learning_rate / bias_correction1);
  HWY_DYNAMIC_DISPATCH(adamw_run)(run);
}

}  // namespace

void CpuKernels::adamw(const AdamW& args) {
  check_arguments(args);
  check_memory(args);
  if (!std::isfinite(args.optimizer->gradient_norm)) return;
  const AdamWRun common = common_factors(args);
  const ParameterRegion* first = args.regions.data;
  const ParameterRegion* last = first + args.regions.size;
  pool_.for_ranges(args.weights.size, kGrain, [&](std::int64_t begin, std::int64_t end) {
    const auto ends_before = [](const ParameterRegion& region, std::int64_t element) {
      return region.end <= element;
    };
    const ParameterRegion* region = std::lower_bound(first, last, begin, ends_before);
    for (; region != last && region->begin < end; ++region) {
      if (region->learning_rate_scale == 0.0f) continue;
      AdamWRun run = common;
      run.begin = std::max(begin, region->begin);
      run.end = std::min(end, region->end);
      update_region(args, *region, run);
    }
  });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
