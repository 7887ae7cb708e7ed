// From graph to plan: value lifetimes to offsets in one arena.
//
// A value lives from the node that writes it to the last node that reads it. A node whose input
// dies there may hand the input's storage to an output (`may_share`, `addend`). Storages that live
// at the same time do not overlap; the largest are placed first, each at the lowest free offset
// (greedy by size; Pisarchyk and Lee 2020, arXiv:2001.03288, section 4.2).
#include "vitrine/plan.h"

#include <algorithm>
#include <numeric>

#include "graph/operations.h"

namespace vitrine {
namespace {

constexpr std::int64_t kAlignment = 256;  // bytes

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::int64_t place_blocks(std::vector<ArenaBlock>& blocks) {
  std::vector<int> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return blocks[a].bytes > blocks[b].bytes; });
  std::int64_t size = 0;
  std::vector<int> placed;  // by rising offset
  for (int i : order) {
    ArenaBlock& block = blocks[i];
    std::int64_t offset = 0;
    for (int j : placed) {
      const ArenaBlock& other = blocks[j];
      if (other.last < block.first || block.last < other.first) continue;
      if (offset + aligned(block.bytes) <= other.offset) break;
      offset = std::max(offset, other.offset + aligned(other.bytes));
    }
    block.offset = offset;
    size = std::max(size, offset + aligned(block.bytes));
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i,
                         [&](int a, int b) { return blocks[a].offset < blocks[b].offset; }),
        i);
  }
  return size;
}

std::int64_t largest_that_fits(std::int64_t limit, const std::function<bool(std::int64_t)>& fits) {
  if (limit < 1 || !fits(1)) return 0;
  std::int64_t good = 1, bad = limit + 1;
  for (std::int64_t n = 2; n < bad; n *= 2) {
    if (!fits(n)) {
      bad = n;
      break;
    }
    good = n;
  }
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

Chunking choose_chunking(std::int64_t batch, std::int64_t activation_bytes_per_image,
                         std::int64_t parameter_count, const DeviceTraits& traits) {
  // A chunk should stay in a second-level cache while it passes through an operation, and be long
  // enough that the few microseconds an operation costs in itself do not show.
  constexpr std::int64_t kChunkBytes = std::int64_t{6} << 20;
  constexpr std::int64_t kLargestChunk = 32;
  constexpr std::int64_t kGradientBytes = std::int64_t{32} << 20;  // all lanes together
  constexpr std::int64_t kMostLanes = 32;
  const std::int64_t gradient_bytes = std::max<std::int64_t>(parameter_count, 1) * 4;
  const std::int64_t lanes = std::min(kMostLanes, kGradientBytes / gradient_bytes);
  if (!traits.chunks || activation_bytes_per_image > kChunkBytes || lanes < 4) {
    return {.batch = batch, .rows = batch, .count = 1, .lanes = 1};
  }
  const std::int64_t most = std::clamp<std::int64_t>(
      kChunkBytes / std::max<std::int64_t>(activation_bytes_per_image, 1), 1, kLargestChunk);
  Chunking chunking{.batch = batch};
  const std::int64_t count = (batch + most - 1) / most;
  chunking.rows = (batch + count - 1) / count;
  chunking.count = (batch + chunking.rows - 1) / chunking.rows;
  chunking.lanes = std::min(lanes, chunking.count);
  return chunking;
}

Plan::Plan(Graph graph, const DeviceTraits& traits, const Chunking& chunking)
    : graph_(std::move(graph)), chunking_(chunking), traits_(traits) {
  if (chunking.lanes > 1) {
    traits_.max_partials = 1;
    traits_.max_row_blocks = 1;
  }
  place_parameters();
  place_arena();
}

void Plan::place_parameters() {
  constexpr std::int64_t kElements = kAlignment / 4;
  for (const Parameter& parameter : graph_.parameters()) {
    parameter_offsets_.push_back(parameter_elements_);
    parameter_elements_ += (parameter.shape.elements() + kElements - 1) / kElements * kElements;
  }
  locations_.resize(graph_.values().size());
  step_bytes_ = aligned(chunking_.count * static_cast<std::int64_t>(sizeof(StepState)));
  for (std::size_t i = 0; i < graph_.values().size(); ++i) {
    const Value& value = graph_.values()[i];
    Location& location = locations_[i];
    switch (value.kind) {
      case ValueKind::parameter:
      case ValueKind::parameter_gradient:
        location.place = value.kind == ValueKind::parameter ? Place::weights : Place::gradients;
        location.offset =
            (parameter_offsets_[value.parameter] + value.offset) * size_of(value.dtype);
        break;
      case ValueKind::row_input:
        location = {Place::rows, step_bytes_};
        step_bytes_ += aligned(value.bytes() * chunking_.count);
        break;
      case ValueKind::input:
        location = {Place::inputs, static_cast<std::int64_t>(inputs_.size())};
        inputs_.push_back(static_cast<ValueId>(i));
        break;
      case ValueKind::constant:
        location = {Place::constants, constant_bytes_};
        constant_bytes_ += aligned(value.bytes());
        break;
      case ValueKind::activation:
        if (value.producer >= 0 && value.keep) {
          location = {Place::outputs, output_bytes_};
          output_bytes_ += aligned(value.bytes() * chunking_.count);
        }
        break;
    }
  }
}

/// A piece of the arena that one value after another may use.
struct Plan::Storage {
  std::int64_t bytes = 0;
  int first = 0, last = 0;
};

std::vector<int> Plan::last_uses() const {
  std::vector<int> last(graph_.values().size(), -1);
  for (std::size_t step = 0; step < graph_.nodes().size(); ++step) {
    for (ValueId id : graph_.nodes()[step].outputs) {
      if (id != kNone) last[id] = std::max(last[id], static_cast<int>(step));
    }
    for (ValueId id : graph_.nodes()[step].inputs) {
      if (id != kNone) last[id] = static_cast<int>(step);
    }
  }
  return last;
}

// The storage that `output` may take over from an input that dies at this step, or -1.
int Plan::share(const Node& node, int output, const std::vector<int>& storage_of,
                const std::vector<Storage>& storages, int step) const {
  auto candidate = [&](int input) {
    const ValueId id = node.inputs[input];
    if (id == kNone || storage_of[id] < 0) return -1;
    const Storage& storage = storages[storage_of[id]];
    const bool same_size = storage.bytes == graph_.value(node.outputs[output]).bytes();
    const bool taken = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId other) {
      return other != kNone && storage_of[other] == storage_of[id];
    });
    return same_size && storage.last == step && !taken ? storage_of[id] : -1;
  };
  if (output == 0 && node.operation->addend() >= 0) {
    // The other inputs are read while output 0 is written, so the addend must not be one of them.
    const int storage = candidate(node.operation->addend());
    const auto uses = std::count_if(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return id != kNone && storage_of[id] == storage;
    });
    if (storage >= 0 && uses == 1) return storage;
  }
  for (const auto& [out, in] : node.operation->may_share()) {
    if (out != output) continue;
    const int storage = candidate(in);
    if (storage >= 0) return storage;
  }
  return -1;
}

void Plan::place_arena() {
  const std::vector<int> last = last_uses();
  std::vector<int> storage_of(graph_.values().size(), -1);
  std::vector<Storage> storages;
  for (std::size_t i = 0; i < graph_.nodes().size(); ++i) {
    const Node& node = graph_.nodes()[i];
    const int step = static_cast<int>(i);
    has_backward_ |= node.phase == Phase::backward;
    PlanStep plan_step{.node = step};
    for (std::size_t out = 0; out < node.outputs.size(); ++out) {
      const ValueId id = node.outputs[out];
      if (id == kNone || graph_.value(id).kind != ValueKind::activation) continue;
      if (locations_[id].place == Place::outputs) continue;
      int storage = share(node, static_cast<int>(out), storage_of, storages, step);
      if (storage < 0) {
        storage = static_cast<int>(storages.size());
        storages.push_back({graph_.value(id).bytes(), step, step});
      }
      storage_of[id] = storage;
      storages[storage].last = std::max(last[id], step);
    }
    const int addend = node.operation->addend();
    if (addend >= 0 && node.inputs[addend] != kNone) {
      plan_step.copy_addend = storage_of[node.inputs[addend]] < 0 ||
                              storage_of[node.inputs[addend]] != storage_of[node.outputs[0]];
    }
    plan_step.workspace_floats = node.operation->workspace(graph_, node, traits_);
    steps_.push_back(plan_step);
  }
  std::vector<ArenaBlock> blocks;
  for (const Storage& storage : storages) {
    blocks.push_back({storage.bytes, storage.first, storage.last});
  }
  for (const PlanStep& step : steps_) {
    blocks.push_back({step.workspace_floats * 4, step.node, step.node});
  }
  arena_bytes_ = place_blocks(blocks);
  for (std::size_t id = 0; id < storage_of.size(); ++id) {
    if (storage_of[id] >= 0) locations_[id] = {Place::arena, blocks[storage_of[id]].offset};
  }
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    steps_[i].workspace_offset = blocks[storages.size() + i].offset;
  }
}

MemoryReport Plan::memory(int workers) const {
  const std::int64_t parameters = parameter_elements_ * 4;
  const std::int64_t arenas = std::min<std::int64_t>(workers, chunking_.lanes);
  MemoryReport report;
  report.weights = parameters;
  if (graph_.working_type() != DType::f32) {
    report.weights += parameter_elements_ * size_of(graph_.working_type());
  }
  report.gradients = has_backward_ ? parameters * chunking_.lanes : 0;
  report.moments = has_backward_ ? parameters * 2 : 0;
  report.activations = arena_bytes_ * arenas;
  report.outputs = output_bytes_ + constant_bytes_ + step_bytes_;
  report.runtime = traits_.runtime;
  return report;
}

Cost Plan::cost() const {
  Cost total;
  for (const Node& node : graph_.nodes()) {
    const Cost cost = graph_.cost(node);
    total.flops += cost.flops * static_cast<double>(chunking_.count);
    total.bytes += cost.bytes * static_cast<double>(chunking_.count);
  }
  return total;
}

double Plan::forward_flops() const {
  double flops = 0;
  for (const Node& node : graph_.nodes()) {
    if (node.phase == Phase::forward) flops += graph_.cost(node).flops;
  }
  return flops * static_cast<double>(chunking_.count);
}

}  // namespace vitrine
