// Cross-entropy, softmax or binary: loss, accuracy and the gradient of the logits in one kernel.
//
//   softmax   loss = sum_k t_k (log_sum_exp(z) - z_k),   dz = softmax(z) sum_k t_k - t
//   binary    loss = mean_k [t_k softplus(-z_k) + (1 - t_k) softplus(z_k)]
//             dz = (sigmoid(z) - t) / K,   softplus(z) = max(z, 0) + log(1 + e^-|z|)
//             with `sum_classes` the sum over k in the mean's place, without the 1 / K
//   t = (1 - s) (w onehot(label) + (1 - w) onehot(other)) + s / K
//
// Smoothing s: Szegedy et al. 2016, arXiv:1512.00567; the mix w as timm's mixup_target; the binary
// loss and its threshold: Wightman et al. 2021, arXiv:2110.00476.
//
// z are the logits; with `head_softmax` z = p = softmax(logits) and dlogits = p (dz - sum_k p_k
// dz_k). Of equal logits the lower class is ahead. The labels lie in device memory, where no
// launcher looks: one outside [0, K) is a row without a label, like -1, a mix with one outside is
// none. dlogits is written (=).
//
// One warp owns a row of up to 1024 classes, one block of eight warps a longer one; blocks take
// rows in a fixed order. A row is read three times (five with `head_softmax`, twice for the binary
// loss), all but the first from L1 (21,841 classes of bf16 are 44 KB), so nothing limits K. Metrics
// are added to (+=): each block sums its rows in double, the last block adds the blocks' sums
// (primitives/last_block.cuh) in a fixed order.
//
// Account, 8192 rows of 1000 bf16 logits: 16 MB read, 16 MB written, 8 µs at a copy rate of
// 4.3 TB/s; but two exponentials and some 40 instructions an element are 11 µs of issue slots. 64
// registers, so 4 blocks of 256 threads a multiprocessor; no spills.
// Expected (not measured; not run on a GPU): 15 µs there, half the copy rate. At the sizes of
// training (256 rows, 1 MB) the launch and four dependent trips to memory are the cost: 4 µs.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda_kernels.h"
#include "primitives/last_block.cuh"
#include "primitives/ptx.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kClassesPerWarp = 1024;

/// What rows add to the metrics.
struct Counts {
  double loss = 0.0, samples = 0.0, top1 = 0.0, top5 = 0.0;

  __device__ void operator+=(const Counts& other) {
    loss += other.loss;
    samples += other.samples;
    top1 += other.top1;
    top5 += other.top5;
  }
};

/// e^x to 2^-22 for the x <= 0 of a softmax; results below 2^-126 are zero.
__device__ __forceinline__ float exp_of(float x) {
  return ptx::exp2_approx(x * kLog2E);
}

/// The targets of one row.
template <LossKind kKind>
class Target {
 public:
  __device__ Target(const CrossEntropy& args, std::int64_t row, std::int32_t label)
      : soft_(args.targets.data == nullptr ? nullptr : args.targets.data + row * args.classes),
        label_(label),
        threshold_(args.target_threshold) {
    LabelMix mix;
    if (args.mixes.data != nullptr) mix = args.mixes.data[row];
    const bool mixed = mix.other >= 0 && mix.other < args.classes && mix.other != label;
    const float weight = mixed ? mix.weight : 1.0f;
    if (mixed) other_ = mix.other;
    const float rest = args.label_smoothing / static_cast<float>(args.classes);
    rest_ = decided(rest);
    on_label_ = decided(weight * (1.0f - args.label_smoothing) + rest);
    on_other_ = decided((1.0f - weight) * (1.0f - args.label_smoothing) + rest);
    dominant_ = weight < 0.5f ? other_ : label;
  }

  __device__ bool is_soft() const { return soft_ != nullptr; }
  /// The label of larger weight.
  __device__ std::int32_t dominant() const { return dominant_; }
  /// The targets of classes [first, first + kVector).
  template <int kVector>
  __device__ __forceinline__ void load_at(std::int64_t first, float (&t)[kVector]) const {
    if (is_soft()) {
      load(t, soft_ + first);
#pragma unroll
      for (float& value : t) value = decided(value);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        t[i] = first + i == label_ ? on_label_ : first + i == other_ ? on_other_ : rest_;
      }
    }
  }

 private:
  __device__ __forceinline__ float decided(float t) const {
    if (kKind == LossKind::softmax || threshold_ < 0.0f) return t;
    return t > threshold_ ? 1.0f : 0.0f;
  }

  const float* soft_;
  std::int32_t label_, other_ = -1, dominant_;
  float threshold_, rest_, on_label_, on_other_;
};

/// softmax(z)_k = exp(z_k - maximum) · scale, and what else one pass over a row finds.
struct Softmax {
  float maximum = 0.0f, scale = 0.0f;
  float loss = 0.0f;
  float target_sum = 1.0f;
  int ahead = 0;  ///< classes ahead of the label

  __device__ __forceinline__ float operator()(float z) const { return exp_of(z - maximum) * scale; }
};

/// A row of logits and the kRowThreads threads that own it. All of them call every method.
template <typename T, int kVector, int kRowThreads, LossKind kKind>
class Row {
 public:
  __device__ Row(const CrossEntropy& args, std::int64_t row, double* shared)
      : args_(args),
        row_(row),
        shared_(shared),
        logits_(elements<T>(args.logits) + row * args.classes),
        label_(args.labels.data[row]),
        valid_(label_ >= 0 && label_ < args.classes),
        target_(args, row, label_),
        dominant_logit_(valid_ ? to_float(logits_[target_.dominant()]) : 0.0f) {}

  /// Writes the row's outputs; returns its part of the metrics in every thread.
  __device__ Counts operator()() const {
    if (args_.probabilities.data == nullptr) {
      if (!valid_) return without_label();
      if constexpr (kIsBinary) return binary_counts();
    }
    const Softmax head = softmax(row_maximum(), [](float z) { return z; });
    if (args_.probabilities.data != nullptr) write_probabilities(head);
    if (!valid_) return without_label();
    if constexpr (kIsBinary) return binary_counts();
    // The largest probability is that of the largest logit: exp(0) · scale.
    const Softmax last = args_.head_softmax ? softmax(head.scale, head) : head;
    if (args_.dlogits.data != nullptr) write_gradient(head, last);
    return counts(last.loss, last.ahead);
  }

 private:
  static constexpr bool kIsBinary = kKind == LossKind::bce;

  template <typename V>
  __device__ __forceinline__ V total(V value) const {
    return block_reduce<kRowThreads>(value, reinterpret_cast<V*>(shared_), Sum{});
  }
  __device__ static bool is_first_thread() { return threadIdx.x % kRowThreads == 0; }

  /// Whether class k is ahead of the label that counts; of equal logits the lower class is.
  __device__ __forceinline__ int is_ahead(std::int64_t k, float z) const {
    return k < target_.dominant() ? z >= dominant_logit_ : z > dominant_logit_;
  }

  /// Of a row with a label; writes its loss.
  __device__ Counts counts(float loss, int ahead) const {
    if (args_.loss.data != nullptr && is_first_thread()) args_.loss.data[row_] = loss;
    if (std::isnan(loss)) ahead = std::numeric_limits<int>::max();
    return {static_cast<double>(loss), 1.0, ahead < 1 ? 1.0 : 0.0, ahead < 5 ? 1.0 : 0.0};
  }

  /// The binary loss of a row with a label, and its gradient.
  __device__ Counts binary_counts() const {
    const float share = args_.sum_classes ? 1.0f : 1.0f / static_cast<float>(args_.classes);
    float cost = 0.0f;
    int ahead = 0;
    each([&](std::int64_t k, const float(&z)[kVector]) {
      float t[kVector];
      target_.load_at(k, t);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        cost += log1pf(exp_of(-fabsf(z[i])));
        // An infinite logit costs nothing where it is right.
        if (z[i] < 0.0f && t[i] != 0.0f) cost -= t[i] * z[i];
        if (z[i] > 0.0f && t[i] != 1.0f) cost += (1.0f - t[i]) * z[i];
        ahead += is_ahead(k + i, z[i]);
      }
    });
    cost = total(cost);
    ahead = total(ahead);
    if (args_.dlogits.data != nullptr) {
      write_gradient(args_.state->loss_scale * share, [](float z, float t) {
        const float e = exp_of(-fabsf(z));
        const float tail = e / (1.0f + e);  // sigmoid(-|z|)
        return z > 0.0f ? (1.0f - t) - tail : tail - t;
      });
    }
    return counts(cost * share, ahead);
  }

  /// Calls `visit(k, z)` with the logits [k, k + kVector) of each piece that is this thread's.
  template <typename Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    const std::int64_t thread = threadIdx.x % kRowThreads;
    [[maybe_unused]] constexpr int kUnroll = kVector == 1 ? 4 : 1;
#pragma unroll kUnroll
    for (std::int64_t k = thread * kVector; k < args_.classes; k += kRowThreads * kVector) {
      float z[kVector];
      load(z, logits_ + k);
      visit(k, z);
    }
  }

  __device__ float row_maximum() const {
    float maximum = -std::numeric_limits<float>::infinity();
    each([&](std::int64_t, const float(&z)[kVector]) {
#pragma unroll
      for (const float value : z) maximum = fmaxf(maximum, value);
    });
    return block_reduce<kRowThreads>(maximum, reinterpret_cast<float*>(shared_), Max{});
  }

  /// The softmax of value_of(logits), whose largest element is `maximum`, and its loss.
  template <typename ValueOf>
  __device__ Softmax softmax(float maximum, const ValueOf& value_of) const {
    float sum = 0.0f, cost = 0.0f, target_sum = 0.0f;
    int ahead = 0;
    each([&](std::int64_t k, const float(&z)[kVector]) {
      float t[kVector];
      target_.load_at(k, t);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float value = value_of(z[i]);
        sum += exp_of(value - maximum);
        target_sum += t[i];
        if (t[i] != 0.0f) cost += t[i] * (maximum - value);  // where not, -infinity costs nothing
        ahead += is_ahead(k + i, z[i]);
      }
    });
    sum = total(sum);
    target_sum = target_.is_soft() ? total(target_sum) : 1.0f;
    return {maximum, 1.0f / sum, total(cost) + target_sum * logf(sum), target_sum, total(ahead)};
  }

  __device__ void write_probabilities(const Softmax& head) const {
    float* out = args_.probabilities.data + row_ * args_.classes;
    each([&](std::int64_t k, float(&z)[kVector]) {
#pragma unroll
      for (float& value : z) value = head(value);
      store(out + k, z);
    });
  }

  /// No loss, no gradient, no count.
  __device__ Counts without_label() const {
    if (args_.loss.data != nullptr && is_first_thread()) args_.loss.data[row_] = 0.0f;
    if (args_.dlogits.data != nullptr) write_gradient(0.0f, [](float, float) { return 0.0f; });
    return {};
  }

  __device__ void write_gradient(const Softmax& head, const Softmax& last) const {
    if (!args_.head_softmax) {
      write_gradient(args_.state->loss_scale,
                     [&](float z, float t) { return head(z) * head.target_sum - t; });
      return;
    }
    float mean = 0.0f;
    each([&](std::int64_t k, const float(&z)[kVector]) {
      float t[kVector];
      target_.load_at(k, t);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float p = head(z[i]);
        mean += p * (last(p) * last.target_sum - t[i]);
      }
    });
    mean = total(mean);
    write_gradient(args_.state->loss_scale, [&](float z, float t) {
      const float p = head(z);
      return p * (last(p) * last.target_sum - t - mean);
    });
  }

  /// dlogits = gradient(logit, target) · scale. Where dlogits are the logits, every lane has read
  /// the label's by now.
  template <typename Gradient>
  __device__ __forceinline__ void write_gradient(float scale, const Gradient& gradient) const {
    __syncwarp();
    T* out = elements<T>(args_.dlogits) + row_ * args_.classes;
    each([&](std::int64_t k, float(&z)[kVector]) {
      float t[kVector];
      target_.load_at(k, t);
#pragma unroll
      for (int i = 0; i < kVector; ++i) z[i] = gradient(z[i], t[i]) * scale;
      store(out + k, z);
    });
  }

  const CrossEntropy& args_;
  const std::int64_t row_;
  double* shared_;
  const T* logits_;
  const std::int32_t label_;
  const bool valid_;
  const Target<kKind> target_;
  const float dominant_logit_;
};

__device__ __forceinline__ Counts block_total(const Counts& counts, double* shared) {
  const auto total = [&](double value) { return block_reduce<kThreads>(value, shared, Sum{}); };
  return {total(counts.loss), total(counts.samples), total(counts.top1), total(counts.top5)};
}

/// Adds the blocks' counts to the metrics: thread t sums blocks t, t + kThreads, …, and the block
/// sums the threads.
__device__ void add_to_metrics(const CrossEntropy& args, Counts counts, ScratchMemory* scratch,
                               double* shared) {
  counts = block_total(counts, shared);
  if (threadIdx.x == 0) {
    double* part = scratch->partials[blockIdx.x];
    part[0] = counts.loss;
    part[1] = counts.samples;
    part[2] = counts.top1;
    part[3] = counts.top5;
  }
  if (!last_block(scratch)) return;
  Counts all;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kThreads) {
    const double* part = scratch->partials[block];
    all += {part[0], part[1], part[2], part[3]};
  }
  all = block_total(all, shared);
  if (threadIdx.x != 0) return;
  args.metrics->loss += all.loss;
  args.metrics->batch_loss += all.loss * static_cast<double>(args.state->loss_scale);
  args.metrics->samples += static_cast<std::int64_t>(all.samples);
  args.metrics->top1 += static_cast<std::int64_t>(all.top1);
  args.metrics->top5 += static_cast<std::int64_t>(all.top5);
}

template <typename T, int kVector, int kRowThreads, LossKind kKind>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(CrossEntropy args, ScratchMemory* scratch) {
  SHARED_ARRAY(double, shared, [kThreads / kWarpSize]);
  constexpr std::int64_t kRowsPerBlock = kThreads / kRowThreads;
  const std::int64_t first = blockIdx.x * kRowsPerBlock + threadIdx.x / kRowThreads;
  Counts counts;
  for (std::int64_t row = first; row < args.batch; row += gridDim.x * kRowsPerBlock) {
    counts += Row<T, kVector, kRowThreads, kKind>(args, row, shared)();
  }
  if (args.metrics == nullptr) return;
  add_to_metrics(args, threadIdx.x % kRowThreads == 0 ? counts : Counts{}, scratch, shared);
}

}  // namespace

void CudaKernels::cross_entropy(const CrossEntropy& args) {
  constexpr const char* kOperation = "cross_entropy";
  check_arguments(args);
  const auto launch_kernel = [&](auto kernel, std::int64_t rows_per_block) {
    const std::int64_t blocks =
        std::min<std::int64_t>(ceil_div(args.batch, rows_per_block), ScratchMemory::kMaxBlocks);
    launch(kOperation, stream_, dim3(static_cast<unsigned>(blocks)), kThreads, 0, kernel, args,
           scratch_);
  };
  for_float_type(kOperation, args.logits.dtype, [&]<typename T>() {
    const auto launch_with = [&]<int kVector, int kRowThreads>() {
      constexpr std::int64_t kRowsPerBlock = kThreads / kRowThreads;
      if (args.kind == LossKind::bce) {
        launch_kernel(cross_entropy_kernel<T, kVector, kRowThreads, LossKind::bce>, kRowsPerBlock);
      } else {
        launch_kernel(cross_entropy_kernel<T, kVector, kRowThreads, LossKind::softmax>,
                      kRowsPerBlock);
      }
    };
    const bool wide = vectorizable<T>(args.classes, args.logits.data, args.dlogits.data,
                                      args.probabilities.data, args.targets.data);
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      if (args.classes <= kClassesPerWarp) {
        launch_with.template operator()<kVector, kWarpSize>();
      } else {
        launch_with.template operator()<kVector, kThreads>();
      }
    });
  });
}

}  // namespace vitrine::cuda
