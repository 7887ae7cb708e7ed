// Configurations as HuggingFace transformers and timm write them, read into ours.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "io/json_fields.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// What HuggingFace's image processors write beside config.json.
inline constexpr const char* kPreprocessorFile = "preprocessor_config.json";

/// Pillow's numbers of filters, which its image processors take for `resample`.
inline constexpr std::int64_t kPillowBilinear = 2, kPillowBicubic = 3;

/// "bilinear" or "bicubic": how an evaluation of the run scales images.
std::string evaluation_filter(const RunConfig& run);

/// "gelu", and the names that HuggingFace has for it and the others.
void read_hidden_act(JsonReader& reader, VitConfig& config);

/// Makes HuggingFace's keys without effect here known and fills in what a file with its model_type
/// leaves unsaid. Throws BadInput when that is no ViT.
void read_huggingface(JsonReader& reader, RunConfig& config);

/// How an image processor sees a photograph, and its mean and standard deviation, for one or each
/// of the model's channels; none where it does not normalise.
void read_preprocessor_file(const std::filesystem::path& path, RunConfig& config);

/// Whether this is a config.json of timm's hub.
bool is_timm(const nlohmann::json& document);
/// The whole model, how it sees a photograph, mean, standard deviation and class names. Throws
/// BadInput naming the key that has no counterpart.
void read_timm(const nlohmann::json& document, const std::string& source, RunConfig& config);

}  // namespace vitrine
