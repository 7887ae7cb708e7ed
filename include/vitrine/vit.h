// The Vision Transformer: its configuration, its graph, its initial weights.
//
//   Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "vitrine/graph.h"
#include "vitrine/plan.h"

namespace vitrine {

enum class Pool : std::uint8_t { token, mean };
enum class PoolNorm : std::uint8_t { before, after };  ///< norm then pool, or pool then norm
enum class NormOrder : std::uint8_t { pre, post, d2l };
enum class QkvLayout : std::uint8_t { dense, per_head };
enum class Position : std::uint8_t { learned, sincos1d, sincos2d, none };

/// How weights start.
enum class Initialization : std::uint8_t {
  torch,          ///< nn.Linear's default: weight and bias U(−1/√fan_in, 1/√fan_in)
  torch_encoder,  ///< as nn.TransformerEncoderLayer: qkv Xavier uniform, attention biases 0
  normal,         ///< N(0, initializer_range), biases 0
  trunc_normal,   ///< the same, truncated at ±2, biases 0
  timm            ///< trunc_normal for linear layers, nn.Conv2d's default for the patch projection
};
/// How class token, registers and positions start.
enum class EmbeddingInitialization : std::uint8_t {
  uniform,       ///< U[0, 1)
  normal,        ///< N(0, 1)
  trunc_normal,  ///< truncated normal of initializer_range
  timm           ///< class token and registers N(0, 1e-6), positions truncated normal 0.02
};

/// How the head starts.
enum class HeadInitialization : std::uint8_t {
  as_init,  ///< as Initialization has its linear layers
  zero      ///< weight and bias 0, as big_vision has it
};

/// Keys of config.json: HuggingFace's where they exist, our own otherwise.
struct VitConfig {
  std::int64_t image_height = 224, image_width = 224;  ///< image_size: one number or [H, W]
  std::int64_t patch_size = 16;
  std::int64_t num_channels = 3;
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t intermediate_size = 3072;
  std::int64_t num_classes = 1000;
  ActivationKind hidden_act = ActivationKind::gelu_erf;  ///< gelu, gelu_tanh, relu
  double hidden_dropout_prob = 0.0;
  double attention_probs_dropout_prob = 0.0;
  double activation_dropout_prob = 0.0;  ///< inside the MLP
  double embedding_dropout_prob = -1.0;  ///< after the positions; −1: hidden_dropout_prob
  double drop_path_rate = 0.0;           ///< of the last block; rises linearly from 0
  /// A branch with drop-path runs on a random k = round(rows · (1 − rate)) of a chunk's rows alone,
  /// at least one, times rows / k (arXiv:2304.07193). Empty rows of a last batch count as others
  /// do: each row is in with probability k / rows, so the expectation is the branch's. Dropout
  /// inside of the branch counts the rows that run.
  bool drop_path_subset = false;
  double layer_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool qkv_bias = true, proj_bias = true, patch_bias = true;
  bool final_norm = true;
  bool output_projection = true;
  bool head_softmax = false;  ///< softmax before the cross-entropy, as the tutorial has it
  ClassToken class_token = ClassToken::first;
  Pool pool = Pool::token;
  PoolNorm pool_norm = PoolNorm::before;
  NormOrder norm_order = NormOrder::pre;
  QkvLayout qkv_layout = QkvLayout::dense;
  Position position = Position::learned;
  double init_values = 0.0;  ///< LayerScale (arXiv:2103.17239) of both branches starts so; 0: none
  std::int64_t reg_tokens = 0;  ///< registers before the patches (arXiv:2309.16588)
  bool no_embed_class = false;  ///< positions for the patches alone
  bool qk_norm = false;         ///< LayerNorm of queries and keys, head by head (arXiv:2302.05442)
  std::int64_t position_rows = 0;  ///< rows of the learned table; 0: position_tokens()
  Initialization init = Initialization::timm;
  EmbeddingInitialization embedding_init = EmbeddingInitialization::timm;
  bool patch_init_normal = false;  ///< patch projection N(0, 1) whatever `init` says
  HeadInitialization head_init = HeadInitialization::as_init;  ///< default, zero

  std::int64_t patches() const { return (image_height / patch_size) * (image_width / patch_size); }
  std::int64_t tokens() const {
    return patches() + reg_tokens + (class_token == ClassToken::none ? 0 : 1);
  }
  /// The token of the first patch; a class token and the registers may precede it.
  std::int64_t first_patch() const {
    return reg_tokens + (class_token == ClassToken::first ? 1 : 0);
  }
  /// Tokens that have a position, and which of them are before the patches.
  std::int64_t position_tokens() const { return no_embed_class ? patches() : tokens(); }
  std::int64_t first_patch_position() const { return no_embed_class ? 0 : first_patch(); }
  bool operator==(const VitConfig&) const = default;
};

/// Throws BadInput "SOURCE: key: found, expected" when sizes contradict each other.
void validate(const VitConfig& config, const std::string& source);

/// How the patch projection is computed: unfold and matmul, or a convolution. The same numbers.
enum class PatchProjection : std::uint8_t { unfold, convolution };

/// What else the graph depends on.
struct VitOptions {
  std::int64_t rows = 1;  ///< images in one chunk
  bool training = true;   ///< dropout and backward
  Precision precision = Precision::fp32;
  PatchProjection patch_projection = PatchProjection::unfold;
  DType images = DType::u8;
  std::int64_t source_height = 0, source_width = 0;  ///< of the stored images; 0: the model's
  std::int64_t stored_images = 1;                    ///< N of the stored images
  std::vector<float> mean, std;                      ///< per channel; empty: 0 and 1
  LossKind loss = LossKind::softmax;
  float label_smoothing = 0.0f;
  float target_threshold = -1.0f;  ///< of LossKind::bce; −1: none
  bool sum_classes = false;        ///< of LossKind::bce
  bool label_mixes = false;        ///< rows come with a LabelMix each, the input "mixes"
  bool probabilities = false;      ///< keep softmax(logits)
  bool image_gradient = false;
  /// Keep each block's softmax as "blocks.i.attn.probabilities" [rows, H, T, T]; prunes nothing.
  bool attention_probabilities = false;
  std::vector<std::string> freeze = {};  ///< as Recipe::freeze; those parameters get no gradient
  bool fuse_residual_norm = true, prune_last_block = true;
  Recompute recompute = {};  ///< with `training`; a block is a layer. Changes no bit
};

/// Values are found by name: inputs "images", "rows", "labels", "mixes"; kept "logits",
/// "probabilities", "images.grad".
Graph build_vit(const VitConfig& config, const VitOptions& options);

/// A plan for a batch of `batch` images, chunks chosen for the device.
Plan plan_vit(const VitConfig& config, VitOptions options, std::int64_t batch,
              const DeviceTraits& traits);

/// The flat buffer of weights, laid out as `plan` says. Each tensor's numbers are a function of
/// (seed, its name).
std::vector<float> initial_weights(const VitConfig& config, const Plan& plan, std::uint64_t seed);

/// Fixed positions [position_tokens(), D]. 1-D: interleaved sine and cosine (Vaswani et al. 2017,
/// arXiv:1706.03762). 2-D: [sin ωy | cos ωy | sin ωx | cos ωx], ω_k = 10000^(−4k/D), as MoCo v3
/// (arXiv:2104.02057) has it; rows of class token and registers are zero.
std::vector<float> sincos_positions(const VitConfig& config);

}  // namespace vitrine
