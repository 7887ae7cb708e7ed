// The sections of report.html that show pictures of the model itself.
#pragma once

#include <string>

#include "vitrine/report.h"

namespace vitrine {

/// "Augmentation"; empty where the recipe has none.
std::string render_augmentation(const Report& report);
/// "What the model looks at"; empty where the report has none.
std::string render_attention(const Report& report);
/// "Position embeddings"; empty where the model has none.
std::string render_positions(const Report& report);

/// Shrinks pictures, all alike, until together they take at most `bytes` as PNG, or cannot be told
/// apart any more.
void fit_pictures(std::vector<Picture>& pictures, std::size_t bytes);

}  // namespace vitrine
