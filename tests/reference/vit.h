// The Vision Transformer by its definition, in double, one image at a time, without dropout: what
// each layer attends to, and the logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "vitrine/plan.h"
#include "vitrine/vit.h"

namespace vitrine::reference {

class Vit {
 public:
  using Numbers = std::vector<double>;

  std::vector<Numbers> attention;  ///< a layer: [H, T, T]
  Numbers logits;

  Vit(const VitConfig& config, const Plan& plan, const std::vector<float>& weights)
      : c_(config), plan_(plan), weights_(weights) {}

  /// `pixels` [C, H, W], normalised.
  void run(const Numbers& pixels) {
    Numbers x = embed(pixels);
    for (std::int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) block(x, layer);
    head(x);
  }

 private:
  /// nullptr: the model has no such parameter.
  const float* weight(const std::string& name) const {
    const auto& parameters = plan_.graph().parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].name != name) continue;
      return weights_.data() + plan_.parameter_offset(static_cast<int>(i));
    }
    return nullptr;
  }

  /// [rows, in] → [rows, out]
  Numbers linear(const Numbers& x, const std::string& name, std::int64_t in,
                 std::int64_t out) const {
    const float *maps = weight(name + ".weight"), *shift = weight(name + ".bias");
    const std::int64_t rows = static_cast<std::int64_t>(x.size()) / in;
    Numbers y(static_cast<std::size_t>(rows * out));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t o = 0; o < out; ++o) {
        double sum = shift != nullptr ? static_cast<double>(shift[o]) : 0.0;
        for (std::int64_t i = 0; i < in; ++i) {
          sum += x[r * in + i] * static_cast<double>(maps[o * in + i]);
        }
        y[r * out + o] = sum;
      }
    }
    return y;
  }

  Numbers norm(const Numbers& x, const std::string& name) const {
    return norm(x, name, c_.hidden_size);
  }

  /// Of rows of d numbers.
  Numbers norm(const Numbers& x, const std::string& name, std::int64_t d) const {
    const float *scale = weight(name + ".weight"), *shift = weight(name + ".bias");
    Numbers y(x.size());
    for (std::size_t r = 0; r < x.size(); r += static_cast<std::size_t>(d)) {
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < d; ++i) mean += x[r + i] / static_cast<double>(d);
      for (std::int64_t i = 0; i < d; ++i) {
        variance += (x[r + i] - mean) * (x[r + i] - mean) / static_cast<double>(d);
      }
      for (std::int64_t i = 0; i < d; ++i) {
        y[r + i] = (x[r + i] - mean) / std::sqrt(variance + c_.layer_norm_eps) *
                       static_cast<double>(scale[i]) +
                   static_cast<double>(shift[i]);
      }
    }
    return y;
  }

  Numbers embed(const Numbers& pixels) const {
    const std::int64_t p = c_.patch_size, across = c_.image_width / p;
    Numbers patches;
    for (std::int64_t patch = 0; patch < c_.patches(); ++patch) {
      for (std::int64_t i = 0; i < c_.num_channels * p * p; ++i) {
        const std::int64_t channel = i / (p * p), y = patch / across * p + i / p % p;
        patches.push_back(
            pixels[(channel * c_.image_height + y) * c_.image_width + patch % across * p + i % p]);
      }
    }
    Numbers x = linear(patches, "patch_embed.proj", c_.num_channels * p * p, c_.hidden_size);
    if (const float* tokens = weight("reg_token")) {
      x.insert(x.begin(), tokens, tokens + c_.reg_tokens * c_.hidden_size);
    }
    if (const float* token = weight("cls_token")) {
      x.insert(c_.class_token == ClassToken::first ? x.begin() : x.end(), token,
               token + c_.hidden_size);
    }
    const float* learned = weight("pos_embed");
    const std::vector<float> fixed = learned == nullptr && c_.position != Position::none
                                         ? sincos_positions(c_)
                                         : std::vector<float>();
    const std::int64_t first = c_.no_embed_class
                                   ? c_.reg_tokens * c_.hidden_size +
                                         (c_.class_token == ClassToken::first ? c_.hidden_size : 0)
                                   : 0;
    const std::int64_t count =
        c_.no_embed_class ? c_.patches() * c_.hidden_size : static_cast<std::int64_t>(x.size());
    for (std::int64_t i = 0; i < count; ++i) {
      if (learned != nullptr) x[first + i] += static_cast<double>(learned[i]);
      if (!fixed.empty()) x[first + i] += static_cast<double>(fixed[i]);
    }
    return x;
  }

  /// q, k or v of one token and head: [d].
  Numbers project(const Numbers& x, const std::string& name, std::int64_t part, std::int64_t head,
                  std::int64_t token) const {
    const std::int64_t d = c_.hidden_size, size = d / c_.num_attention_heads;
    const bool per_head = c_.qkv_layout == QkvLayout::per_head;
    const float *maps = weight(name + ".qkv.weight"), *shift = weight(name + ".qkv.bias");
    Numbers y;
    for (std::int64_t o = 0; o < size; ++o) {
      const std::int64_t row = part * d + head * size + o;  // of both layouts
      const std::int64_t inputs = per_head ? size : d;
      const double* in = x.data() + token * d + (per_head ? head * size : 0);
      double sum = shift != nullptr ? static_cast<double>(shift[row]) : 0.0;
      for (std::int64_t i = 0; i < inputs; ++i) {
        sum += in[i] * static_cast<double>(maps[row * inputs + i]);
      }
      y.push_back(sum);
    }
    if (!c_.qk_norm || part == 2) return y;
    return norm(y, name + (part == 0 ? ".q_norm" : ".k_norm"), size);
  }

  Numbers attend(const Numbers& x, const std::string& name) {
    const std::int64_t t = c_.tokens(), d = c_.hidden_size, heads = c_.num_attention_heads;
    const std::int64_t size = d / heads;
    Numbers out(x.size()), maps;
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<Numbers> k, v;
      for (std::int64_t j = 0; j < t; ++j) {
        k.push_back(project(x, name, 1, h, j));
        v.push_back(project(x, name, 2, h, j));
      }
      for (std::int64_t i = 0; i < t; ++i) {
        const Numbers q = project(x, name, 0, h, i);
        Numbers row;
        for (std::int64_t j = 0; j < t; ++j) {
          double score = 0;
          for (std::int64_t e = 0; e < size; ++e) score += q[e] * k[j][e];
          row.push_back(score / std::sqrt(static_cast<double>(size)));
        }
        row = softmax(row);
        for (std::int64_t j = 0; j < t; ++j) {
          for (std::int64_t e = 0; e < size; ++e) out[i * d + h * size + e] += row[j] * v[j][e];
        }
        maps.insert(maps.end(), row.begin(), row.end());
      }
    }
    attention.push_back(maps);
    return c_.output_projection ? linear(out, name + ".proj", d, d) : out;
  }

  double activate(double x) const {
    constexpr double kPi = 3.14159265358979323846;
    switch (c_.hidden_act) {
      case ActivationKind::gelu_erf:
        return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
      case ActivationKind::gelu_tanh:
        return x * (1 + std::tanh(std::sqrt(2 / kPi) * (x + 0.044715 * x * x * x))) / 2;
      case ActivationKind::relu:
        return std::max(x, 0.0);
    }
    return x;
  }

  Numbers mlp(const Numbers& x, const std::string& name) const {
    Numbers hidden = linear(x, name + ".fc1", c_.hidden_size, c_.intermediate_size);
    for (double& value : hidden) value = activate(value);
    return linear(hidden, name + ".fc2", c_.intermediate_size, c_.hidden_size);
  }

  static void add(Numbers& x, const Numbers& branch) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += branch[i];
  }

  Numbers layer_scaled(Numbers branch, const std::string& name) const {
    const float* gamma = weight(name + ".gamma");
    if (gamma == nullptr) return branch;
    for (std::size_t i = 0; i < branch.size(); ++i) {
      branch[i] *= static_cast<double>(gamma[i % static_cast<std::size_t>(c_.hidden_size)]);
    }
    return branch;
  }

  void block(Numbers& x, std::int64_t layer) {
    const std::string name = "blocks." + std::to_string(layer);
    const std::string attn = name + ".attn", feed = name + ".mlp";
    auto add_attention = [&](const Numbers& in) {
      add(x, layer_scaled(attend(in, attn), name + ".ls1"));
    };
    auto add_mlp = [&](const Numbers& in) { add(x, layer_scaled(mlp(in, feed), name + ".ls2")); };
    if (c_.norm_order == NormOrder::post) {
      add_attention(x);
      x = norm(x, name + ".norm1");
      add_mlp(x);
      x = norm(x, name + ".norm2");
      return;
    }
    if (c_.norm_order == NormOrder::d2l) x = norm(x, name + ".norm1");
    add_attention(c_.norm_order == NormOrder::pre ? norm(x, name + ".norm1") : x);
    add_mlp(norm(x, name + ".norm2"));
  }

  void head(Numbers x) {
    const std::int64_t d = c_.hidden_size;
    std::int64_t first = c_.class_token == ClassToken::last ? c_.tokens() - 1 : 0, count = 1;
    if (c_.pool == Pool::mean) {
      first = c_.reg_tokens + (c_.class_token == ClassToken::first ? 1 : 0);
      count = c_.patches();
    }
    const bool after = c_.pool == Pool::mean && c_.pool_norm == PoolNorm::after;
    if (c_.final_norm && !after) x = norm(x, "norm");
    Numbers pooled(static_cast<std::size_t>(d));
    for (std::int64_t i = 0; i < count * d; ++i) {
      pooled[i % d] += x[first * d + i] / static_cast<double>(count);
    }
    if (c_.final_norm && after) pooled = norm(pooled, "fc_norm");
    logits = linear(pooled, "head", d, c_.num_classes);
  }

 public:
  static Numbers softmax(Numbers row) {
    const double largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double& value : row) sum += value = std::exp(value - largest);
    for (double& value : row) value /= sum;
    return row;
  }

 private:
  const VitConfig& c_;
  const Plan& plan_;
  const std::vector<float>& weights_;
};

}  // namespace vitrine::reference
