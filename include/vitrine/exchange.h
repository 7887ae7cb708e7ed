// Checkpoints that come from elsewhere and go there: tensor names and configurations of timm,
// HuggingFace transformers (v4 and v5) and torchvision, and what fine-tuning may change.
//
//   https://github.com/huggingface/pytorch-image-models   timm/models/vision_transformer.py
//   https://github.com/huggingface/transformers           models/vit/modeling_vit.py
//   https://github.com/pytorch/vision                     torchvision/models/vision_transformer.py
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vitrine/checkpoint.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// Whose names the tensors of a file have. timm's are ours.
enum class Naming : std::uint8_t { timm, huggingface_v4, huggingface_v5, torchvision };
std::string_view to_string(Naming naming);

/// A grid of patches.
struct PatchGrid {
  std::int64_t rows = 0, columns = 0;
  bool operator==(const PatchGrid&) const = default;
};

/// What may differ between a file and the model that starts from it.
struct Adaptation {
  bool new_head = false;        ///< head.* stay as they are where the file has none that fit
  bool new_resolution = false;  ///< positions are interpolated to the model's grid of patches
  /// Of the file's positions. Unknown: the model's where there are as many, otherwise a square.
  std::optional<PatchGrid> grid = {};
};

/// What became of a file's tensors; the strict counterpart is an error that lists the names.
struct WeightReport {
  Naming naming = Naming::timm;
  std::int64_t loaded = 0, parameters = 0;  ///< tensors of the model that came from the file; all
  std::vector<std::string> ignored;  ///< in the file without a part in classification (pooler)
  std::vector<std::string> initial;  ///< of the model, not from the file: a new head
  std::string positions;             ///< "14x14 to 24x24"; empty: as in the file

  /// One line: "timm names, 150 of 152 tensors, new head, positions 14x14 to 24x24".
  std::string str() const;
};

/// Overwrites `weights` (the plan's layout, holding initial values) with the tensors of a
/// safetensors file, whatever names it uses. What is missing, unexpected or mis-shaped and not
/// allowed by `adaptation` is listed by the file's name and ours. Throws BadInput and then leaves
/// `weights` as they were.
WeightReport read_weights(const std::filesystem::path& file, const VitConfig& config,
                          const Plan& plan, const Adaptation& adaptation,
                          std::vector<float>& weights);

/// What training starts from: initial weights, over which those of recipe.initial_checkpoint lie,
/// with a `report` of them where there is one. Throws BadInput.
std::vector<float> start_weights(const RunConfig& config, const Plan& plan,
                                 const Adaptation& adaptation, std::optional<WeightReport>& report);

/// Positions [rows·columns, hidden] for another grid: bicubic (a = −1/2) with antialiasing, as
/// timm's resample_abs_pos_embed, which is torch.nn.functional.interpolate(mode="bicubic",
/// antialias=True, align_corners=False).
std::vector<float> resample_positions(std::span<const float> positions, PatchGrid from,
                                      PatchGrid to, std::int64_t hidden);

/// The file with weights that `path` means: itself, or DIR/model.safetensors, of a run its last
/// checkpoint's. Throws BadInput.
std::filesystem::path weights_file(const std::filesystem::path& path);

/// Whose files `export_checkpoint` writes.
enum class ExportFormat : std::uint8_t { timm, huggingface };

/// The configuration as HuggingFace's ViTForImageClassification (model_type "vit") or timm's hub
/// has it. Throws BadInput naming the key which that library cannot express.
nlohmann::ordered_json huggingface_json(const RunConfig& config);
nlohmann::ordered_json timm_json(const RunConfig& config);

/// Writes DIR/model.safetensors, DIR/config.json and, for HuggingFace, preprocessor_config.json.
/// `directory` must be new or empty; it appears whole or not at all. Throws BadInput, IoError.
void export_checkpoint(const Checkpoint& checkpoint, ExportFormat format,
                       const std::filesystem::path& directory, Weights weights = Weights::trained);

}  // namespace vitrine
