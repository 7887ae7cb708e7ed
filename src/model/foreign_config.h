// Configurations as HuggingFace transformers and timm write them, read into ours.
#pragma once

#include <filesystem>

#include "io/json_fields.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// What HuggingFace's image processors write beside config.json.
inline constexpr const char* kPreprocessorFile = "preprocessor_config.json";

/// "gelu", and the names that HuggingFace has for it and the others.
void read_hidden_act(JsonReader& reader, VitConfig& config);

/// Makes HuggingFace's keys without effect here known and fills in what a file with its model_type
/// leaves unsaid. Throws BadInput when that is no ViT.
void read_huggingface(JsonReader& reader, RunConfig& config);

/// Mean and standard deviation of an image processor, for one or each of the model's channels; none
/// where it does not normalise.
void read_preprocessor_file(const std::filesystem::path& path, RunConfig& config);

/// Whether this is a config.json of timm's hub.
bool is_timm(const nlohmann::json& document);
/// The whole model, mean, standard deviation and class names. Throws BadInput naming the key that
/// has no counterpart.
void read_timm(const nlohmann::json& document, const std::string& source, RunConfig& config);

}  // namespace vitrine
