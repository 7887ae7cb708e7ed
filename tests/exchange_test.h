// Weights of a small network under the names of other libraries, written out here by hand.
#pragma once

#include <array>

#include "checkpoint_test.h"
#include "vitrine/exchange.h"

namespace vitrine {

/// A tensor's names; '#' stands for the block. `part` is the third of our rows, -1 all of them.
struct NamesOfTensor {
  const char* ours;
  int part;
  const char *v4, *v5, *torchvision;
};

inline constexpr std::array<NamesOfTensor, 26> kNames = {{
    {"cls_token", -1, "vit.embeddings.cls_token", "vit.embeddings.cls_token", "class_token"},
    {"pos_embed", -1, "vit.embeddings.position_embeddings", "vit.embeddings.position_embeddings",
     "encoder.pos_embedding"},
    {"patch_embed.proj.weight", -1, "vit.embeddings.patch_embeddings.projection.weight",
     "vit.embeddings.patch_embeddings.projection.weight", "conv_proj.weight"},
    {"patch_embed.proj.bias", -1, "vit.embeddings.patch_embeddings.projection.bias",
     "vit.embeddings.patch_embeddings.projection.bias", "conv_proj.bias"},
    {"blocks.#.norm1.weight", -1, "vit.encoder.layer.#.layernorm_before.weight",
     "vit.layers.#.layernorm_before.weight", "encoder.layers.encoder_layer_#.ln_1.weight"},
    {"blocks.#.norm1.bias", -1, "vit.encoder.layer.#.layernorm_before.bias",
     "vit.layers.#.layernorm_before.bias", "encoder.layers.encoder_layer_#.ln_1.bias"},
    {"blocks.#.attn.qkv.weight", 0, "vit.encoder.layer.#.attention.attention.query.weight",
     "vit.layers.#.attention.q_proj.weight", nullptr},
    {"blocks.#.attn.qkv.weight", 1, "vit.encoder.layer.#.attention.attention.key.weight",
     "vit.layers.#.attention.k_proj.weight", nullptr},
    {"blocks.#.attn.qkv.weight", 2, "vit.encoder.layer.#.attention.attention.value.weight",
     "vit.layers.#.attention.v_proj.weight", nullptr},
    {"blocks.#.attn.qkv.weight", -1, nullptr, nullptr,
     "encoder.layers.encoder_layer_#.self_attention.in_proj_weight"},
    {"blocks.#.attn.qkv.bias", 0, "vit.encoder.layer.#.attention.attention.query.bias",
     "vit.layers.#.attention.q_proj.bias", nullptr},
    {"blocks.#.attn.qkv.bias", 1, "vit.encoder.layer.#.attention.attention.key.bias",
     "vit.layers.#.attention.k_proj.bias", nullptr},
    {"blocks.#.attn.qkv.bias", 2, "vit.encoder.layer.#.attention.attention.value.bias",
     "vit.layers.#.attention.v_proj.bias", nullptr},
    {"blocks.#.attn.qkv.bias", -1, nullptr, nullptr,
     "encoder.layers.encoder_layer_#.self_attention.in_proj_bias"},
    {"blocks.#.attn.proj.weight", -1, "vit.encoder.layer.#.attention.output.dense.weight",
     "vit.layers.#.attention.o_proj.weight",
     "encoder.layers.encoder_layer_#.self_attention.out_proj.weight"},
    {"blocks.#.attn.proj.bias", -1, "vit.encoder.layer.#.attention.output.dense.bias",
     "vit.layers.#.attention.o_proj.bias",
     "encoder.layers.encoder_layer_#.self_attention.out_proj.bias"},
    {"blocks.#.norm2.weight", -1, "vit.encoder.layer.#.layernorm_after.weight",
     "vit.layers.#.layernorm_after.weight", "encoder.layers.encoder_layer_#.ln_2.weight"},
    {"blocks.#.norm2.bias", -1, "vit.encoder.layer.#.layernorm_after.bias",
     "vit.layers.#.layernorm_after.bias", "encoder.layers.encoder_layer_#.ln_2.bias"},
    {"blocks.#.mlp.fc1.weight", -1, "vit.encoder.layer.#.intermediate.dense.weight",
     "vit.layers.#.mlp.fc1.weight", "encoder.layers.encoder_layer_#.mlp.0.weight"},
    {"blocks.#.mlp.fc1.bias", -1, "vit.encoder.layer.#.intermediate.dense.bias",
     "vit.layers.#.mlp.fc1.bias", "encoder.layers.encoder_layer_#.mlp.0.bias"},
    {"blocks.#.mlp.fc2.weight", -1, "vit.encoder.layer.#.output.dense.weight",
     "vit.layers.#.mlp.fc2.weight", "encoder.layers.encoder_layer_#.mlp.3.weight"},
    {"blocks.#.mlp.fc2.bias", -1, "vit.encoder.layer.#.output.dense.bias",
     "vit.layers.#.mlp.fc2.bias", "encoder.layers.encoder_layer_#.mlp.3.bias"},
    {"norm.weight", -1, "vit.layernorm.weight", "vit.layernorm.weight", "encoder.ln.weight"},
    {"norm.bias", -1, "vit.layernorm.bias", "vit.layernorm.bias", "encoder.ln.bias"},
    {"head.weight", -1, "classifier.weight", "classifier.weight", "heads.head.weight"},
    {"head.bias", -1, "classifier.bias", "classifier.bias", "heads.head.bias"},
}};

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// The tensors of `ours` under the names of another library.
inline std::vector<SafetensorsTensor> renamed(const std::vector<SafetensorsTensor>& ours,
                                              const char* NamesOfTensor::*library) {
  std::vector<SafetensorsTensor> list;
  for (const SafetensorsTensor& tensor : ours) {
    std::string name = tensor.name, block;
    if (name.starts_with("blocks.")) {
      block = name.substr(7, name.find('.', 7) - 7);
      name = replaced(name, "blocks." + block, "blocks.#");
    }
    for (const NamesOfTensor& names : kNames) {
      if (names.ours != name || names.*library == nullptr) continue;
      SafetensorsTensor copy = tensor;
      copy.name = replaced(names.*library, "#", block);
      if (names.part >= 0) {
        std::vector<std::int64_t> sizes(tensor.shape.sizes().begin(), tensor.shape.sizes().end());
        sizes[0] /= 3;
        copy.shape = Shape(sizes);
        copy.data = static_cast<const float*>(tensor.data) + names.part * copy.shape.elements();
      }
      list.push_back(copy);
    }
  }
  return list;
}

/// Files with the weights of CheckpointTest's network, and what reading them says.
class ExchangeTest : public CheckpointTest {
 protected:
  ExchangeTest() : tensors_(random_tensors(23)), file_(run_ / "other.safetensors") {
    ours_ = named_tensors(plan_, tensors_.weights.data());
  }

  Plan plan_of(const VitConfig& model) const { return plan_vit(model, {}, 5, device_->traits()); }
  /// Reads `list` into weights that hold 7s; those must stay when there is an error.
  std::string error_of_reading(const std::vector<SafetensorsTensor>& list, const VitConfig& model,
                               const Adaptation& adaptation = {}) const {
    write_safetensors(file_, list);
    const Plan plan = plan_of(model);
    const std::vector<float> before(static_cast<std::size_t>(plan.parameter_elements()), 7.0f);
    std::vector<float> weights = before;
    const std::string error =
        error_of([&] { read_weights(file_, model, plan, adaptation, weights); });
    if (!error.empty()) {
      EXPECT_EQ(weights, before);
      EXPECT_EQ(error.substr(0, file_.string().size()), file_.string());
    }
    return error;
  }
  void expect_reading_error(const std::vector<SafetensorsTensor>& list, const VitConfig& model,
                            std::initializer_list<std::string> parts,
                            const Adaptation& adaptation = {}) const {
    const std::string error = error_of_reading(list, model, adaptation);
    for (const std::string& part : parts) {
      EXPECT_NE(error.find(part), std::string::npos) << part << "\nin: " << error;
    }
  }
  /// The numbers of one of our tensors in a flat buffer.
  static std::vector<float> tensor_of(const Plan& plan, const std::vector<float>& flat,
                                      const std::string& name) {
    const std::vector<Parameter>& parameters = plan.graph().parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].name != name) continue;
      const auto begin = flat.begin() + plan.parameter_offset(static_cast<int>(i));
      return {begin, begin + parameters[i].shape.elements()};
    }
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }

  Tensors tensors_;
  fs::path file_;
  std::vector<SafetensorsTensor> ours_;
};

}  // namespace vitrine
