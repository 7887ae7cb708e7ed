// How a model is trained: data, batches, optimiser, schedule. Presets bind model and recipe.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "vitrine/augmentation.h"
#include "vitrine/dataset.h"
#include "vitrine/optimizer.h"
#include "vitrine/vit.h"

namespace vitrine {

enum class EvalMetric : std::uint8_t { top1, top5, loss };

/// What the backward part computes again to save memory, see Recompute. `automatic`: what must be
/// for the run to fit into the device's memory. Changes no bit.
enum class RecomputeMode : std::uint8_t { automatic, none, selective, full };

/// What an epoch's loss is the mean of.
enum class LossAverage : std::uint8_t { samples, batches };

/// Keys are timm's flag names with underscores.
struct Recipe {
  std::string dataset = "digits";
  std::string data_dir = "data";
  std::vector<float> mean, std;  ///< empty: mean 0, std 1
  double val_split = 0.0;        ///< see FolderOptions
  std::int64_t workers = 0;      ///< threads that read pictures; 0: one a core
  double hflip = 0.0, vflip = 0.0;
  std::vector<double> scale = {1.0, 1.0};
  std::vector<double> ratio = {3.0 / 4.0, 4.0 / 3.0};
  // How training images are varied further, see AugmentationConfig.
  CropMode train_crop_mode = CropMode::rrc;
  std::int64_t crop_padding = 0;
  std::string train_interpolation = "random";  ///< of pictures; stored images are bilinear
  std::string aa;                              ///< see AutoAugment
  /// Of brightness, contrast, saturation, hue. One number: the first three. Without effect beside
  /// RandAugment, as timm has it.
  std::vector<double> color_jitter;
  double color_jitter_prob = 1.0;
  double grayscale_prob = 0.0, gaussian_blur_prob = 0.0;
  double reprob = 0.0;
  EraseMode remode = EraseMode::constant;
  std::int64_t recount = 1;
  double mixup = 0.0, cutmix = 0.0;
  double mixup_prob = 1.0, mixup_switch_prob = 0.5;
  MixMode mixup_mode = MixMode::batch;
  std::int64_t aug_repeats = 0;      ///< 0 or 1: none
  double crop_pct = 0.875;           ///< of evaluation
  std::string crop_mode = "center";  ///< of evaluation: center or squash
  std::int64_t batch_size = 128;     ///< images that the device computes at once
  std::int64_t grad_accum_steps = 1;
  std::int64_t target_batch_size = 0;  ///< images of an optimiser step: it sets grad_accum_steps;
                                       ///< 0: batch_size · grad_accum_steps
  RecomputeMode recompute = RecomputeMode::automatic;
  std::int64_t epochs = 10;
  std::int64_t max_steps = 0;            ///< 0: no limit
  std::int64_t checkpoint_interval = 0;  ///< steps; 0: after every epoch
  std::int64_t log_interval = 50;
  std::uint64_t seed = 42;
  bool drop_last = false;
  Precision precision = Precision::fp32;
  PatchProjection patch_projection = PatchProjection::unfold;
  OptimizerKind opt = OptimizerKind::adamw;
  double lr = 1e-3, min_lr = 0.0, warmup_lr = 1e-6;
  double warmup_epochs = 0;
  std::int64_t warmup_steps = 0;  ///< instead of warmup_epochs where it is not 0
  ScheduleKind sched = ScheduleKind::cosine;
  double weight_decay = 0.05;
  bool weight_decay_all = false;
  double beta1 = 0.9, beta2 = 0.999, opt_eps = 1e-8;
  double clip_grad = 0.0;
  double smoothing = 0.0;
  bool bce_loss = false;  ///< binary cross-entropy; evaluation takes softmax cross-entropy all the
                          ///< same, without smoothing, as timm's validation does
  bool bce_sum = false;   ///< over the classes, not their mean
  double bce_target_thresh = -1.0;  ///< targets become t > threshold; −1: they stay as they are
  LossAverage loss_average = LossAverage::samples;
  bool model_ema = false;  ///< a moving average of the weights, see ema_decay_at
  double model_ema_decay = 0.9998;
  bool model_ema_warmup = false;
  EvalMetric eval_metric = EvalMetric::top1;  ///< makes a checkpoint the best; of the average,
                                              ///< where there is one
  std::int64_t early_stopping = 0;            ///< epochs without a better one; 0: never
  // Fine-tuning: what a run starts from, and which parameters it moves and how far.
  std::string initial_checkpoint;   ///< file, checkpoint or export; empty: initial weights
  std::vector<std::string> freeze;  ///< name prefixes of parameters that stay; "backbone": all but
                                    ///< the head
  double layer_decay = 1.0;  ///< learning rate of depth i of n: · layer_decay^(n − i), as timm's

  bool operator==(const Recipe&) const = default;
};

struct RunConfig {
  VitConfig model;
  Recipe recipe;
  std::string preset;                    ///< empty: none
  std::vector<std::string> class_names;  ///< from the data set; id2label in config.json
};

/// Names of the presets, each with one line about it.
struct PresetInfo {
  std::string name, summary;
};
std::vector<PresetInfo> presets();
/// Throws BadInput naming the nearest known preset.
RunConfig preset(const std::string& name);

/// Reads keys of model and recipe; keys that are absent keep their value. `source` (a file name)
/// opens every message. HuggingFace's keys without effect here are accepted; any other unknown key
/// is an error that names the nearest known one.
void read_json(const nlohmann::json& json, const std::string& source, RunConfig& config);
void read_json_file(const std::string& path, RunConfig& config);
/// The model alone, with the class names as id2label: a checkpoint's config.json.
nlohmann::ordered_json model_json(const RunConfig& config);
nlohmann::ordered_json recipe_json(const Recipe& recipe);
/// Both, and the preset's name: a run's config.json.
nlohmann::ordered_json to_json(const RunConfig& config);

void validate(const Recipe& recipe, const std::string& source);
/// Sets grad_accum_steps to what target_batch_size asks for. Throws BadInput.
void set_accumulation(Recipe& recipe, const std::string& source);
/// Whether the recipe varies training images by more than `hflip`, `scale` and `ratio` say.
bool augments(const Recipe& recipe);
AugmentationConfig augmentation(const RunConfig& config);
OptimizerConfig optimizer_config(const Recipe& recipe);
/// The loss of training.
void set_loss(const Recipe& recipe, VitOptions& options);
Transform transform(const Recipe& recipe, std::int64_t channels);

}  // namespace vitrine
