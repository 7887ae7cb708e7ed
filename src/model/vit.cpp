// The Vision Transformer as a graph.
//
//   x = tokens(patches · Wᵖ)                                  Dosovitskiy et al. 2021, section 3.1
//   pre:   x += attn(norm1(x));           x += mlp(norm2(x))
//   post:  x = norm1(x + attn(x));        x = norm2(x + mlp(x))
//   d2l:   x = norm1(x);  x += attn(x);   x += mlp(norm2(x))
//   logits = head(norm(pool(x)))
//
// With LayerScale each branch, attn(…) and mlp(…), is multiplied by a gamma of its own.
#include "vitrine/vit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/freeze.h"

namespace vitrine {
namespace {

// Random operations are numbered by place, so that passes and missing parts do not move them.
enum Site : std::uint32_t {
  kAttention,
  kAfterAttention,
  kAttentionPath,
  kInsideMlp,
  kAfterMlp,
  kMlpPath,
  kSitesPerBlock
};
constexpr std::uint32_t kEmbedding = 0;

class Builder {
 public:
  Builder(const VitConfig& config, const VitOptions& options)
      : config_(config), options_(options), graph_(options.training, options.precision) {}

  Graph build() {
    ValueId x = embed();
    for (std::int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) x = block(x, layer);
    const ValueId logits = head(x);
    graph_.keep(logits);
    const ValueId labels =
        graph_.input("labels", Shape{options_.rows}, DType::i32, ValueKind::row_input);
    const LossValues values = loss(logits, labels);
    if (options_.probabilities) graph_.keep(values.probabilities);
    return std::move(graph_);
  }

 private:
  ValueId weight(const std::string& name, const Shape& shape) {
    return graph_.parameter(name, shape, !is_frozen(name, options_.freeze));
  }
  ValueId bias(const std::string& name, std::int64_t size, bool present = true) {
    return present ? weight(name, Shape{size}) : kNone;
  }
  TokenWindow all() const { return {config_.tokens(), 0, config_.tokens()}; }
  Dropout dropout(double probability, std::uint32_t operation) const {
    return {options_.training ? static_cast<float>(probability) : 0.0f, operation};
  }
  Dropout site(double probability, std::int64_t layer, Site where) const {
    return dropout(probability, 1 + static_cast<std::uint32_t>(layer) * kSitesPerBlock + where);
  }
  double path_rate(std::int64_t layer) const {
    const std::int64_t last = config_.num_hidden_layers - 1;
    return last == 0
               ? 0.0
               : config_.drop_path_rate * static_cast<double>(layer) / static_cast<double>(last);
  }

  ValueId embed() {
    const VitConfig& c = config_;
    const std::int64_t height = options_.source_height ? options_.source_height : c.image_height;
    const std::int64_t width = options_.source_width ? options_.source_width : c.image_width;
    const ValueId images =
        graph_.input("images", Shape{options_.stored_images, c.num_channels, height, width},
                     options_.images, ValueKind::input);
    if (options_.image_gradient) graph_.require_gradient(images);
    const std::int64_t row_bytes = static_cast<std::int64_t>(sizeof(BatchRow));
    const ValueId rows =
        graph_.input("rows", Shape{options_.rows, row_bytes}, DType::u8, ValueKind::row_input);
    const auto channels = static_cast<std::size_t>(c.num_channels);
    auto or_else = [&](const std::vector<float>& given, float otherwise) {
      return given.empty() ? std::vector<float>(channels, otherwise) : given;
    };
    const ValueId mean =
        graph_.constant("mean", Shape{c.num_channels}, or_else(options_.mean, 0.0f));
    const ValueId std = graph_.constant("std", Shape{c.num_channels}, or_else(options_.std, 1.0f));
    const bool convolves = options_.patch_projection == PatchProjection::convolution;
    if (convolves && c.image_height != c.image_width) {
      throw BadInput("patch_projection: found convolution with images of " +
                     std::to_string(c.image_height) + "x" + std::to_string(c.image_width) +
                     ", expected square ones");
    }
    const PatchEmbedOptions patches{.channels = c.num_channels,
                                    .height = c.image_height,
                                    .width = c.image_width,
                                    .patch_size = c.patch_size,
                                    .source_height = height,
                                    .source_width = width};
    PatchEmbedOptions unfolded = patches;
    if (convolves) unfolded.patch_size = c.image_width;  // one patch: the normalised image itself
    const ValueId pixels = patch_embed(graph_, "patch_embed", images, rows, mean, std, unfolded);
    ValueId class_token = kNone;
    if (c.class_token != ClassToken::none) {
      class_token = weight("cls_token", Shape{1, 1, c.hidden_size});
    }
    ValueId registers = kNone;
    if (c.reg_tokens > 0) registers = weight("reg_token", Shape{1, c.reg_tokens, c.hidden_size});
    const ValueId position = positions();
    const std::string name = "patch_embed.proj";
    const ValueId maps =
        weight(name + ".weight", Shape{c.hidden_size, c.num_channels, c.patch_size, c.patch_size});
    const ValueId shift = bias(name + ".bias", c.hidden_size, c.patch_bias);
    const ValueId projected = convolves
                                  ? patch_convolution(graph_, name, pixels, maps, shift, patches)
                                  : linear(graph_, name, pixels, maps, shift);
    const double rate =
        c.embedding_dropout_prob < 0 ? c.hidden_dropout_prob : c.embedding_dropout_prob;
    return tokens(graph_, "tokens", projected, class_token, position, c.class_token,
                  dropout(rate, kEmbedding), registers, c.no_embed_class);
  }

  ValueId positions() {
    const VitConfig& c = config_;
    if (c.position == Position::none) return kNone;
    if (c.position == Position::learned) {
      const std::int64_t rows = c.position_rows ? c.position_rows : c.position_tokens();
      return weight("pos_embed", Shape{1, rows, c.hidden_size});
    }
    return graph_.constant("positions", Shape{c.position_tokens(), c.hidden_size},
                           sincos_positions(c), graph_.working_type());
  }

  ValueId norm(const std::string& name, ValueId x) {
    const ValueId scale = weight(name + ".weight", Shape{config_.hidden_size});
    const ValueId shift = weight(name + ".bias", Shape{config_.hidden_size});
    return layer_norm(graph_, name, x, scale, shift, static_cast<float>(config_.layer_norm_eps));
  }

  struct Qkv {
    ValueId qkv, k = kNone, v = kNone;  ///< packed, or q, k and v
  };

  Qkv project(const std::string& name, ValueId x) {
    const std::int64_t d = config_.hidden_size, heads = config_.num_attention_heads;
    const bool per_head = config_.qkv_layout == QkvLayout::per_head;
    const ValueId maps = weight(name + ".weight",
                                per_head ? Shape{3, heads, d / heads, d / heads} : Shape{3 * d, d});
    const Shape bias_shape = per_head ? Shape{3, heads, d / heads} : Shape{3 * d};
    const ValueId shifts = config_.qkv_bias ? weight(name + ".bias", bias_shape) : kNone;
    const auto map = per_head ? per_head_linear : linear;
    if (!config_.qk_norm) return {map(graph_, name, x, maps, shifts)};
    // Norms take rows of their own tensors, so q, k and v are thirds of the projection.
    auto third = [&](std::int64_t i) {
      const Shape part = per_head ? Shape{1, heads, d / heads, d / heads} : Shape{d, d};
      const Shape bias_part = per_head ? Shape{1, heads, d / heads} : Shape{d};
      const ValueId rows = graph_.slice(maps, i * part.elements(), part);
      return map(graph_, name + "." + "qkv"[i], x, rows,
                 shifts == kNone ? kNone : graph_.slice(shifts, i * d, bias_part));
    };
    return {third(0), third(1), third(2)};
  }

  ValueId norm_of_heads(const std::string& name, ValueId x) {
    const Shape shape{config_.hidden_size / config_.num_attention_heads};
    const ValueId scale = weight(name + ".weight", shape), shift = weight(name + ".bias", shape);
    return layer_norm_of_heads(graph_, name, x, scale, shift,
                               static_cast<float>(config_.layer_norm_eps));
  }

  ValueId attend(const std::string& name, ValueId x, std::int64_t layer) {
    const std::int64_t d = config_.hidden_size, heads = config_.num_attention_heads;
    Qkv in = project(name + ".qkv", x);
    if (config_.qk_norm) {
      in.qkv = norm_of_heads(name + ".q_norm", in.qkv);
      in.k = norm_of_heads(name + ".k_norm", in.k);
    }
    const Dropout drop = site(config_.attention_probs_dropout_prob, layer, kAttention);
    const ValueId out = attention(graph_, name, in.qkv, in.k, heads, all(), drop,
                                  options_.attention_probabilities, in.v)
                            .out;
    if (!config_.output_projection) return out;
    const ValueId projection = weight(name + ".proj.weight", Shape{d, d});
    return linear(graph_, name + ".proj", out, projection,
                  bias(name + ".proj.bias", d, config_.proj_bias));
  }

  ValueId mlp(const std::string& name, ValueId x, std::int64_t layer) {
    const std::int64_t d = config_.hidden_size, inner = config_.intermediate_size;
    const ValueId first = weight(name + ".fc1.weight", Shape{inner, d});
    const ValueId shift = bias(name + ".fc1.bias", inner);
    const ValueId hidden = linear(graph_, name + ".fc1", x, first, kNone);
    const ValueId active =
        activation(graph_, name + ".act", hidden, shift, config_.hidden_act,
                   site(config_.activation_dropout_prob, layer, kInsideMlp), all());
    const ValueId second = weight(name + ".fc2.weight", Shape{d, inner});
    return linear(graph_, name + ".fc2", active, second, bias(name + ".fc2.bias", d));
  }

  // LayerScale; dropout of the branch, which timm has before it, is a factor too and commutes.
  ValueId scaled(const std::string& name, ValueId branch) {
    if (config_.init_values == 0) return branch;
    return scale_columns(graph_, name, branch, weight(name + ".gamma", Shape{config_.hidden_size}));
  }

  /// Rows of a chunk that a layer's branches run on.
  std::int64_t branch_rows(std::int64_t layer) const {
    if (!config_.drop_path_subset || !options_.training) return options_.rows;
    const auto kept = std::llround(static_cast<double>(options_.rows) * (1 - path_rate(layer)));
    return std::max<std::int64_t>(kept, 1);
  }

  /// x + branch(x) with dropout and drop-path: of all rows, or of a random subset that alone runs.
  template <typename Branch>
  ValueId join(const std::string& name, ValueId x, const Branch& branch, std::int64_t layer,
               Site after, Site path) {
    const Dropout drop_path = site(path_rate(layer), layer, path);
    const std::int64_t rows = options_.rows, kept = branch_rows(layer);
    if (kept == rows) {
      return residual(graph_, name + ".residual", x, branch(x),
                      site(config_.hidden_dropout_prob, layer, after), drop_path, all());
    }
    const SampleSubset subset =
        choose_samples(graph_, name + ".subset", rows, kept, drop_path.operation);
    const ValueId part = branch(take_samples(graph_, name + ".taken", x, subset));
    const double scale = static_cast<double>(rows) / static_cast<double>(kept);
    return add_samples(graph_, name + ".residual", x, part, subset, static_cast<float>(scale));
  }

  ValueId block(ValueId x, std::int64_t layer) {
    const std::string name = "blocks." + std::to_string(layer);
    const NormOrder order = config_.norm_order;
    auto attention_branch = [&](ValueId in) {
      if (order == NormOrder::pre) in = norm(name + ".norm1", in);
      return scaled(name + ".ls1", attend(name + ".attn", in, layer));
    };
    auto mlp_branch = [&](ValueId in) {
      if (order != NormOrder::post) in = norm(name + ".norm2", in);
      return scaled(name + ".ls2", mlp(name + ".mlp", in, layer));
    };
    if (order == NormOrder::d2l) x = norm(name + ".norm1", x);
    x = join(name + ".attn", x, attention_branch, layer, kAfterAttention, kAttentionPath);
    if (order == NormOrder::post) x = norm(name + ".norm1", x);
    x = join(name + ".mlp", x, mlp_branch, layer, kAfterMlp, kMlpPath);
    return order == NormOrder::post ? norm(name + ".norm2", x) : x;
  }

  ValueId head(ValueId x) {
    const VitConfig& c = config_;
    TokenWindow window{1, c.class_token == ClassToken::last ? c.tokens() - 1 : 0, c.tokens()};
    if (c.pool == Pool::mean) {
      window = {c.patches(), c.first_patch(), c.tokens()};
      if (c.final_norm && c.pool_norm == PoolNorm::before) x = norm("norm", x);
    }
    x = pool(graph_, "pool", x, window);
    if (c.final_norm && c.pool == Pool::token) x = norm("norm", x);
    if (c.final_norm && c.pool == Pool::mean && c.pool_norm == PoolNorm::after) {
      x = norm("fc_norm", x);
    }
    const ValueId classifier = weight("head.weight", Shape{c.num_classes, c.hidden_size});
    const ValueId logits =
        linear(graph_, "logits", x, classifier, bias("head.bias", c.num_classes));
    return logits;
  }

  LossValues loss(ValueId logits, ValueId labels) {
    if (config_.head_softmax && options_.loss == LossKind::bce) {
      throw BadInput("head_softmax: found true with bce_loss, expected false");
    }
    ValueId mixes = kNone;
    if (options_.label_mixes) {
      const std::int64_t row_bytes = static_cast<std::int64_t>(sizeof(LabelMix));
      mixes =
          graph_.input("mixes", Shape{options_.rows, row_bytes}, DType::u8, ValueKind::row_input);
    }
    return cross_entropy(graph_, "loss", logits, labels,
                         {.kind = options_.loss,
                          .label_smoothing = options_.label_smoothing,
                          .target_threshold = options_.target_threshold,
                          .sum_classes = options_.sum_classes,
                          .head_softmax = config_.head_softmax,
                          .probabilities = options_.probabilities},
                         mixes);
  }

  const VitConfig& config_;
  const VitOptions& options_;
  Graph graph_;
};

}  // namespace

Graph build_vit(const VitConfig& config, const VitOptions& options) {
  if (options.attention_probabilities && options.training) {
    throw BadInput("attention_probabilities: found training, expected evaluation");
  }
  Graph graph = Builder(config, options).build();
  check_freeze(options.freeze, graph);
  if (options.prune_last_block && !options.attention_probabilities) {
    graph = prune_unread_tokens(graph);
  }
  if (options.fuse_residual_norm) graph = fuse_residual_norm(graph);
  if (options.training) {
    graph.backward(graph.find("loss"));
    graph.recompute(options.recompute);
  }
  if (options.image_gradient) graph.keep(graph.find("images.grad"));
  return graph;
}

Plan plan_vit(const VitConfig& config, VitOptions options, std::int64_t batch,
              const DeviceTraits& traits) {
  options.fuse_residual_norm &= traits.fuse_residual_norm;
  options.prune_last_block &= traits.prune_last_block;
  if (options.precision == Precision::bf16 && !traits.bf16) {
    throw BadInput("precision: found bf16, expected fp32 or tf32 on the device " + traits.name);
  }
  const Recompute recompute = std::exchange(options.recompute, {});  // chunks do not hang on it
  options.rows = 1;
  const Plan single(build_vit(config, options), traits, {.batch = 1, .rows = 1});
  const Chunking chunking =
      choose_chunking(batch, single.arena_bytes(), single.graph().parameter_count(), traits);
  options.rows = chunking.rows;
  options.recompute = recompute;
  return Plan(build_vit(config, options), traits, chunking);
}

}  // namespace vitrine
