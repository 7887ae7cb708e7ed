// What timm (our names), HuggingFace transformers and torchvision call the tensors of a ViT.
#pragma once

#include <string>
#include <vector>

#include "vitrine/exchange.h"
#include "vitrine/safetensors.h"

namespace vitrine {

/// The names of one file.
struct TensorNames {
  Naming naming = Naming::timm;
  std::string prefix = "vit.";  ///< of HuggingFace's names; empty in files of a bare ViTModel
  std::string mlp_first = "mlp.0", mlp_second = "mlp.3";  ///< torchvision's; it has had two

  /// One name, or three whose rows follow each other in ours: query, key, value. Where the library
  /// has no such tensor, ours.
  std::vector<std::string> of(const std::string& ours) const;
  /// Whether a tensor of that name plays no part in classification: poolers and mask tokens.
  bool ignores(const std::string& theirs) const;
};

/// Whose names a file has; timm's, where they are nobody else's.
TensorNames detect_names(const SafetensorsFile& file);

}  // namespace vitrine
