// The catalogue: every operation a device offers, one method and one argument struct each.
//
// Fields carry their shapes. Outputs come first. "T" is the working type, f32 on the CPU device.
// An output is written (=) unless its comment says otherwise; gradients of parameters are written,
// or added to (+=) when `accumulate` is set. A view marked optional may be empty.
//
//   B images of a chunk   P patches   T tokens   D hidden size   H heads   d = D / H   K classes
//
// No method may depend on the number of threads or the order of blocks: same arguments, same bits.
// Every method checks its arguments and throws DeviceError naming the field that contradicts.
#pragma once

#include <cstdint>

#include "vitrine/augment.h"
#include "vitrine/samples.h"
#include "vitrine/step_state.h"
#include "vitrine/tensor.h"

namespace vitrine {

// ---------------------------------------------------------------------------------------------
// matmul

/// out = op(a) · op(b) (+ bias) (+ out when accumulate); row-major.
struct Matmul {
  View<void> out;  ///< out  [m, n]  T, or f32 for gradients of parameters
  /// out  [m], optional: Σ_k a[k, i], the gradient of a bias beside that of its weight. Only with
  /// transpose_a and out in f32, neither with bias nor with accumulate.
  View<float> bias_gradient;
  ConstView<void> a;      ///< in   [m, k], or [k, m] when transpose_a  T
  ConstView<void> b;      ///< in   [k, n], or [n, k] when transpose_b  T
  ConstView<void> bias;   ///< in   [n]  T, optional
  View<float> workspace;  ///< [partials, m] with a bias_gradient, as in ColumnSum
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
  bool tf32 = false;   ///< f32 factors may be rounded to 10 bits of mantissa; sums stay f32
  int row_blocks = 1;  ///< pieces of m that may run side by side; chosen by the plan
};

// ---------------------------------------------------------------------------------------------
// patch_embed: gather, flip, crop, normalise and unfold in one pass

/// patches[b, p, c·p·p] = torch.nn.functional.unfold((pixel · scale − mean) / std).transpose(1, 2)
/// scale is 1/255 for u8 images and 1 for f32 images.
struct PatchEmbedForward {
  View<void> patches;          ///< out  [B, P, C·p·p]  T; patches row-major, channel-major inside
  ConstView<void> images;      ///< in   [N, C, source_height, source_width]  u8 or f32
  ConstView<BatchRow> rows;    ///< in   [B]
  ConstView<float> mean, std;  ///< in   [C]
  std::int64_t channels = 0, height = 0, width = 0, patch_size = 0;
  std::int64_t source_height = 0, source_width = 0;
};

/// Gradient of the normalised images: fold, the inverse of unfold (patches do not overlap).
struct PatchEmbedBackward {
  View<void> dimages;        ///< out  [B, C, height, width]  T
  ConstView<void> dpatches;  ///< in   [B, P, C·p·p]  T
  ConstView<float> std;      ///< in   [C]
  std::int64_t channels = 0, height = 0, width = 0, patch_size = 0;
};

// ---------------------------------------------------------------------------------------------
// patch_convolution: the patch projection as the convolution that it is, in the place of unfold and
// matmul; the same numbers by another road

/// y[b, p, o] = bias[o] + Σ_cij weight[o, c, i, j] · image[b, c, p_y·s + i, p_x·s + j], s =
/// patch_size
struct PatchConvolutionForward {
  View<void> y;            ///< out  [B, P, D]  T; patches row-major
  ConstView<void> images;  ///< in   [B, C, height, width]  T; normalised
  ConstView<void> weight;  ///< in   [D, C, s, s]  T
  ConstView<void> bias;    ///< in   [D]  T, optional
  View<float> workspace;   ///< [B·D·P]
  std::int64_t batch = 0, channels = 0, height = 0, width = 0, patch_size = 0, hidden = 0;
  bool tf32 = false;  ///< as in Matmul
};

struct PatchConvolutionBackward {
  View<float> dweight;     ///< out  [D, C, s, s]
  ConstView<void> dy;      ///< in   [B, P, D]  T
  ConstView<void> images;  ///< in   [B, C, height, width]  T; normalised
  View<float> workspace;   ///< [B·D·P + D·C·s·s]
  std::int64_t batch = 0, channels = 0, height = 0, width = 0, patch_size = 0, hidden = 0;
  bool tf32 = false;
  bool accumulate = false;
};

// ---------------------------------------------------------------------------------------------
// tokens: class token, positions, dropout; pooling is the way back

enum class ClassToken : std::uint8_t { first, last, none };

/// x = dropout(concat(class_token, registers, patches) + position);  T = P + R, and one more with a
/// class token, which comes before or after all. Registers: Darcet et al. 2024, arXiv:2309.16588
struct TokensForward {
  View<void> x;                 ///< out  [B, T, D]  T
  ConstView<void> patches;      ///< in   [B, P, D]  T
  ConstView<void> class_token;  ///< in   [D]  T, optional
  ConstView<void> registers;    ///< in   [R, D]  T, with R > 0
  ConstView<void> position;     ///< in   [≥T, D]  T, optional; the first T (or P) rows are used
  ClassToken place = ClassToken::first;
  bool patch_positions = false;  ///< the rows of position are those of the patches alone
  std::int64_t batch = 0, num_patches = 0, num_registers = 0, hidden = 0;
  Dropout dropout;
  const StepState* state = nullptr;
};

struct TokensBackward {
  View<void> dpatches;     ///< out  [B, P, D]  T, optional
  View<float> dclass;      ///< out  [D], optional
  View<float> dregisters;  ///< out  [R, D], optional
  View<float> dposition;   ///< out  [≥T, D], optional; rows that are not used are left alone
  ConstView<void> dx;      ///< in   [B, T, D]  T
  ClassToken place = ClassToken::first;
  bool patch_positions = false;
  std::int64_t batch = 0, num_patches = 0, num_registers = 0, hidden = 0;
  Dropout dropout;
  const StepState* state = nullptr;
  bool accumulate = false;  ///< dclass, dregisters, dposition
};

/// y = mean over the window's tokens; a window of one token selects it.
struct PoolForward {
  View<void> y;       ///< out  [B, D]  T
  ConstView<void> x;  ///< in   [B, total, D]  T
  std::int64_t batch = 0, hidden = 0;
  TokenWindow window;
};

/// dx = dy / tokens inside the window, 0 outside; with `accumulate` added, and outside untouched.
struct PoolBackward {
  View<void> dx;       ///< out  [B, total, D]  T
  ConstView<void> dy;  ///< in   [B, D]  T
  std::int64_t batch = 0, hidden = 0;
  TokenWindow window;
  bool accumulate = false;
};

// ---------------------------------------------------------------------------------------------
// residual: y = x + drop_path(dropout(branch)), where no normalisation follows

struct ResidualForward {
  View<void> y;            ///< out  [rows, cols]  T; may be x
  ConstView<void> x;       ///< in   [rows, cols]  T
  ConstView<void> branch;  ///< in   [rows, cols]  T
  std::int64_t rows = 0, cols = 0;
  Dropout dropout;     ///< per element
  Dropout drop_path;   ///< per sample (Huang et al. 2016, arXiv:1603.09382)
  TokenWindow window;  ///< rows = samples · window.tokens
  const StepState* state = nullptr;
};

/// dbranch = the same zeroing and scaling of dy.
struct ResidualBackward {
  View<void> dbranch;  ///< out  [rows, cols]  T
  ConstView<void> dy;  ///< in   [rows, cols]  T
  std::int64_t rows = 0, cols = 0;
  Dropout dropout, drop_path;
  TokenWindow window;
  const StepState* state = nullptr;
};

/// out = a + b. `out` may be `a` or `b`.
struct Add {
  View<void> out;     ///< out  [n]  T
  ConstView<void> a;  ///< in   [n]  T
  ConstView<void> b;  ///< in   [n]  T
};

// ---------------------------------------------------------------------------------------------
// scale_columns: LayerScale (Touvron et al. 2021, arXiv:2103.17239), a factor for each channel

/// y[r, c] = x[r, c] · scale[c]
struct ScaleColumnsForward {
  View<void> y;           ///< out  [rows, cols]  T; may be x
  ConstView<void> x;      ///< in   [rows, cols]  T
  ConstView<void> scale;  ///< in   [cols]        T
  std::int64_t rows = 0, cols = 0;
};

/// dx[r, c] = dy[r, c] · scale[c],  dscale[c] = Σ_r dy[r, c] · x[r, c]
struct ScaleColumnsBackward {
  View<void> dx;          ///< out  [rows, cols]  T, optional; may be dy or x
  View<float> dscale;     ///< out  [cols], optional
  ConstView<void> dy;     ///< in   [rows, cols]  T
  ConstView<void> x;      ///< in   [rows, cols]  T
  ConstView<void> scale;  ///< in   [cols]        T
  View<float> workspace;  ///< [partials, cols], when dscale is asked for
  std::int64_t rows = 0, cols = 0;
  bool accumulate = false;  ///< dscale
};

// ---------------------------------------------------------------------------------------------
// layer_norm (Ba et al. 2016, arXiv:1607.06450), with the residual in front of it

/// With a branch: x_out = x + drop_path(dropout(branch)), y = LN(x_out). Without: y = LN(x).
/// The variance is the biased one.
struct LayerNormForward {
  View<void> y;            ///< out  [rows, cols]  T
  View<void> x_out;        ///< out  [rows, cols]  T, with a branch only; may be x or branch
  View<float> mean, rstd;  ///< out  [rows], optional (evaluation does not keep them)
  ConstView<void> x;       ///< in   [rows, cols]  T
  ConstView<void> branch;  ///< in   [rows, cols]  T, optional
  ConstView<void> weight;  ///< in   [cols]  T
  ConstView<void> bias;    ///< in   [cols]  T
  std::int64_t rows = 0, cols = 0;
  float eps = 1e-6f;
  Dropout dropout, drop_path;  ///< of the branch
  TokenWindow window;
  const StepState* state = nullptr;
};

/// dx = LN'(dy) (+ dresidual); dbranch = drop_path(dropout(dx)).
struct LayerNormBackward {
  View<void> dx;                ///< out  [rows, cols]  T; may be dresidual or dy
  View<void> dbranch;           ///< out  [rows, cols]  T, optional: without dropout it would be dx
  View<float> dweight, dbias;   ///< out  [cols], optional
  ConstView<void> dy;           ///< in   [rows, cols]  T
  ConstView<void> dresidual;    ///< in   [rows, cols]  T, optional: gradient that skips the norm
  ConstView<void> x;            ///< in   [rows, cols]  T: what was normalised (x_out with a branch)
  ConstView<float> mean, rstd;  ///< in  [rows]
  ConstView<void> weight;       ///< in   [cols]  T
  /// [partials, 2, cols]: rows are cut into `partials` runs, at least one without dweight or dbias
  View<float> workspace;
  std::int64_t rows = 0, cols = 0;
  bool accumulate = false;  ///< dweight, dbias
  Dropout dropout, drop_path;
  TokenWindow window;
  const StepState* state = nullptr;
};

// ---------------------------------------------------------------------------------------------
// activation: y = dropout(f(x + bias))

enum class ActivationKind : std::uint8_t { gelu_erf, gelu_tanh, relu };

/// What forward keeps for backward.
enum class ActivationSaved : std::uint8_t {
  nothing,
  derivative,     ///< f'(x + bias), dropout's zeroing and scaling included
  pre_activation  ///< x + bias
};

struct ActivationForward {
  View<void> y;          ///< out  [rows, cols]  T; may be x when nothing is saved there
  View<void> saved;      ///< out  [rows, cols]  T, by `saved_kind`; may be x
  ConstView<void> x;     ///< in   [rows, cols]  T
  ConstView<void> bias;  ///< in   [cols]  T, optional
  std::int64_t rows = 0, cols = 0;
  ActivationKind kind = ActivationKind::gelu_erf;
  ActivationSaved saved_kind = ActivationSaved::derivative;
  Dropout dropout;
  TokenWindow window;
  const StepState* state = nullptr;
};

struct ActivationBackward {
  View<void> dx;          ///< out  [rows, cols]  T; may be dy or saved
  View<float> dbias;      ///< out  [cols], optional
  ConstView<void> dy;     ///< in   [rows, cols]  T
  ConstView<void> saved;  ///< in   [rows, cols]  T
  View<float> workspace;  ///< [partials, cols], when dbias is asked for
  std::int64_t rows = 0, cols = 0;
  ActivationKind kind = ActivationKind::gelu_erf;
  ActivationSaved saved_kind = ActivationSaved::derivative;
  bool accumulate = false;  ///< dbias
  Dropout dropout;          ///< used with `pre_activation` only
  TokenWindow window;
  const StepState* state = nullptr;
};

// ---------------------------------------------------------------------------------------------
// attention: softmax(q kᵀ / √d) v with everything between the two matmuls inside

/// q, k and v are read in place: element (b, t, h, i) of q is q[(b·Tq + t)·q_stride + h·d + i],
/// and the same for k and v with T and kv_stride. Packed qkv [B, T, 3, H, d]: strides 3·H·d.
struct AttentionForward {
  View<void> out;             ///< out  [B, Tq, H, d]  T
  View<float> log_sum_exp;    ///< out  [B, H, Tq], optional; of the scaled scores, natural log
  View<float> probabilities;  ///< out  [B, H, Tq, T], optional; before dropout
  ConstView<void> q;          ///< in   see above  T
  ConstView<void> k, v;       ///< in   see above  T
  std::int64_t q_stride = 0, kv_stride = 0;
  std::int64_t batch = 0, heads = 0, head_size = 0;
  TokenWindow window;  ///< queries: tokens = Tq of total = T, from `first`
  Dropout dropout;     ///< of the probabilities; see attention_quad
  const StepState* state = nullptr;
};

/// dq, dk, dv are written (=) with the strides of q, k, v.
struct AttentionBackward {
  View<void> dq, dk, dv;         ///< out  T
  ConstView<void> dout;          ///< in   [B, Tq, H, d]  T
  ConstView<void> out;           ///< in   [B, Tq, H, d]  T
  ConstView<float> log_sum_exp;  ///< in  [B, H, Tq]
  ConstView<void> q, k, v;       ///< in   T
  std::int64_t q_stride = 0, kv_stride = 0;
  std::int64_t batch = 0, heads = 0, head_size = 0;
  TokenWindow window;
  Dropout dropout;
  const StepState* state = nullptr;
};

// ---------------------------------------------------------------------------------------------
// per_head_linear: one d×d map per head (block-diagonal), as in the tutorial model

/// y[r, p, h, :] = weight[p, h] · x[r, h, :] + bias[p, h]
struct PerHeadLinearForward {
  View<void> y;            ///< out  [rows, parts, H, d]  T
  ConstView<void> x;       ///< in   [rows, H, d]  T
  ConstView<void> weight;  ///< in   [parts, H, d (out), d (in)]  T
  ConstView<void> bias;    ///< in   [parts, H, d]  T, optional
  std::int64_t rows = 0, parts = 3, heads = 0, head_size = 0;
};

struct PerHeadLinearBackward {
  View<void> dx;           ///< out  [rows, H, d]  T, optional
  View<float> dweight;     ///< out  [parts, H, d, d], optional
  View<float> dbias;       ///< out  [parts, H, d], optional
  ConstView<void> dy;      ///< in   [rows, parts, H, d]  T
  ConstView<void> x;       ///< in   [rows, H, d]  T
  ConstView<void> weight;  ///< in   [parts, H, d, d]  T
  View<float> workspace;   ///< [partials, parts·H·(d·d + d)]
  std::int64_t rows = 0, parts = 3, heads = 0, head_size = 0;
  bool accumulate_dx = false;
  bool accumulate = false;  ///< dweight, dbias
};

// ---------------------------------------------------------------------------------------------
// cross_entropy

enum class LossKind : std::uint8_t { softmax, bce };

/// The second label of a row whose image was mixed with another: mixup (Zhang et al. 2018,
/// arXiv:1710.09412), cutmix (Yun et al. 2019, arXiv:1905.04899).
struct LabelMix {
  std::int32_t other = -1;  ///< −1: not mixed
  float weight = 1.0f;      ///< of the row's own label, 0 to 1; 1 − weight is the other's
};

/// softmax: loss = −Σ_k t_k log softmax(z)_k. z are the logits, or softmax(logits) with
/// `head_softmax` (the tutorial's head).
/// bce: loss = −mean_k [t_k log σ(z_k) + (1 − t_k) log(1 − σ(z_k))], or the sum with `sum_classes`
/// (Wightman et al. 2021, arXiv:2110.00476).
/// t = (1 − s)·(w·onehot(label) + (1 − w)·onehot(other)) + s/K, or given soft targets; with bce and
/// a `target_threshold` ≥ 0 (t > target_threshold ? 1 : 0) in their place.
/// A row with label −1 has no loss, gradient or count. Counts are those of the label of larger
/// weight, of two equal ones the row's own. dlogits is scaled by state->loss_scale.
struct CrossEntropy {
  View<float> loss;                ///< out  [B], optional
  View<float> probabilities;       ///< out  [B, K], optional: softmax(logits)
  View<void> dlogits;              ///< out  [B, K]  T, optional; may be logits
  Metrics* metrics = nullptr;      ///< in/out (+=)
  ConstView<void> logits;          ///< in   [B, K]  T
  ConstView<std::int32_t> labels;  ///< in   [B]
  ConstView<LabelMix> mixes;       ///< in   [B], optional
  ConstView<float> targets;        ///< in   [B, K], optional: soft targets, instead of mixes
  std::int64_t batch = 0, classes = 0;
  LossKind kind = LossKind::softmax;
  float label_smoothing = 0.0f;
  float target_threshold = -1.0f;  ///< bce only; −1: none
  bool sum_classes = false;        ///< bce only
  bool head_softmax = false;       ///< softmax only
  const StepState* state = nullptr;
};

// ---------------------------------------------------------------------------------------------
// reduce

/// out[c] = Σ_r x[r, c]: the gradient of a bias.
struct ColumnSum {
  View<float> out;        ///< out  [cols]
  ConstView<void> x;      ///< in   [rows, cols]  T
  View<float> workspace;  ///< [partials, cols]
  std::int64_t rows = 0, cols = 0;
  bool accumulate = false;
};

/// out[i] = Σ_p parts[p, i], in the order of p: the gradients of a batch that ran in pieces.
struct SumParts {
  View<float> out;         ///< out  [n]; may be parts[0]
  ConstView<float> parts;  ///< in  [num_parts, n]
  std::int64_t num_parts = 0, n = 0;
};

/// Euclidean norm of all gradients, in double, and with it the decision whether the step counts:
/// a finite norm advances adam_step, any other is counted in skipped_steps.
struct GradientNorm {
  OptimizerState* optimizer = nullptr;  ///< in/out
  ConstView<float> gradients;           ///< in  [n]
};

// ---------------------------------------------------------------------------------------------
// adamw

/// A run of the flat buffers with the same treatment.
struct ParameterRegion {
  std::int64_t begin = 0, end = 0;  ///< elements
  float weight_decay = 0.0f;
  float learning_rate_scale = 1.0f;  ///< 0: frozen
};

/// Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter 2019,
/// arXiv:1711.05101) as PyTorch defines them, over all parameters at once. Does nothing when the
/// gradient norm is not finite.
struct AdamW {
  View<float> weights, first_moment, second_moment;  ///< in/out  [n]
  View<float> ema;                                   ///< in/out  [n], optional
  View<void> working_copy;                           ///< out     [n]  T, optional
  ConstView<float> gradients;                        ///< in      [n]
  ConstView<ParameterRegion> regions;                ///< in      in order, without overlap
  const OptimizerState* optimizer = nullptr;
  const StepState* state = nullptr;  ///< learning_rate, ema_decay
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float clip_norm = 0.0f;  ///< 0: no clipping; torch.nn.utils.clip_grad_norm_
  bool decoupled = true;   ///< true: AdamW; false: Adam with L2 decay added to the gradient
};

// ---------------------------------------------------------------------------------------------

/// A device's implementation of the catalogue. Re-entrant: several threads may call at once.
class Kernels {
 public:
  virtual ~Kernels() = default;

  virtual void matmul(const Matmul& args) = 0;
  virtual void patch_embed_forward(const PatchEmbedForward& args) = 0;
  virtual void patch_embed_backward(const PatchEmbedBackward& args) = 0;
  virtual void patch_convolution_forward(const PatchConvolutionForward& args) = 0;
  virtual void patch_convolution_backward(const PatchConvolutionBackward& args) = 0;
  virtual void tokens_forward(const TokensForward& args) = 0;
  virtual void tokens_backward(const TokensBackward& args) = 0;
  virtual void pool_forward(const PoolForward& args) = 0;
  virtual void pool_backward(const PoolBackward& args) = 0;
  virtual void residual_forward(const ResidualForward& args) = 0;
  virtual void residual_backward(const ResidualBackward& args) = 0;
  virtual void add(const Add& args) = 0;
  virtual void choose_samples(const ChooseSamples& args) = 0;
  virtual void take_samples(const TakeSamples& args) = 0;
  virtual void add_samples(const AddSamples& args) = 0;
  virtual void scale_columns_forward(const ScaleColumnsForward& args) = 0;
  virtual void scale_columns_backward(const ScaleColumnsBackward& args) = 0;
  virtual void layer_norm_forward(const LayerNormForward& args) = 0;
  virtual void layer_norm_backward(const LayerNormBackward& args) = 0;
  virtual void activation_forward(const ActivationForward& args) = 0;
  virtual void activation_backward(const ActivationBackward& args) = 0;
  virtual void attention_forward(const AttentionForward& args) = 0;
  virtual void attention_backward(const AttentionBackward& args) = 0;
  virtual void per_head_linear_forward(const PerHeadLinearForward& args) = 0;
  virtual void per_head_linear_backward(const PerHeadLinearBackward& args) = 0;
  virtual void cross_entropy(const CrossEntropy& args) = 0;
  virtual void column_sum(const ColumnSum& args) = 0;
  virtual void sum_parts(const SumParts& args) = 0;
  virtual void gradient_norm(const GradientNorm& args) = 0;
  virtual void adamw(const AdamW& args) = 0;
  virtual void resized_crop(const ResizedCrop& args) = 0;
  virtual void mix_images(const MixImages& args) = 0;
  virtual void augment_images(const AugmentImages& args) = 0;
};

}  // namespace vitrine
