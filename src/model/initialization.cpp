// Initial weights and fixed positions.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

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

constexpr double kLargestNormal = 8.6;  // √(-2 ln 2⁻⁵³) = 8.57 is the largest of a RandomStream
constexpr std::int64_t kPiece = std::int64_t{1} << 18;  // numbers that a thread takes at a time

/// Numbers [first, first + count) of a parameter. Most kinds can be drawn in any pieces; one that
/// cannot is drawn as a whole with its first piece.
class Filler {
 public:
  Filler(const VitConfig& config, std::uint64_t seed, const Parameter& parameter,
         std::int64_t first, float* out)
      : config_(config),
        parameter_(parameter),
        seed_(seed),
        stream_(hash_name(parameter.name)),
        first_(first),
        count_(std::min(kPiece, parameter.shape.elements() - first)),
        out_(out) {}

  void fill() {
    const std::string& name = parameter_.name;
    if (name == "cls_token" || name == "reg_token" || name == "pos_embed") return embedding();
    if (name.find("norm") != std::string::npos) {
      return constant(name.ends_with(".weight") ? 1.0f : 0.0f);
    }
    if (name.starts_with("head.") && config_.head_init == HeadInitialization::zero) {
      return constant(0);
    }
    if (name.ends_with(".gamma")) return constant(static_cast<float>(config_.init_values));
    const bool is_bias = name.ends_with(".bias");
    if (name == "patch_embed.proj.weight" && config_.patch_init_normal) return normal(1.0);
    switch (config_.init) {
      case Initialization::torch:
        return torch_linear();
      case Initialization::torch_encoder:
        return torch_encoder(is_bias);
      case Initialization::normal:
        return is_bias ? constant(0) : normal(config_.initializer_range);
      case Initialization::trunc_normal:
        return is_bias ? constant(0) : truncated(config_.initializer_range);
      case Initialization::timm:
        if (name.starts_with("patch_embed")) return torch_linear();
        return is_bias ? constant(0) : truncated(0.02);
    }
  }

 private:
  // Draws one number after the other, the whole parameter.
  template <typename Draw>
  void each(Draw draw) {
    if (first_ > 0) return;
    RandomStream stream(seed_, stream_);
    std::generate_n(out_, parameter_.shape.elements(),
                    [&] { return static_cast<float>(draw(stream)); });
  }
  void constant(float number) { std::fill_n(out_ + first_, count_, number); }
  void uniform(double bound) {
    each([&](RandomStream& stream) { return stream.uniform(-bound, bound); });
  }
  void normal(double deviation) {
    fill_normal(seed_, stream_, first_, count_, deviation, out_ + first_);
  }
  // torch.nn.init.trunc_normal_ with its default bounds of ±2 (not of ±2 deviations).
  void truncated(double deviation) {
    if (deviation * kLargestNormal < 2.0) return normal(deviation);
    each([&](RandomStream& stream) {
      double number = deviation * stream.normal();
      while (std::abs(number) > 2.0) number = deviation * stream.normal();
      return number;
    });
  }

  void embedding() {
    const bool is_token = parameter_.name != "pos_embed";
    switch (config_.embedding_init) {
      case EmbeddingInitialization::uniform:
        return each([](RandomStream& stream) { return stream.uniform(); });
      case EmbeddingInitialization::normal:
        return normal(1.0);
      case EmbeddingInitialization::trunc_normal:
        return truncated(config_.initializer_range);
      case EmbeddingInitialization::timm:
        return is_token ? normal(1e-6) : truncated(0.02);
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
  void torch_linear() { uniform(1.0 / std::sqrt(fan_in())); }

  // nn.MultiheadAttention: in_proj Xavier uniform over [3D, D], both biases zero.
  void torch_encoder(bool is_bias) {
    const std::string& name = parameter_.name;
    const bool attention = name.find(".attn.") != std::string::npos;
    if (attention && is_bias) return constant(0);
    if (attention && name.ends_with("qkv.weight")) {
      return uniform(std::sqrt(6.0 / (4.0 * static_cast<double>(config_.hidden_size))));
    }
    torch_linear();
  }

  const VitConfig& config_;
  const Parameter& parameter_;
  std::uint64_t seed_, stream_;
  std::int64_t first_, count_;
  float* out_;  // the parameter's first number
};

void sincos_1d(const VitConfig& c, std::vector<float>& table) {
  const auto d = static_cast<double>(c.hidden_size);
  for (std::int64_t t = 0; t < c.position_tokens(); ++t) {
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
  const std::int64_t first = c.first_patch_position();
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
  std::vector<float> table(static_cast<std::size_t>(config.position_tokens() * config.hidden_size),
                           0.0f);
  (config.position == Position::sincos1d ? sincos_1d : sincos_2d)(config, table);
  return table;
}

std::vector<float> initial_weights(const VitConfig& config, const Plan& plan, std::uint64_t seed) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  std::vector<Filler> pieces;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    float* out = flat.data() + plan.parameter_offset(static_cast<int>(i));
    for (std::int64_t first = 0; first < parameters[i].shape.elements(); first += kPiece) {
      pieces.emplace_back(config, seed, parameters[i], first, out);
    }
  }
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < pieces.size(); i = next++) pieces[i].fill();
  };
  const std::int64_t useful = plan.parameter_elements() / kPiece;
  const std::int64_t threads = std::min<std::int64_t>(std::thread::hardware_concurrency(), useful);
  std::vector<std::jthread> others;
  for (std::int64_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  return flat;
}

}  // namespace vitrine
