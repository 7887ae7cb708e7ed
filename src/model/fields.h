// The keys of config.json, one line each.
#pragma once

#include "io/json_fields.h"
#include "vitrine/recipe.h"

namespace vitrine {

template <>
struct EnumNames<ActivationKind> {
  static constexpr std::array<std::string_view, 3> names = {"gelu", "gelu_tanh", "relu"};
};
template <>
struct EnumNames<ClassToken> {
  static constexpr std::array<std::string_view, 3> names = {"first", "last", "none"};
};
template <>
struct EnumNames<Pool> {
  static constexpr std::array<std::string_view, 2> names = {"token", "mean"};
};
template <>
struct EnumNames<PoolNorm> {
  static constexpr std::array<std::string_view, 2> names = {"before", "after"};
};
template <>
struct EnumNames<NormOrder> {
  static constexpr std::array<std::string_view, 3> names = {"pre", "post", "d2l"};
};
template <>
struct EnumNames<QkvLayout> {
  static constexpr std::array<std::string_view, 2> names = {"dense", "per_head"};
};
template <>
struct EnumNames<Position> {
  static constexpr std::array<std::string_view, 4> names = {"learned", "sincos1d", "sincos2d",
                                                            "none"};
};
template <>
struct EnumNames<Initialization> {
  static constexpr std::array<std::string_view, 5> names = {"torch", "torch_encoder", "normal",
                                                            "trunc_normal", "timm"};
};
template <>
struct EnumNames<EmbeddingInitialization> {
  static constexpr std::array<std::string_view, 4> names = {"uniform", "normal", "trunc_normal",
                                                            "timm"};
};
template <>
struct EnumNames<HeadInitialization> {
  static constexpr std::array<std::string_view, 2> names = {"default", "zero"};
};
template <>
struct EnumNames<OptimizerKind> {
  static constexpr std::array<std::string_view, 2> names = {"adam", "adamw"};
};
template <>
struct EnumNames<ScheduleKind> {
  static constexpr std::array<std::string_view, 2> names = {"constant", "cosine"};
};
template <>
struct EnumNames<Precision> {
  static constexpr std::array<std::string_view, 3> names = {"fp32", "tf32", "bf16"};
};
template <>
struct EnumNames<PatchProjection> {
  static constexpr std::array<std::string_view, 2> names = {"unfold", "convolution"};
};
template <>
struct EnumNames<CropMode> {
  static constexpr std::array<std::string_view, 4> names = {"rrc", "src", "pad", "none"};
};
template <>
struct EnumNames<EraseMode> {
  static constexpr std::array<std::string_view, 3> names = {"const", "rand", "pixel"};
};
template <>
struct EnumNames<MixMode> {
  static constexpr std::array<std::string_view, 3> names = {"batch", "pair", "elem"};
};
template <>
struct EnumNames<RecomputeMode> {
  static constexpr std::array<std::string_view, 4> names = {"auto", "none", "selective", "full"};
};
template <>
struct EnumNames<LossAverage> {
  static constexpr std::array<std::string_view, 2> names = {"samples", "batches"};
};

template <>
struct EnumNames<EvalMetric> {
  static constexpr std::array<std::string_view, 3> names = {"top1", "top5", "loss"};
};

/// Keys of the model but image_size, hidden_act and num_classes, which have several spellings.
template <typename Visitor, typename Config>
void model_fields(Visitor& visit, Config& c) {
  visit("patch_size", c.patch_size);
  visit("num_channels", c.num_channels);
  visit("hidden_size", c.hidden_size);
  visit("num_hidden_layers", c.num_hidden_layers);
  visit("num_attention_heads", c.num_attention_heads);
  visit("intermediate_size", c.intermediate_size);
  visit("hidden_dropout_prob", c.hidden_dropout_prob);
  visit("attention_probs_dropout_prob", c.attention_probs_dropout_prob);
  visit("activation_dropout_prob", c.activation_dropout_prob);
  visit("embedding_dropout_prob", c.embedding_dropout_prob);
  visit("drop_path_rate", c.drop_path_rate);
  visit("drop_path_subset", c.drop_path_subset);
  visit("layer_norm_eps", c.layer_norm_eps);
  visit("initializer_range", c.initializer_range);
  visit("qkv_bias", c.qkv_bias);
  visit("proj_bias", c.proj_bias);
  visit("patch_bias", c.patch_bias);
  visit("final_norm", c.final_norm);
  visit("output_projection", c.output_projection);
  visit("head_softmax", c.head_softmax);
  visit("class_token", c.class_token);
  visit("pool", c.pool);
  visit("pool_norm", c.pool_norm);
  visit("norm_order", c.norm_order);
  visit("qkv_layout", c.qkv_layout);
  visit("position", c.position);
  visit("reg_tokens", c.reg_tokens);
  visit("no_embed_class", c.no_embed_class);
  visit("qk_norm", c.qk_norm);
  visit("position_rows", c.position_rows);
  visit("init_values", c.init_values);
  visit("init", c.init);
  visit("embedding_init", c.embedding_init);
  visit("patch_init_normal", c.patch_init_normal);
  visit("head_init", c.head_init);
}

template <typename Visitor, typename Config>
void recipe_fields(Visitor& visit, Config& r) {
  visit("dataset", r.dataset);
  visit("data_dir", r.data_dir);
  visit("mean", r.mean);
  visit("std", r.std);
  visit("val_split", r.val_split);
  visit("workers", r.workers);
  visit("hflip", r.hflip);
  visit("vflip", r.vflip);
  visit("scale", r.scale);
  visit("ratio", r.ratio);
  visit("train_crop_mode", r.train_crop_mode);
  visit("crop_padding", r.crop_padding);
  visit("train_interpolation", r.train_interpolation);
  visit("aa", r.aa);
  visit("color_jitter", r.color_jitter);
  visit("color_jitter_prob", r.color_jitter_prob);
  visit("grayscale_prob", r.grayscale_prob);
  visit("gaussian_blur_prob", r.gaussian_blur_prob);
  visit("reprob", r.reprob);
  visit("remode", r.remode);
  visit("recount", r.recount);
  visit("mixup", r.mixup);
  visit("cutmix", r.cutmix);
  visit("mixup_prob", r.mixup_prob);
  visit("mixup_switch_prob", r.mixup_switch_prob);
  visit("mixup_mode", r.mixup_mode);
  visit("aug_repeats", r.aug_repeats);
  visit("crop_pct", r.crop_pct);
  visit("crop_mode", r.crop_mode);
  visit("batch_size", r.batch_size);
  visit("grad_accum_steps", r.grad_accum_steps);
  visit("target_batch_size", r.target_batch_size);
  visit("recompute", r.recompute);
  visit("epochs", r.epochs);
  visit("max_steps", r.max_steps);
  visit("checkpoint_interval", r.checkpoint_interval);
  visit("log_interval", r.log_interval);
  visit("seed", r.seed);
  visit("drop_last", r.drop_last);
  visit("precision", r.precision);
  visit("patch_projection", r.patch_projection);
  visit("opt", r.opt);
  visit("lr", r.lr);
  visit("min_lr", r.min_lr);
  visit("warmup_lr", r.warmup_lr);
  visit("warmup_epochs", r.warmup_epochs);
  visit("warmup_steps", r.warmup_steps);
  visit("sched", r.sched);
  visit("weight_decay", r.weight_decay);
  visit("weight_decay_all", r.weight_decay_all);
  visit("beta1", r.beta1);
  visit("beta2", r.beta2);
  visit("opt_eps", r.opt_eps);
  visit("clip_grad", r.clip_grad);
  visit("smoothing", r.smoothing);
  visit("bce_loss", r.bce_loss);
  visit("bce_sum", r.bce_sum);
  visit("bce_target_thresh", r.bce_target_thresh);
  visit("loss_average", r.loss_average);
  visit("model_ema", r.model_ema);
  visit("model_ema_decay", r.model_ema_decay);
  visit("model_ema_warmup", r.model_ema_warmup);
  visit("eval_metric", r.eval_metric);
  visit("early_stopping", r.early_stopping);
  visit("initial_checkpoint", r.initial_checkpoint);
  visit("freeze", r.freeze);
  visit("layer_decay", r.layer_decay);
}

}  // namespace vitrine
