// Tensor names of other libraries.
//
//   transformers/models/vit/modeling_vit.py (v4 and v5; v5 still writes files with v4's names)
//   torchvision/models/vision_transformer.py (MLPBlock's version 2 renamed linear_1 and linear_2)
#include "model/tensor_names.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

namespace vitrine {
namespace {

/// One of our names, without block and ".weight" or ".bias", and theirs.
struct Pair {
  std::string_view ours, theirs;
};
constexpr std::array<Pair, 5> kHuggingFace = {
    {{"cls_token", "embeddings.cls_token"},
     {"pos_embed", "embeddings.position_embeddings"},
     {"patch_embed.proj", "embeddings.patch_embeddings.projection"},
     {"norm", "layernorm"},
     {"head", "classifier"}}};
constexpr std::array<Pair, 8> kHuggingFaceV4Block = {{{"norm1", "layernorm_before"},
                                                      {"attn.qkv", "attention.attention.query"},
                                                      {"attn.qkv", "attention.attention.key"},
                                                      {"attn.qkv", "attention.attention.value"},
                                                      {"attn.proj", "attention.output.dense"},
                                                      {"norm2", "layernorm_after"},
                                                      {"mlp.fc1", "intermediate.dense"},
                                                      {"mlp.fc2", "output.dense"}}};
constexpr std::array<Pair, 8> kHuggingFaceV5Block = {{{"norm1", "layernorm_before"},
                                                      {"attn.qkv", "attention.q_proj"},
                                                      {"attn.qkv", "attention.k_proj"},
                                                      {"attn.qkv", "attention.v_proj"},
                                                      {"attn.proj", "attention.o_proj"},
                                                      {"norm2", "layernorm_after"},
                                                      {"mlp.fc1", "mlp.fc1"},
                                                      {"mlp.fc2", "mlp.fc2"}}};
constexpr std::array<Pair, 5> kTorchvision = {{{"cls_token", "class_token"},
                                               {"pos_embed", "encoder.pos_embedding"},
                                               {"patch_embed.proj", "conv_proj"},
                                               {"norm", "encoder.ln"},
                                               {"head", "heads.head"}}};
constexpr std::array<Pair, 4> kTorchvisionBlock = {{{"norm1", "ln_1"},
                                                    {"attn.qkv", "self_attention.in_proj"},
                                                    {"attn.proj", "self_attention.out_proj"},
                                                    {"norm2", "ln_2"}}};

/// "blocks.3.attn.qkv.weight" taken apart: block "3", module "attn.qkv", kind ".weight".
struct Parts {
  std::string block, module, kind;
};

Parts take_apart(const std::string& ours) {
  constexpr std::string_view kBlocks = "blocks.";
  Parts parts{.module = ours};
  if (ours.starts_with(kBlocks)) {
    const std::size_t end = ours.find('.', kBlocks.size());
    parts.block = ours.substr(kBlocks.size(), end - kBlocks.size());
    parts.module = ours.substr(end + 1);
  }
  for (const std::string_view kind : {".weight", ".bias"}) {
    if (!parts.module.ends_with(kind)) continue;
    parts.module.resize(parts.module.size() - kind.size());
    parts.kind = kind;
  }
  return parts;
}

std::vector<std::string> theirs_of(const std::string& module, std::span<const Pair> pairs) {
  std::vector<std::string> found;
  for (const Pair& pair : pairs) {
    if (pair.ours == module) found.emplace_back(pair.theirs);
  }
  return found;
}

std::vector<std::string> huggingface_names(const TensorNames& names, const Parts& parts) {
  const bool v4 = names.naming == Naming::huggingface_v4;
  std::vector<std::string> list =
      parts.block.empty() ? theirs_of(parts.module, kHuggingFace)
                          : theirs_of(parts.module, v4 ? kHuggingFaceV4Block : kHuggingFaceV5Block);
  std::string before = parts.module == "head" ? "" : names.prefix;
  if (!parts.block.empty()) before += (v4 ? "encoder.layer." : "layers.") + parts.block + ".";
  for (std::string& name : list) name = before + name + parts.kind;
  return list;
}

std::vector<std::string> torchvision_names(const TensorNames& names, const Parts& parts) {
  if (parts.block.empty()) {
    std::vector<std::string> list = theirs_of(parts.module, kTorchvision);
    for (std::string& name : list) name += parts.kind;
    return list;
  }
  std::vector<std::string> list = theirs_of(parts.module, kTorchvisionBlock);
  if (parts.module == "mlp.fc1") list = {names.mlp_first};
  if (parts.module == "mlp.fc2") list = {names.mlp_second};
  std::string kind = parts.kind;
  if (parts.module == "attn.qkv") kind[0] = '_';  // nn.MultiheadAttention.in_proj_weight
  for (std::string& name : list) {
    name = "encoder.layers.encoder_layer_" + parts.block + "." + name + kind;
  }
  return list;
}

}  // namespace

std::vector<std::string> TensorNames::of(const std::string& ours) const {
  std::vector<std::string> list;
  if (naming == Naming::torchvision) list = torchvision_names(*this, take_apart(ours));
  if (naming == Naming::huggingface_v4 || naming == Naming::huggingface_v5) {
    list = huggingface_names(*this, take_apart(ours));
  }
  return list.empty() ? std::vector<std::string>{ours} : list;
}

bool TensorNames::ignores(const std::string& theirs) const {
  if (naming != Naming::huggingface_v4 && naming != Naming::huggingface_v5) return false;
  constexpr std::array<std::string_view, 3> kIgnored = {"pooler.dense.weight", "pooler.dense.bias",
                                                        "embeddings.mask_token"};
  return std::any_of(kIgnored.begin(), kIgnored.end(), [&](std::string_view ignored) {
    return theirs == prefix + std::string(ignored);
  });
}

TensorNames detect_names(const SafetensorsFile& file) {
  TensorNames names;
  bool v4 = false, v5 = false, torchvision = false, prefixed = false;
  for (const SafetensorsEntry& entry : file.entries()) {
    const bool has_prefix = entry.name.starts_with(names.prefix);
    const std::string rest = has_prefix ? entry.name.substr(names.prefix.size()) : entry.name;
    const bool embeddings = rest.starts_with("embeddings.");
    v4 |= embeddings || rest.starts_with("encoder.layer.");
    v5 |= rest.starts_with("layers.");
    torchvision |=
        entry.name.starts_with("conv_proj.") || entry.name.starts_with("encoder.layers.");
    prefixed |= has_prefix;
    if (entry.name.find(".mlp.linear_1.") != std::string::npos) {
      names.mlp_first = "mlp.linear_1";
      names.mlp_second = "mlp.linear_2";
    }
  }
  if (v4 || v5) {
    names.naming = v5 ? Naming::huggingface_v5 : Naming::huggingface_v4;
    if (!prefixed) names.prefix.clear();
  } else if (torchvision) {
    names.naming = Naming::torchvision;
  }
  return names;
}

std::string_view to_string(Naming naming) {
  switch (naming) {
    case Naming::timm:
      return "timm";
    case Naming::huggingface_v4:
      return "HuggingFace v4";
    case Naming::huggingface_v5:
      return "HuggingFace v5";
    case Naming::torchvision:
      return "torchvision";
  }
  return "";
}

}  // namespace vitrine
