// The host-side graph: nodes are operations of the catalogue, values are what flows between them.
//
// Values are written once (SSA). `Graph::backward` appends the gradient nodes, which are nodes like
// any other. A node that adds to an earlier result takes it as an input (the "addend") and the plan
// lets both share storage.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/kernels.h"
#include "vitrine/tensor.h"

namespace vitrine {

using ValueId = int;
inline constexpr ValueId kNone = -1;  ///< an optional operand that is absent

enum class ValueKind : std::uint8_t {
  parameter,           ///< lives in the flat buffer of weights
  parameter_gradient,  ///< lives in the flat buffer of gradients
  row_input,           ///< given for each run, one entry a row of the batch
  input,               ///< given for each run as a whole (the stored images)
  constant,            ///< fixed numbers that belong to the graph (sin-cos positions)
  activation           ///< lives in the arena
};

struct Value {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  ValueKind kind = ValueKind::activation;
  int parameter = -1;       ///< index into parameters(), for the two parameter kinds
  std::int64_t offset = 0;  ///< elements from the parameter's start, for a slice of it
  int producer = -1;        ///< node that writes it
  bool keep = false;        ///< read after the run: stored for the whole batch, outside the arena
  bool needs_gradient = false;
  std::vector<float> constant;

  std::int64_t bytes() const { return shape.elements() * size_of(dtype); }
};

/// A tensor of weights. Gradients, moments and files know it by this name.
struct Parameter {
  std::string name;  ///< timm's, for example "blocks.0.attn.qkv.weight"
  Shape shape;
  bool trained = true;  ///< false: frozen, it has no gradient and the optimiser leaves it
};

/// What an operation costs: floating point operations, and bytes if every operand passes once.
struct Cost {
  double flops = 0;
  double bytes = 0;
};

class Graph;
struct Node;

/// Whether the backward part may compute an operation's results again, instead of keeping them.
enum class Recomputation : std::uint8_t {
  never,
  selective,  ///< cheap: a pass over the numbers
  full        ///< it is most of the forward part's work
};

/// The layer of a place of the model: "blocks.3.attn.qkv" → "blocks.3", "patch_embed.proj" →
/// "patch_embed".
std::string layer_of(const std::string& place);

/// How many layers, from the first on, compute results again; those that have none do not count.
/// The first ones, because what the last ones keep is gone when their turn comes.
struct Recompute {
  std::int64_t selective = 0;  ///< operations of Recomputation::selective
  std::int64_t full = 0;       ///< all but the residual stream
  bool operator==(const Recompute&) const = default;
};
/// "layers 0-4 all but the residual stream, layers 5-11 norms and activations"; "nothing".
std::string to_text(const Recompute& how);

/// What a node's operands are bound to while it runs.
class Operands {
 public:
  virtual ~Operands() = default;
  virtual View<void> out(int i) const = 0;  ///< empty when absent
  virtual ConstView<void> in(int i) const = 0;
  virtual View<float> workspace() const = 0;
  virtual const StepState* state() const = 0;
  virtual Metrics* metrics() const = 0;
  /// Whether gradients of parameters are added to what is there.
  virtual bool accumulate() const = 0;
  virtual const DeviceTraits& traits() const = 0;
};

/// One operation with its attributes.
class Operation {
 public:
  virtual ~Operation() = default;
  /// The method of `Kernels` that it calls, for example "layer_norm_forward".
  virtual std::string name() const = 0;
  virtual double flops(const Graph& graph, const Node& node) const = 0;
  /// What it moves where that is not every operand once.
  virtual std::optional<double> bytes(const Graph&, const Node&) const { return {}; }
  /// Appends the gradient nodes of `node` to the graph; see Graph::gradient.
  virtual void gradient(Graph& graph, const Node& node) const;
  /// (output, input) pairs that may share storage when the input is not used again, best first.
  virtual std::vector<std::pair<int, int>> may_share() const { return {}; }
  /// The input that output 0 is added to, or -1. The plan makes them share, by a copy if need be.
  virtual int addend() const { return -1; }
  /// The same operation on the window's tokens only; nullptr when rows are not independent.
  virtual std::shared_ptr<const Operation> windowed(const TokenWindow&) const { return nullptr; }
  /// Whether forward writes that output for the gradient alone; one that nobody came to read is
  /// dropped.
  virtual bool saves(int) const { return false; }
  virtual Recomputation recomputation() const { return Recomputation::never; }
  /// The node that writes the same bits again, from values that are still there: outputs that it
  /// does not write are kNone.
  virtual Node again(const Node& node) const;
  /// Floats of scratch memory for this node.
  virtual std::int64_t workspace(const Graph&, const Node&, const DeviceTraits&) const { return 0; }
  virtual void run(Kernels& kernels, const Operands& operands) const = 0;
};

enum class Phase : std::uint8_t { forward, backward };

/// A value that a node is about to write; an empty name means absent.
struct NewValue {
  std::string name;
  Shape shape;
  std::optional<DType> dtype = {};  ///< the graph's working type when empty
};

struct Node {
  std::shared_ptr<const Operation> operation;
  std::string name;  ///< place in the model, for example "blocks.0.norm1"
  Phase phase = Phase::forward;
  std::vector<ValueId> inputs, outputs;
};

class Graph {
 public:
  /// A graph for evaluation (`training` false) keeps nothing for a backward part.
  explicit Graph(bool training = true, Precision precision = Precision::fp32)
      : training_(training), precision_(precision) {}
  bool training() const { return training_; }
  Precision precision() const { return precision_; }
  DType working_type() const { return vitrine::working_type(precision_); }

  // Building the forward part ------------------------------------------------------------------
  /// Read as the working type, kept and differentiated as f32. One that is not `trained` has no
  /// gradient, nor has what only such parameters lead to.
  ValueId parameter(const std::string& name, const Shape& shape, bool trained = true);
  /// Part of a parameter: `shape` elements from element `offset` on.
  ValueId slice(ValueId parameter, std::int64_t offset, const Shape& shape);
  ValueId input(const std::string& name, const Shape& shape, DType dtype, ValueKind kind);
  /// `dtype`: f32 or the working type; the numbers are rounded to it.
  ValueId constant(const std::string& name, const Shape& shape, std::vector<float> numbers,
                   DType dtype = DType::f32);
  /// Appends a node. Returns the outputs' ids.
  std::vector<ValueId> append(std::shared_ptr<const Operation> operation, const std::string& name,
                              const std::vector<ValueId>& inputs,
                              const std::vector<NewValue>& outputs);
  /// A value that a node will write; see append_to.
  ValueId activation_value(const std::string& name, const Shape& shape,
                           std::optional<DType> dtype = {});
  /// Appends a node that writes the given values.
  void append_to(std::shared_ptr<const Operation> operation, const std::string& name,
                 const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs);
  void keep(ValueId value) { values_.at(value).keep = true; }
  void require_gradient(ValueId value) { values_.at(value).needs_gradient = true; }

  // Gradients ----------------------------------------------------------------------------------
  /// Appends the nodes that compute the gradient of every trained parameter, and no others.
  void backward(ValueId loss);
  /// After `backward`: its nodes read results that are computed again just before the first of them
  /// needs one. The same bits, with less memory (Chen et al. 2016, arXiv:1604.06174).
  void recompute(const Recompute& how);
  /// What was asked for, as far as there are layers; `selective` is at least `full`.
  const Recompute& recomputed() const { return recomputed_; }
  /// The gradient found so far for a value, kNone before the first contribution.
  ValueId gradient(ValueId value) const { return gradients_.at(value); }
  /// Makes `gradient` the value's gradient: the sum of all contributions so far.
  void set_gradient(ValueId value, ValueId gradient) { gradients_.at(value) = gradient; }
  /// Adds one more contribution, by an `add` node where there is one already.
  void add_gradient(ValueId value, ValueId contribution);
  /// The place where a parameter's (or slice's) gradient is written; kNone stays kNone.
  ValueId parameter_gradient(ValueId parameter);

  // Reading ------------------------------------------------------------------------------------
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Value>& values() const { return values_; }
  const Value& value(ValueId id) const { return values_.at(id); }
  const Shape& shape(ValueId id) const { return values_.at(id).shape; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::int64_t parameter_count() const;
  std::int64_t trained_parameter_count() const;
  /// Id of the value of that name, kNone when there is none.
  ValueId find(const std::string& name) const;
  Cost cost(const Node& node) const;
  /// Nodes that read a value.
  std::vector<int> consumers(ValueId value) const;

 private:
  ValueId add_value(Value value);
  void drop_unread();
  class Recomputer;

  std::vector<Value> values_;
  std::vector<Node> nodes_;
  std::vector<Parameter> parameters_;
  std::vector<ValueId> gradients_;
  Recompute recomputed_;
  Phase phase_ = Phase::forward;
  bool training_ = true;
  Precision precision_ = Precision::fp32;
};

// Operations -------------------------------------------------------------------------------------
// Each checks its operands and throws BadInput naming the node, the sizes found and expected.

struct PatchEmbedOptions {
  std::int64_t channels = 0, height = 0, width = 0, patch_size = 0;
  std::int64_t source_height = 0, source_width = 0;
};
/// images [N, C, h, w] (u8 or f32), rows [B], mean and std [C] → patches [B, P, C·p·p]
ValueId patch_embed(Graph& graph, const std::string& name, ValueId images, ValueId rows,
                    ValueId mean, ValueId std, const PatchEmbedOptions& options);

/// images [B, C, H, W] in any shape, normalised; weight [D, C, p, p], bias [D] → [B, P, D]: the
/// patch projection as a convolution. Has no gradient of the images.
ValueId patch_convolution(Graph& graph, const std::string& name, ValueId images, ValueId weight,
                          ValueId bias, const PatchEmbedOptions& options);

/// x [..., K] · weight [N, K]ᵀ + bias [N] → [..., N]
ValueId linear(Graph& graph, const std::string& name, ValueId x, ValueId weight, ValueId bias);

/// x [B, T, H·d] → [B, T, parts·H·d] by weight [parts, H, d, d], bias [parts, H, d]
ValueId per_head_linear(Graph& graph, const std::string& name, ValueId x, ValueId weight,
                        ValueId bias);

/// patches [B, P, D] → x [B, T, D]; registers [R, D] or kNone; see TokensForward
ValueId tokens(Graph& graph, const std::string& name, ValueId patches, ValueId class_token,
               ValueId position, ClassToken place, Dropout dropout, ValueId registers = kNone,
               bool patch_positions = false);

/// x [B, T, D] → [B, D], the mean of the window's tokens
ValueId pool(Graph& graph, const std::string& name, ValueId x, TokenWindow window);

/// x + drop_path(dropout(branch))
ValueId residual(Graph& graph, const std::string& name, ValueId x, ValueId branch, Dropout dropout,
                 Dropout drop_path, TokenWindow window);

/// `count` of `batch` samples, as ChooseSamples says: their numbers [count], rising, and each
/// sample's place among them [batch], −1 for the others.
struct SampleSubset {
  ValueId samples = kNone, slots = kNone;
};
SampleSubset choose_samples(Graph& graph, const std::string& name, std::int64_t batch,
                            std::int64_t count, std::uint32_t operation);

/// scale · the subset's samples of x [B, ...] → [k, ...]
ValueId take_samples(Graph& graph, const std::string& name, ValueId x, const SampleSubset& subset,
                     float scale = 1.0f);

/// x [B, ...] with scale · part [k, ...] added to the subset's samples
ValueId add_samples(Graph& graph, const std::string& name, ValueId x, ValueId part,
                    const SampleSubset& subset, float scale);

/// x [..., D] · scale [D], channel by channel
ValueId scale_columns(Graph& graph, const std::string& name, ValueId x, ValueId scale);

ValueId layer_norm(Graph& graph, const std::string& name, ValueId x, ValueId weight, ValueId bias,
                   float eps);
/// The same over the d channels of each head alone: x [..., H·d], weight and bias [d].
ValueId layer_norm_of_heads(Graph& graph, const std::string& name, ValueId x, ValueId weight,
                            ValueId bias, float eps);

/// dropout(f(x + bias))
ValueId activation(Graph& graph, const std::string& name, ValueId x, ValueId bias,
                   ActivationKind kind, Dropout dropout, TokenWindow window);

/// qkv [B, T, 3·H·d] → [B, T, H·d]; kv and v are kNone. Or q [B, Tq·…, H·d] and kv [B, T, 2·H·d].
/// Or q, k in the place of kv, and v, each [B, T, H·d].
struct AttentionValues {
  ValueId out = kNone, log_sum_exp = kNone, probabilities = kNone;
};
AttentionValues attention(Graph& graph, const std::string& name, ValueId qkv, ValueId kv,
                          std::int64_t heads, TokenWindow window, Dropout dropout,
                          bool keep_probabilities, ValueId v = kNone);

/// logits [B, K], labels [B], mixes [B] or kNone → loss [B]; dlogits when training. Options as in
/// CrossEntropy.
struct LossOptions {
  LossKind kind = LossKind::softmax;
  float label_smoothing = 0.0f;
  float target_threshold = -1.0f;
  bool sum_classes = false;
  bool head_softmax = false;
  bool probabilities = false;
};
struct LossValues {
  ValueId loss = kNone, dlogits = kNone, probabilities = kNone;
};
LossValues cross_entropy(Graph& graph, const std::string& name, ValueId logits, ValueId labels,
                         const LossOptions& options, ValueId mixes = kNone);

/// a + b
ValueId add(Graph& graph, const std::string& name, ValueId a, ValueId b);

// Passes: from graph to graph, on the forward part, before `backward` ---------------------------

/// layer_norm(residual(x, branch)) becomes one operation.
Graph fuse_residual_norm(const Graph& graph);

/// Work on tokens that nobody reads is dropped: with class-token pooling the last block needs all
/// tokens for keys and values only. Exact.
Graph prune_unread_tokens(const Graph& graph);

}  // namespace vitrine
