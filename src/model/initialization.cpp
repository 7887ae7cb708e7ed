// Initial weights and fixed positions.
#include <cmath>

#include "vitrine/random.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

// FNV-1a: a tensor's stream of random numbers belongs to its name.
std::uint64_t hash_name(const std::string& name) {
  std::uint64_t hash = 14695981039346656037ull;
  for (unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash & 0x7fffffffffffffffull;
}

class Filler {
 public:
  Filler(const VitConfig& config, std::uint64_t seed, const Parameter& parameter)
      : config_(config), parameter_(parameter), stream_(seed, hash_name(parameter.name)) {}

  void fill(float* out) {
    const std::string& name = parameter_.name;
    if (name == "cls_token" || name == "pos_embed") return embedding(out);
    if (name.find("norm") != std::string::npos) {
      return constant(out, name.ends_with(".weight") ? 1.0f : 0.0f);
    }
    const bool is_bias = name.ends_with(".bias");
    if (name == "patch_embed.proj.weight" && config_.patch_init_normal) return normal(out, 1.0);
    switch (config_.init) {
      case Initialization::torch:
        return torch_linear(out);
      case Initialization::torch_encoder:
        return torch_encoder(out, is_bias);
      case Initialization::normal:
        return is_bias ? constant(out, 0) : normal(out, config_.initializer_range);
      case Initialization::trunc_normal:
        return is_bias ? constant(out, 0) : truncated(out, config_.initializer_range);
      case Initialization::timm:
        if (name.starts_with("patch_embed")) return torch_linear(out);
        return is_bias ? constant(out, 0) : truncated(out, 0.02);
    }
  }

 private:
  template <typename Draw>
  void each(float* out, Draw draw) {
    for (std::int64_t i = 0; i < parameter_.shape.elements(); ++i) {
      out[i] = static_cast<float>(draw());
    }
  }
  void constant(float* out, float number) {
    each(out, [&] { return number; });
  }
  void uniform(float* out, double bound) {
    each(out, [&] { return stream_.uniform(-bound, bound); });
  }
  void normal(float* out, double deviation) {
    each(out, [&] { return deviation * stream_.normal(); });
  }
  // torch.nn.init.trunc_normal_ with its default bounds of ±2 (not of ±2 deviations).
  void truncated(float* out, double deviation) {
    each(out, [&] {
      double number = deviation * stream_.normal();
      while (std::abs(number) > 2.0) number = deviation * stream_.normal();
      return number;
    });
  }

  void embedding(float* out) {
    const bool is_class = parameter_.name == "cls_token";
    switch (config_.embedding_init) {
      case EmbeddingInitialization::uniform:
        return each(out, [&] { return stream_.uniform(); });
      case EmbeddingInitialization::normal:
        return normal(out, 1.0);
      case EmbeddingInitialization::trunc_normal:
        return truncated(out, config_.initializer_range);
      case EmbeddingInitialization::timm:
        return is_class ? normal(out, 1e-6) : truncated(out, 0.02);
    }
  }

  // Inputs of one output, also for a bias: that of the weight it belongs to.
  double fan_in() const {
    const std::string& name = parameter_.name;
    const auto d = static_cast<double>(config_.hidden_size);
    if (name.starts_with("patch_embed")) {
      return static_cast<double>(config_.num_channels * config_.patch_size * config_.patch_size);
    }
    if (name.find("fc2") != std::string::npos)
      return static_cast<double>(config_.intermediate_size);
    if (name.find("qkv") != std::string::npos && config_.qkv_layout == QkvLayout::per_head) {
      return d / static_cast<double>(config_.num_attention_heads);
    }
    return d;
  }
  void torch_linear(float* out) { uniform(out, 1.0 / std::sqrt(fan_in())); }

  // nn.MultiheadAttention: in_proj Xavier uniform over [3D, D], both biases zero.
  void torch_encoder(float* out, bool is_bias) {
    const std::string& name = parameter_.name;
    const bool attention = name.find(".attn.") != std::string::npos;
    if (attention && is_bias) return constant(out, 0);
    if (attention && name.ends_with("qkv.weight")) {
      return uniform(out, std::sqrt(6.0 / (4.0 * static_cast<double>(config_.hidden_size))));
    }
    torch_linear(out);
  }

  const VitConfig& config_;
  const Parameter& parameter_;
  RandomStream stream_;
};

void sincos_1d(const VitConfig& c, std::vector<float>& table) {
  const auto d = static_cast<double>(c.hidden_size);
  for (std::int64_t t = 0; t < c.tokens(); ++t) {
    for (std::int64_t j = 0; j < c.hidden_size; ++j) {
      const double angle =
          static_cast<double>(t) / std::pow(10000.0, static_cast<double>(j - j % 2) / d);
      table[static_cast<std::size_t>(t * c.hidden_size + j)] =
          static_cast<float>(j % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  }
}

void sincos_2d(const VitConfig& c, std::vector<float>& table) {
  const std::int64_t quarter = c.hidden_size / 4, columns = c.image_width / c.patch_size;
  const std::int64_t first = c.class_token == ClassToken::first ? 1 : 0;
  for (std::int64_t p = 0; p < c.patches(); ++p) {
    float* row = table.data() + (first + p) * c.hidden_size;
    const auto x = static_cast<double>(p % columns), y = static_cast<double>(p / columns);
    for (std::int64_t k = 0; k < quarter; ++k) {
      const double omega =
          std::pow(10000.0, -static_cast<double>(k) / static_cast<double>(quarter));
      row[k] = static_cast<float>(std::sin(omega * y));
      row[quarter + k] = static_cast<float>(std::cos(omega * y));
      row[2 * quarter + k] = static_cast<float>(std::sin(omega * x));
      row[3 * quarter + k] = static_cast<float>(std::cos(omega * x));
    }
  }
}

}  // namespace

std::vector<float> sincos_positions(const VitConfig& config) {
  std::vector<float> table(static_cast<std::size_t>(config.tokens() * config.hidden_size), 0.0f);
  (config.position == Position::sincos1d ? sincos_1d : sincos_2d)(config, table);
  return table;
}

std::vector<float> initial_weights(const VitConfig& config, const Plan& plan, std::uint64_t seed) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Filler(config, seed, parameters[i])
        .fill(flat.data() + plan.parameter_offset(static_cast<int>(i)));
  }
  return flat;
}

}  // namespace vitrine
