// Adam and AdamW over the flat parameter buffers, with clipping and a moving average, in one pass.
//
//   g = clip * gradient               clip = min(1, clip_norm / (norm + 1e-6))
//   w = w (1 - lr weight_decay)       AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101
//   g = g + weight_decay w            Adam:  Kingma and Ba 2015, arXiv:1412.6980
//   m = m + (1 - beta1) (g - m)       v = beta2 v + (1 - beta2) g^2
//   w = w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   ema = ema_decay ema + (1 - ema_decay) w
//
// As torch.optim computes them. A block owns a run of up to 16 tiles of 1024 elements, a thread 4
// neighbours of each tile. A thread finds its first region by binary search and walks on from
// there; 4 neighbours that no region holds together are taken one by one. One thread a block
// computes the factors of the step, in double. Frozen regions and elements in no region are not
// touched; nothing is when the gradient norm is not finite.
//
// Page of account (H200, 4.3 TB/s; expectations: not measured, not run on a GPU). An element is 16
// bytes read and 12 written, + 2 for a 16-bit working copy, + 8 for the average; some 45
// instructions would take a quarter of the time that its bytes do: memory sets the time. ViT-B,
// 86.6 M elements, bf16: 2.60 GB, 604 us; with the average 3.29 GB, 765 us. 58 registers, no
// spills: 4 blocks and 64 KB of loads in flight on a multiprocessor, where 23 KB would do.
// Expected: 90 % of the copy rate.
#include <math.h>

#include <algorithm>
#include <limits>

#include "cuda_kernels.h"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxTiles = 16;
constexpr double kClipEps = 1e-6;

/// What is the same for all regions in this step.
struct StepFactors {
  double learning_rate, inverse_bias_correction1;
  float clip, inverse_sqrt_bias_correction2, ema_decay;
};

__device__ __forceinline__ StepFactors step_factors(const AdamW& args) {
  const auto step = static_cast<double>(args.optimizer->adam_step);
  double clip = 1.0;
  if (args.clip_norm > 0.0f) {
    clip = static_cast<double>(args.clip_norm) / (args.optimizer->gradient_norm + kClipEps);
  }
  StepFactors factors;
  factors.learning_rate = static_cast<double>(args.state->learning_rate);
  factors.inverse_bias_correction1 = 1.0 / (1.0 - pow(static_cast<double>(args.beta1), step));
  factors.clip = static_cast<float>(clip < 1.0 ? clip : 1.0);
  factors.inverse_sqrt_bias_correction2 =
      static_cast<float>(1.0 / sqrt(1.0 - pow(static_cast<double>(args.beta2), step)));
  factors.ema_decay = args.state->ema_decay;
  return factors;
}

/// What a region asks for.
struct RegionFactors {
  float keep;      ///< AdamW: what weight decay leaves of a weight
  float l2_decay;  ///< Adam: weight decay added to the gradient
  float step_size;
};

/// The region that ends next, for a thread that asks for elements in ascending order.
class RegionCursor {
 public:
  /// `step` is read when `advance` enters a region.
  __device__ RegionCursor(const AdamW& args, const StepFactors* step, std::int64_t element)
      : args_(args), step_(step) {
    std::int64_t last = args.regions.size;
    while (next_ < last) {
      const std::int64_t middle = next_ + (last - next_) / 2;
      if (args.regions.data[middle].end <= element) {
        next_ = middle + 1;
      } else {
        last = middle;
      }
    }
  }

  /// Enters the first region that ends behind `element`.
  __device__ __forceinline__ void advance(std::int64_t element) {
    while (end_ <= element) enter();
  }
  /// Whether the region entered trains all elements of [begin, end).
  __device__ __forceinline__ bool trains(std::int64_t begin, std::int64_t end) const {
    return begin_ <= begin && end <= end_;
  }
  __device__ __forceinline__ const RegionFactors& factors() const { return factors_; }

 private:
  __device__ __forceinline__ void enter() {
    if (next_ == args_.regions.size) {  // nothing is left to train
      begin_ = end_ = std::numeric_limits<std::int64_t>::max();
      return;
    }
    const ParameterRegion region = args_.regions.data[next_++];
    const bool frozen = region.learning_rate_scale == 0.0f;
    begin_ = frozen ? region.end : region.begin;
    end_ = region.end < args_.weights.size ? region.end : args_.weights.size;
    const double learning_rate =
        step_->learning_rate * static_cast<double>(region.learning_rate_scale);
    const double decay = learning_rate * static_cast<double>(region.weight_decay);
    factors_.keep = args_.decoupled ? static_cast<float>(1.0 - decay) : 1.0f;
    factors_.l2_decay = args_.decoupled ? 0.0f : region.weight_decay;
    factors_.step_size = static_cast<float>(learning_rate * step_->inverse_bias_correction1);
  }

  const AdamW& args_;
  const StepFactors* step_;
  std::int64_t next_ = 0, begin_ = 0, end_ = 0;
  RegionFactors factors_{};
};

/// Elements i … i + kCount - 1, all of one region. fmaf is spelt out: the bits are the same for
/// any kCount.
template <typename T, int kCount>
__device__ __forceinline__ void update(const AdamW& args, const StepFactors& step,
                                       const RegionFactors& region, std::int64_t i) {
  float w[kCount], m[kCount], v[kCount], g[kCount];
  load(w, args.weights.data + i);
  load(m, args.first_moment.data + i);
  load(v, args.second_moment.data + i);
  load(g, args.gradients.data + i);
  float ema[kCount] = {};
  if (args.ema.data != nullptr) load(ema, args.ema.data + i);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    g[j] = fmaf(region.l2_decay, w[j], step.clip * g[j]);
    w[j] *= region.keep;
    m[j] = fmaf(1.0f - args.beta1, g[j] - m[j], m[j]);
    v[j] = fmaf(1.0f - args.beta2, g[j] * g[j], args.beta2 * v[j]);
    const float denominator = fmaf(sqrtf(v[j]), step.inverse_sqrt_bias_correction2, args.eps);
    w[j] = fmaf(-region.step_size, m[j] / denominator, w[j]);
  }
  store(args.weights.data + i, w);
  store(args.first_moment.data + i, m);
  store(args.second_moment.data + i, v);
  if (args.working_copy.data != nullptr) store(elements<T>(args.working_copy) + i, w);
  if (args.ema.data == nullptr) return;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    ema[j] = fmaf(1.0f - step.ema_decay, w[j], step.ema_decay * ema[j]);
  }
  store(args.ema.data + i, ema);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamW args, std::int64_t tiles) {
  SHARED_ARRAY(StepFactors, step, [1]);
  if (!isfinite(args.optimizer->gradient_norm) || args.optimizer->adam_step < 1) return;
  constexpr std::int64_t kTile = kThreads * kVector;
  const std::int64_t n = args.weights.size;
  std::int64_t i = blockIdx.x * tiles * kTile + threadIdx.x * kVector;
  const std::int64_t end = i + tiles * kTile < n ? i + tiles * kTile : n;
  if (threadIdx.x == 0) step[0] = step_factors(args);
  RegionCursor region(args, &step[0], i);
  __syncthreads();

  for (; i < end; i += kTile) {
    region.advance(i);
    if (region.trains(i, i + kVector)) {
      update<T, kVector>(args, step[0], region.factors(), i);
    } else if (kVector > 1) {
      for (std::int64_t j = i; j < i + kVector; ++j) {
        region.advance(j);
        if (region.trains(j, j + 1)) update<T, 1>(args, step[0], region.factors(), j);
      }
    }
  }
}

}  // namespace

void CudaKernels::adamw(const AdamW& args) {
  constexpr const char* kOperation = "adamw";
  check_arguments(args);
  const bool wide =
      vectorizable<float>(0, args.weights.data, args.first_moment.data, args.second_moment.data,
                          args.ema.data, args.working_copy.data, args.gradients.data);
  for_float_type(kOperation, args.working_copy.dtype, [&]<typename T>() {
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<float> : 1;
      const std::int64_t all_tiles = ceil_div(args.weights.size, kThreads * kVector);
      const std::int64_t tiles =
          std::clamp<std::int64_t>(all_tiles / std::max(limits_.multiprocessors, 1), 1, kMaxTiles);
      launch(kOperation, stream_, dim3(static_cast<unsigned>(ceil_div(all_tiles, tiles))), kThreads,
             0, adamw_kernel<T, kVector>, args, tiles);
    });
  });
}

}  // namespace vitrine::cuda
