// Checkpoints as directories of other libraries.
#include <nlohmann/json.hpp>

#include "io/files.h"
#include "io/json_fields.h"
#include "model/foreign_config.h"
#include "model/tensor_names.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

using nlohmann::ordered_json;

// As ViTImageProcessor.save_pretrained writes it.
ordered_json preprocessor_json(const RunConfig& config) {
  const VitConfig& model = config.model;
  const Transform normalization = transform(config.recipe, model.num_channels);
  return {{"do_normalize", !config.recipe.mean.empty()},
          {"do_rescale", true},
          {"do_resize", true},
          {"image_mean", normalization.mean},
          {"image_processor_type", "ViTImageProcessor"},
          {"image_std", normalization.std},
          {"resample", evaluation_filter(config) == "bilinear" ? kPillowBilinear : kPillowBicubic},
          {"rescale_factor", 1.0 / 255.0},
          {"size", {{"height", model.image_height}, {"width", model.image_width}}}};
}

/// The tensors under the names of `names`; data stays in `flat`.
std::vector<SafetensorsTensor> renamed(const Plan& plan, const float* flat,
                                       const TensorNames& names) {
  std::vector<SafetensorsTensor> list;
  for (const SafetensorsTensor& tensor : named_tensors(plan, flat)) {
    const std::vector<std::string> theirs = names.of(tensor.name);
    const auto parts = static_cast<std::int64_t>(theirs.size());
    std::vector<std::int64_t> sizes(tensor.shape.sizes().begin(), tensor.shape.sizes().end());
    sizes[0] /= parts;
    const auto* data = static_cast<const float*>(tensor.data);
    for (const std::string& name : theirs) {
      list.push_back({name, DType::f32, Shape(sizes), data});
      data += list.back().shape.elements();
    }
  }
  return list;
}

}  // namespace

void export_checkpoint(const Checkpoint& checkpoint, ExportFormat format,
                       const std::filesystem::path& directory, Weights which) {
  const bool timm = format == ExportFormat::timm;
  const RunConfig& config = checkpoint.config;
  const ordered_json document = timm ? timm_json(config) : huggingface_json(config);
  const Plan plan = plan_vit(config.model, {.training = false}, 1, DeviceTraits{});
  const std::vector<float> weights =
      load_weights(weights_file(checkpoint, which), config.model, plan);
  const TensorNames names{.naming = timm ? Naming::timm : Naming::huggingface_v4};
  AtomicDirectory output(directory);
  write_safetensors(output / "model.safetensors", renamed(plan, weights.data(), names),
                    {{"format", "pt"}});  // transformers asks for it
  write_file(output / "config.json", json_text(document, 2) + "\n");
  if (!timm) write_file(output / kPreprocessorFile, json_text(preprocessor_json(config), 2) + "\n");
  output.commit();
}

}  // namespace vitrine
