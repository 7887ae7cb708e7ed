// The factors that every random operation of a graph draws, read out of the CPU's kernels: each
// gets the arguments that the graph and the executor give it, on inputs that show the factors.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "graph/operations.h"

namespace vitrine::cpu {

/// What one place of the model drew for a batch, in the whole tensor: 1 kept, 0 dropped, -1 not
/// drawn (tokens that nobody reads).
struct Mask {
  double p = 0;
  std::int64_t row = 1, head = 1, image = 1;  ///< elements
  std::vector<std::int8_t> kept;

  Mask() = default;
  Mask(float probability, std::int64_t images, std::int64_t row_, std::int64_t head_,
       std::int64_t image_)
      : p(static_cast<double>(probability)),
        row(row_),
        head(head_),
        image(image_),
        kept(static_cast<std::size_t>(images * image_), -1) {}

  /// An element's factor, as the quotient of the kernel's results with and without dropout.
  void set(std::int64_t element, float with, float without) {
    const double factor = static_cast<double>(with) / static_cast<double>(without);
    if (factor != 0) {
      ASSERT_NEAR(factor, 1 / (1 - p), 4e-7 / (1 - p)) << "element " << element;
    }
    kept[static_cast<std::size_t>(element)] = factor != 0 ? 1 : 0;
  }
};
using Masks = std::map<std::string, Mask>;

inline std::vector<float> ones(std::int64_t n) {
  return std::vector<float>(static_cast<std::size_t>(n), 1.0f);
}
inline View<void> view(std::vector<float>& values) {
  return {values.data(), std::ssize(values), DType::f32};
}

/// Reads the factors of every random operation of a graph, for the chunk that begins at row
/// `chunk_row` of a batch of `images`.
class Probe {
 public:
  Probe(const StepState& state, std::int64_t images, std::int64_t chunk_row, Masks& masks)
      : kernels_(pool_), state_(state), images_(images), first_image_(chunk_row), masks_(masks) {
    state_.first_row += chunk_row;
  }

  void read(const Graph& graph) {
    for (const Node& node : graph.nodes()) {
      const Operation* operation = node.operation.get();
      if (node.phase == Phase::backward) continue;
      if (const auto* op = dynamic_cast<const TokensOperation*>(operation)) {
        tokens(node.name, *op);
      } else if (const auto* op = dynamic_cast<const AttentionOperation*>(operation)) {
        attention(node.name, *op);
      } else if (const auto* op = dynamic_cast<const ActivationOperation*>(operation)) {
        activation(node.name, *op);
      } else if (const auto* op = dynamic_cast<const ResidualOperation*>(operation)) {
        residual(node.name, *op);
      } else if (const auto* op = dynamic_cast<const LayerNormOperation*>(operation)) {
        if (node.inputs[1] != kNone) layer_norm(node.name, *op);
      }
    }
  }

 private:
  /// Runs `kernel` on its arguments as they are and without randomness; both leave their result in
  /// `out`.
  template <typename Args>
  std::pair<std::vector<float>, std::vector<float>> both(void (CpuKernels::*kernel)(const Args&),
                                                         Args args, std::vector<float>& out) {
    args.state = &state_;
    (kernels_.*kernel)(args);
    const std::vector<float> with = out;
    args.dropout.probability = 0;
    if constexpr (requires { args.drop_path; }) args.drop_path.probability = 0;
    (kernels_.*kernel)(args);
    return {with, out};
  }

  Mask& mask(const std::string& name, const Dropout& dropout, std::int64_t row, std::int64_t head,
             std::int64_t image) {
    return masks_.try_emplace(name, dropout.probability, images_, row, head, image).first->second;
  }

  // Rows of [images, window.tokens, cols] into the whole tensor [images, window.total, cols].
  template <typename Kernel, typename Args>
  void rows(const std::string& name, const Dropout& dropout, const TokenWindow& window,
            std::int64_t cols, Kernel kernel, const Args& args, std::vector<float>& out) {
    if (dropout.probability == 0) return;
    Mask& drawn = mask(name, dropout, cols, cols, window.total * cols);
    const auto [with, without] = both(kernel, args, out);
    for (std::int64_t i = 0; i < std::ssize(with); ++i) {
      const std::int64_t row = i / cols, image = first_image_ + row / window.tokens;
      const std::int64_t token = window.first + row % window.tokens;
      drawn.set((image * window.total + token) * cols + i % cols, with[i], without[i]);
    }
  }

  void tokens(const std::string& name, const TokensOperation& op) {
    const std::int64_t count =
        op.num_patches + op.num_registers + (op.place == ClassToken::none ? 0 : 1);
    auto x = ones(op.batch * count * op.hidden),
         patches = ones(op.batch * op.num_patches * op.hidden);
    auto token = ones(op.hidden), registers = ones(op.num_registers * op.hidden);
    const TokensForward args{.x = view(x),
                             .patches = view(patches),
                             .class_token = view(token),
                             .registers = view(registers),
                             .place = op.place,
                             .batch = op.batch,
                             .num_patches = op.num_patches,
                             .num_registers = op.num_registers,
                             .hidden = op.hidden,
                             .dropout = op.dropout};
    rows(name, op.dropout, {count, 0, count}, op.hidden, &CpuKernels::tokens_forward, args, x);
  }

  void activation(const std::string& name, const ActivationOperation& op) {
    auto x = ones(op.rows * op.cols), y = x;
    const ActivationForward args{.y = view(y),
                                 .x = view(x),
                                 .rows = op.rows,
                                 .cols = op.cols,
                                 .kind = op.kind,
                                 .saved_kind = ActivationSaved::nothing,
                                 .dropout = op.dropout,
                                 .window = op.window};
    rows(name, op.dropout, op.window, op.cols, &CpuKernels::activation_forward, args, y);
  }

  // 0 + factors · 1, first without drop-path and then with nothing else.
  template <typename Kernel, typename Args, typename Op>
  void branch(const std::string& name, const Op& op, Kernel kernel, Args args,
              std::vector<float>& out) {
    args.rows = op.rows;
    args.cols = op.cols;
    args.window = op.window;
    args.dropout = op.dropout;
    rows(name + " dropout", op.dropout, op.window, op.cols, kernel, args, out);
    if (op.drop_path.probability == 0) return;
    args.dropout.probability = 0;
    args.drop_path = op.drop_path;
    Mask& drawn = mask(name + " drop-path", op.drop_path, 1, 1, 1);
    const auto [with, without] = both(kernel, args, out);
    const std::int64_t sample = op.window.tokens * op.cols;
    for (std::int64_t i = 0; i < std::ssize(with); ++i) {
      ASSERT_EQ(with[i], with[i / sample * sample]);  // a whole image
      drawn.set(first_image_ + i / sample, with[i], without[i]);
    }
  }

  void residual(const std::string& name, const ResidualOperation& op) {
    std::vector<float> x(static_cast<std::size_t>(op.rows * op.cols)), y(x);
    auto added = ones(op.rows * op.cols);
    const ResidualForward args{.y = view(y), .x = view(x), .branch = view(added)};
    branch(name, op, &CpuKernels::residual_forward, args, y);
  }

  void layer_norm(const std::string& name, const LayerNormOperation& op) {
    std::vector<float> x(static_cast<std::size_t>(op.rows * op.cols)), y(x), x_out(x);
    auto added = ones(op.rows * op.cols), weight = ones(op.cols);
    const LayerNormForward args{.y = view(y),
                                .x_out = view(x_out),
                                .x = view(x),
                                .branch = view(added),
                                .weight = view(weight),
                                .bias = view(weight)};
    branch(name, op, &CpuKernels::layer_norm_forward, args, x_out);
  }

  // Equal scores and, as v, a unit vector a key: out[query, key] is the key's probability.
  void attention(const std::string& name, const AttentionOperation& op) {
    if (op.dropout.probability == 0) return;
    const std::int64_t keys = op.window.total, queries = op.window.tokens, width = op.heads * keys;
    std::vector<float> q(static_cast<std::size_t>(op.batch * queries * width)), out(q);
    std::vector<float> k(static_cast<std::size_t>(op.batch * keys * width)), v(k);
    for (std::int64_t i = 0; i < op.batch * keys; ++i) {
      for (std::int64_t head = 0; head < op.heads; ++head) {
        v[static_cast<std::size_t>(i * width + head * keys + i % keys)] = 1;
      }
    }
    const AttentionForward args{.out = view(out),
                                .q = view(q),
                                .k = view(k),
                                .v = view(v),
                                .q_stride = width,
                                .kv_stride = width,
                                .batch = op.batch,
                                .heads = op.heads,
                                .head_size = keys,
                                .window = op.window,
                                .dropout = op.dropout};
    const auto [with, without] = both(&CpuKernels::attention_forward, args, out);
    Mask& drawn = mask(name, op.dropout, keys, keys * keys, op.heads * keys * keys);
    for (std::int64_t i = 0; i < std::ssize(with); ++i) {
      const std::int64_t key = i % keys, head = i / keys % op.heads, row = i / width;
      const std::int64_t image = first_image_ + row / queries;
      const std::int64_t query = op.window.first + row % queries;
      drawn.set(((image * op.heads + head) * keys + query) * keys + key, with[i], without[i]);
    }
  }

  ThreadPool pool_{1};
  CpuKernels kernels_;
  StepState state_;
  std::int64_t images_, first_image_;
  Masks& masks_;
};

}  // namespace vitrine::cpu
