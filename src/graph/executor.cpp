// Walking a plan.
//
// A lane is a run of neighbouring chunks. Its first chunk writes the lane's gradients, the others
// add to them; the lanes are summed in order afterwards. Lanes run side by side on the device's
// workers, each worker with its own arena, so bits depend on the plan and not on the threads.
#include "vitrine/executor.h"

#include <algorithm>
#include <cstring>

#include "vitrine/conversion.h"

namespace vitrine {
namespace {

const char* phase_name(Phase phase) {
  return phase == Phase::forward ? "forward" : "backward";
}

std::int64_t points_of_chunk(const Plan& plan) {
  return static_cast<std::int64_t>(plan.steps().size()) + 1;
}

std::size_t positive(std::int64_t bytes) {
  return static_cast<std::size_t>(std::max<std::int64_t>(bytes, 256));
}

}  // namespace

/// A node's operands for one chunk on one worker.
class Executor::Bound final : public Operands {
 public:
  Bound(const Executor& executor, const RunArgs& args, int worker, std::int64_t chunk,
        std::int64_t lane, bool accumulate)
      : executor_(executor),
        plan_(executor.plan_),
        args_(args),
        arena_(executor.arenas_.as<char>() +
               arena_of(executor, worker, lane) * plan_.arena_bytes()),
        gradients_(plan_.has_backward()
                       ? executor.gradients_.as<char>() + lane * plan_.parameter_elements() * 4
                       : nullptr),
        chunk_(chunk),
        accumulate_(accumulate) {}

  void select(const PlanStep& step) {
    step_ = &step;
    node_ = &plan_.graph().nodes()[step.node];
  }

  View<void> out(int i) const override {
    const ValueId id = node_->outputs[i];
    if (id == kNone) return {};
    const Value& value = plan_.graph().value(id);
    return {const_cast<void*>(address(id)), value.shape.elements(), value.dtype};
  }
  ConstView<void> in(int i) const override {
    const ValueId id = node_->inputs[i];
    if (id == kNone) return {};
    const Value& value = plan_.graph().value(id);
    return {address(id), value.shape.elements(), value.dtype};
  }
  View<float> workspace() const override {
    if (step_->workspace_floats == 0) return {};
    return {reinterpret_cast<float*>(arena_ + step_->workspace_offset), step_->workspace_floats};
  }
  const StepState* state() const override { return executor_.state() + chunk_; }
  Metrics* metrics() const override { return executor_.metrics_.as<Metrics>() + chunk_; }
  bool accumulate() const override { return accumulate_; }
  const DeviceTraits& traits() const override { return plan_.traits(); }

 private:
  // With fewer lanes than workers there are as many arenas as lanes, and any worker may run a lane.
  static std::int64_t arena_of(const Executor& executor, int worker, std::int64_t lane) {
    return executor.plan_.chunking().lanes <= executor.device_.workers() ? lane : worker;
  }

  const void* address(ValueId id) const {
    const Location& location = plan_.location(id);
    const Value& value = plan_.graph().value(id);
    switch (location.place) {
      case Place::weights:
        return reinterpret_cast<const char*>(args_.weights) + location.offset;
      case Place::gradients:
        return gradients_ + location.offset;
      case Place::inputs:
        return args_.inputs.at(location.offset);
      case Place::rows:
        return executor_.step_.as<char>() + location.offset + chunk_ * value.bytes();
      case Place::constants:
        return executor_.constants_.as<char>() + location.offset;
      case Place::arena:
        return arena_ + location.offset;
      case Place::outputs:
        return executor_.outputs_.as<char>() + location.offset + chunk_ * value.bytes();
      case Place::none:
        break;
    }
    throw DeviceError(value.name + ": has no place in the plan");
  }

  const Executor& executor_;
  const Plan& plan_;
  const RunArgs& args_;
  char* arena_;
  char* gradients_;
  std::int64_t chunk_;
  bool accumulate_;
  const PlanStep* step_ = nullptr;
  const Node* node_ = nullptr;
};

/// Profiler ranges around operations: phase, layer, operation.
class Executor::Ranges {
 public:
  explicit Ranges(Device& device) : device_(device) {}
  ~Ranges() { close(0); }
  Ranges(const Ranges&) = delete;
  Ranges& operator=(const Ranges&) = delete;

  void enter(const Node& node) {
    if (!device_.traces()) return;
    const std::string levels[] = {phase_name(node.phase), layer_of(node.name),
                                  node.operation->name()};
    std::size_t same = 0;
    while (same < 2 && same < open_.size() && open_[same] == levels[same]) ++same;
    close(same);
    for (std::size_t level = same; level < 3; ++level) {
      open_.push_back(levels[level]);
      device_.begin_range(levels[level]);
    }
  }

 private:
  void close(std::size_t level) {
    for (; open_.size() > level; open_.pop_back()) device_.end_range();
  }

  Device& device_;
  std::vector<std::string> open_;
};

Executor::Executor(Device& device, const Plan& plan) : device_(device), plan_(plan) {
  const Chunking& chunking = plan.chunking();
  const std::int64_t arenas = std::min<std::int64_t>(device.workers(), chunking.lanes);
  arenas_ = device.allocate(positive(plan.arena_bytes() * arenas), "activations");
  if (plan.has_backward()) {
    gradients_ =
        device.allocate(positive(plan.parameter_elements() * 4 * chunking.lanes), "gradients");
  }
  outputs_ = device.allocate(positive(plan.output_bytes()), "outputs");
  constants_ = device.allocate(positive(plan.constant_bytes()), "constants");
  const auto count = static_cast<std::size_t>(chunking.count);
  step_ = device.allocate(static_cast<std::size_t>(plan.step_bytes()), "step state");
  host_step_.resize(step_.bytes());
  metrics_ = device.allocate(count * sizeof(Metrics), "running sums");
  for (std::size_t id = 0; id < plan.graph().values().size(); ++id) {
    const Value& value = plan.graph().values()[id];
    if (value.kind != ValueKind::constant) continue;
    const std::vector<char> numbers = converted(value.constant, value.dtype);
    device.upload(constants_.as<char>() + plan.location(static_cast<ValueId>(id)).offset,
                  numbers.data(), numbers.size());
  }
  workers_of_chunks_.assign(count, -1);
}

bool Executor::has_row_input(const std::string& name) const {
  const ValueId id = plan_.graph().find(name);
  return id != kNone && plan_.location(id).place == Place::rows;
}

std::span<char> Executor::row_input_bytes(const std::string& name) {
  if (!has_row_input(name)) throw DeviceError(name + ": is no row input of the plan");
  const ValueId id = plan_.graph().find(name);
  const std::int64_t bytes = plan_.graph().value(id).bytes() * plan_.chunking().count;
  return {host_step_.data() + plan_.location(id).offset, static_cast<std::size_t>(bytes)};
}

void Executor::set_state(const StepState& state) {
  for (std::int64_t chunk = 0; chunk < plan_.chunking().count; ++chunk) {
    StepState own = state;
    own.first_row += chunk * plan_.chunking().rows;
    std::memcpy(host_step_.data() + chunk * static_cast<std::int64_t>(sizeof own), &own,
                sizeof own);
  }
  device_.upload(step_.data(), host_step_.data(), host_step_.size());
}

void Executor::run(const RunArgs& args) {
  const Chunking& chunking = plan_.chunking();
  const std::int64_t active = std::clamp<std::int64_t>(
      (args.valid_rows + chunking.rows - 1) / chunking.rows, 0, chunking.count);
  workers_of_chunks_.assign(workers_of_chunks_.size(), -1);
  device_.for_each(chunking.lanes, [&](int worker, std::int64_t lane) {
    const std::int64_t begin = lane * chunking.count / chunking.lanes;
    const std::int64_t end = (lane + 1) * chunking.count / chunking.lanes;
    if (begin >= active && plan_.has_backward() && !args.accumulate) {
      const std::int64_t bytes = plan_.parameter_elements() * 4;
      device_.fill_zero(gradients_.as<char>() + lane * bytes, static_cast<std::size_t>(bytes));
    }
    for (std::int64_t chunk = begin; chunk < std::min(end, active); ++chunk) {
      run_chunk(args, worker, chunk, lane, args.accumulate || chunk > begin);
    }
  });
}

void Executor::run_chunk(const RunArgs& args, int worker, std::int64_t chunk, std::int64_t lane,
                         bool accumulate) {
  Bound operands(*this, args, worker, chunk, lane, accumulate);
  Ranges ranges(device_);
  std::int64_t point = first_point_ + chunk * points_of_chunk(plan_);
  const auto mark = [&] {
    if (stopwatch_ != nullptr) stopwatch_->mark(point++);
  };
  workers_of_chunks_[static_cast<std::size_t>(chunk)] = worker;
  mark();
  for (const PlanStep& step : plan_.steps()) {
    const Node& node = plan_.graph().nodes()[step.node];
    operands.select(step);
    ranges.enter(node);
    if (step.copy_addend) {
      const ConstView<void> addend = operands.in(node.operation->addend());
      device_.copy(operands.out(0).data, addend.data,
                   static_cast<std::size_t>(addend.size * size_of(addend.dtype)));
    }
    run_operation(node, operands);
    mark();
  }
}

void Executor::run_operation(const Node& node, const Operands& operands) {
  try {
    node.operation->run(device_.kernels(), operands);
  } catch (const DeviceError& error) {
    throw DeviceError(node.name + ": " + error.what());
  }
  try {
    device_.operation_done();
  } catch (const DeviceError& error) {
    throw DeviceError(node.name + ": " + node.operation->name() + ": " + error.what());
  }
}

void Executor::sum_gradients() {
  const std::int64_t lanes = plan_.chunking().lanes;
  if (lanes == 1) return;
  const std::int64_t n = plan_.parameter_elements();
  device_.kernels().sum_parts(
      {.out = {gradients(), n}, .parts = {gradients(), n * lanes}, .num_parts = lanes, .n = n});
}

std::vector<Metrics> Executor::chunk_metrics() const {
  std::vector<Metrics> chunks(static_cast<std::size_t>(plan_.chunking().count));
  device_.download(chunks.data(), metrics_.data(), chunks.size() * sizeof(Metrics));
  return chunks;
}

void Executor::set_chunk_metrics(const std::vector<Metrics>& metrics) {
  device_.upload(metrics_.data(), metrics.data(), metrics.size() * sizeof(Metrics));
}

void Executor::reset_metrics() {
  device_.fill_zero(metrics_.data(), metrics_.bytes());
}

std::unique_ptr<Readback> Executor::read_metrics() const {
  return device_.read_back(metrics_.data(), metrics_.bytes());
}

Metrics Executor::metrics() const {
  return metrics(*read_metrics());
}

Metrics Executor::metrics(Readback& readback) const {
  Metrics sum;
  const auto* chunks = static_cast<const Metrics*>(readback.wait());
  for (std::int64_t i = 0; i < plan_.chunking().count; ++i) {
    const Metrics& chunk = chunks[i];
    sum.loss += chunk.loss;
    sum.batch_loss += chunk.batch_loss;
    sum.samples += chunk.samples;
    sum.top1 += chunk.top1;
    sum.top5 += chunk.top5;
  }
  return sum;
}

std::vector<float> Executor::output(ValueId id) const {
  const Value& value = plan_.graph().value(id);
  std::vector<char> bytes(static_cast<std::size_t>(value.bytes() * plan_.chunking().count));
  device_.download(bytes.data(), outputs_.as<char>() + plan_.location(id).offset, bytes.size());
  return as_floats(bytes, value.dtype);
}

std::int64_t Executor::points() const {
  return plan_.chunking().count * points_of_chunk(plan_);
}

void Executor::set_stopwatch(Stopwatch* stopwatch, std::int64_t first) {
  stopwatch_ = stopwatch;
  first_point_ = first;
}

std::vector<StepOperation> Executor::timed_operations() const {
  const auto lanes = plan_.chunking().lanes;
  const auto side_by_side = static_cast<int>(std::min<std::int64_t>(lanes, device_.workers()));
  std::vector<StepOperation> operations;
  for (const PlanStep& step : plan_.steps()) {
    const Node& node = plan_.graph().nodes()[step.node];
    const Cost cost = plan_.graph().cost(node);
    operations.push_back({.operation = node.operation->name(),
                          .place = node.name,
                          .phase = phase_name(node.phase),
                          .flops = cost.flops,
                          .bytes = cost.bytes,
                          .side_by_side = side_by_side});
  }
  return operations;
}

std::vector<Span> Executor::spans(const std::vector<double>& seconds) const {
  std::vector<Span> spans;
  const auto steps = static_cast<int>(plan_.steps().size());
  for (std::int64_t chunk = 0; chunk < plan_.chunking().count; ++chunk) {
    const int worker = workers_of_chunks_[static_cast<std::size_t>(chunk)];
    if (worker < 0) continue;
    const double* point = seconds.data() + first_point_ + chunk * points_of_chunk(plan_);
    for (int i = 0; i < steps; ++i) {
      spans.push_back({.operation = i, .worker = worker, .begin = point[i], .end = point[i + 1]});
    }
  }
  return spans;
}

}  // namespace vitrine
