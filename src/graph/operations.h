// The operations as nodes of the graph: attributes, operand slots, costs and gradients.
// One struct a family member; the passes look into them, the executor only calls `run`.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vitrine/graph.h"

namespace vitrine {

/// Throws BadInput "NODE: message" unless `condition` holds.
void require(bool condition, const std::string& node, const std::string& message);
/// Rows of a tensor whose last dimension is `cols`.
std::int64_t rows_of(const Shape& shape);
std::int64_t cols_of(const Shape& shape);
/// Appends the column sums of dy [rows, cols] as the gradient of `bias`, if it wants one.
void bias_gradient(Graph& graph, const Node& node, ValueId dy, ValueId bias);
/// The same number of rows of the window's tokens only.
std::int64_t windowed_rows(std::int64_t rows, const TokenWindow& window);
/// How many pieces the plan cuts a column reduction over `rows` into.
std::int64_t partials_of(std::int64_t rows, const DeviceTraits& traits);

using Sharing = std::vector<std::pair<int, int>>;
using OperationPtr = std::shared_ptr<const Operation>;

/// in: a, b, bias, addend   out: a·b. As `linear` a = x, b = weight [N, K], transpose_b.
struct MatmulOperation final : Operation {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_b = true;
  bool tf32 = false;

  std::string name() const override { return "matmul"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  int addend() const override { return 3; }
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::full; }
  void run(Kernels&, const Operands&) const override;
};

/// in: images, rows, mean, std   out: patches
struct PatchEmbedOperation final : Operation {
  PatchEmbedOptions options;

  std::string name() const override { return "patch_embed_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: patches, class_token, position, registers   out: x
struct TokensOperation final : Operation {
  ClassToken place = ClassToken::first;
  bool patch_positions = false;
  std::int64_t batch = 0, num_patches = 0, num_registers = 0, hidden = 0;
  Dropout dropout;

  std::string name() const override { return "tokens_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: x   out: y
struct PoolOperation final : Operation {
  TokenWindow window;
  std::int64_t batch = 0, hidden = 0;

  std::string name() const override { return "pool_forward"; }
  double flops(const Graph&, const Node&) const override;
  std::optional<double> bytes(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: x, branch   out: y
struct ResidualOperation final : Operation {
  std::int64_t rows = 0, cols = 0;
  Dropout dropout, drop_path;
  TokenWindow window;

  std::string name() const override { return "residual_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Sharing may_share() const override { return {{0, 0}}; }
  OperationPtr windowed(const TokenWindow&) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: a, b   out: a + b
struct AddOperation final : Operation {
  std::string name() const override { return "add"; }
  double flops(const Graph&, const Node&) const override;
  Sharing may_share() const override { return {{0, 0}, {0, 1}}; }
  void run(Kernels&, const Operands&) const override;
};

/// out: samples, slots
struct ChooseSamplesOperation final : Operation {
  std::int64_t batch = 0, count = 0;
  std::uint32_t operation = 0;

  std::string name() const override { return "choose_samples"; }
  double flops(const Graph&, const Node&) const override { return 0; }
  void run(Kernels&, const Operands&) const override;
};

/// in: x, samples, slots (the gradient's)   out: scale · x's samples
struct TakeSamplesOperation final : Operation {
  std::int64_t batch = 0, count = 0, cols = 0;
  float scale = 1.0f;

  std::string name() const override { return "take_samples"; }
  double flops(const Graph&, const Node&) const override;
  std::optional<double> bytes(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::selective; }
  void run(Kernels&, const Operands&) const override;
};

/// in: x, part, samples (the gradient's), slots   out: x + scale · part; without x, zeros + …
struct AddSamplesOperation final : Operation {
  std::int64_t batch = 0, count = 0, cols = 0;
  float scale = 1.0f;

  std::string name() const override { return "add_samples"; }
  double flops(const Graph&, const Node&) const override;
  std::optional<double> bytes(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Sharing may_share() const override { return {{0, 0}}; }
  OperationPtr windowed(const TokenWindow&) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: x, scale   out: y
struct ScaleColumnsOperation final : Operation {
  std::int64_t rows = 0, cols = 0;

  std::string name() const override { return "scale_columns_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Sharing may_share() const override { return {{0, 0}}; }
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::selective; }
  void run(Kernels&, const Operands&) const override;
};

/// in: x, branch, weight, bias   out: y, x_out (with a branch), mean, rstd
struct LayerNormOperation final : Operation {
  std::int64_t rows = 0, cols = 0;
  float eps = 1e-6f;
  Dropout dropout, drop_path;
  TokenWindow window;

  std::string name() const override { return "layer_norm_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Sharing may_share() const override { return {{1, 0}, {1, 1}}; }
  bool saves(int output) const override { return output >= 2; }
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::selective; }
  Node again(const Node& node) const override;
  void run(Kernels&, const Operands&) const override;
};

/// in: x, bias   out: y, saved
struct ActivationOperation final : Operation {
  std::int64_t rows = 0, cols = 0;
  ActivationKind kind = ActivationKind::gelu_erf;
  Dropout dropout;
  TokenWindow window;

  std::string name() const override { return "activation_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Sharing may_share() const override { return {{1, 0}}; }
  bool saves(int output) const override { return output == 1; }
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::selective; }
  void run(Kernels&, const Operands&) const override;
};

/// in: qkv, or q and kv, or q, k and v   out: out, log_sum_exp, probabilities
struct AttentionOperation final : Operation {
  std::int64_t batch = 0, heads = 0, head_size = 0;
  bool apart = false;  ///< q, k and v are tensors of their own
  TokenWindow window;
  Dropout dropout;

  std::string name() const override { return "attention_forward"; }
  bool saves(int output) const override { return output == 1; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  Recomputation recomputation() const override { return Recomputation::full; }
  void run(Kernels&, const Operands&) const override;
};

/// in: x, weight, bias   out: y
struct PerHeadLinearOperation final : Operation {
  std::int64_t rows = 0, parts = 3, heads = 0, head_size = 0;

  std::string name() const override { return "per_head_linear_forward"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  OperationPtr windowed(const TokenWindow&) const override;
  Recomputation recomputation() const override { return Recomputation::full; }
  void run(Kernels&, const Operands&) const override;
};

/// in: logits, labels, mixes   out: loss, dlogits, probabilities
struct CrossEntropyOperation final : Operation {
  std::int64_t batch = 0, classes = 0;
  LossOptions options;

  std::string name() const override { return "cross_entropy"; }
  double flops(const Graph&, const Node&) const override;
  void gradient(Graph&, const Node&) const override;
  void run(Kernels&, const Operands&) const override;
};

}  // namespace vitrine
