// take_samples and add_samples: half of the samples, into a branch and back into the stream.
//
// Peer: a plain copy of the same bytes.
#include "graph_case.h"
#include "reference/samples.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kSamplesChecked = 4;
constexpr std::uint32_t kOperation = 5;
constexpr float kScale = 2.0f;

struct Sizes {
  std::int64_t batch, tokens, cols;

  std::int64_t count() const { return (batch + 1) / 2; }
  Shape shape(std::int64_t samples) const { return {samples, tokens, cols}; }
  std::string text() const {
    return "/B:" + std::to_string(batch) + "/count:" + std::to_string(count()) +
           "/T:" + std::to_string(tokens) + "/D:" + std::to_string(cols);
  }
};

/// Samples of x, zeros for kNone, plus the scaled part of their slots, if they have one.
template <typename T>
std::vector<T> expected(const GraphCase& c, std::int64_t elements, std::int64_t sample, ValueId x,
                        std::int64_t slot, ValueId part) {
  std::vector<T> values;
  for (std::int64_t i = 0; i < elements; ++i) {
    T value = x == kNone ? T(0) : T(c.drawn(x, sample * elements + i));
    if (slot >= 0) value += T(kScale) * T(c.drawn(part, slot * elements + i));
    values.push_back(value);
  }
  return values;
}

GraphWork taking(const Sizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId x = random_input(graph, "x", s.shape(s.batch));
  const SampleSubset subset = choose_samples(graph, "subset", s.batch, s.count(), kOperation);
  const ValueId out = take_samples(graph, "out", x, subset, kScale);
  return {.graph = std::move(graph), .timed = {1}, .error = [=](const GraphCase& c) {
            const auto chosen =
                reference::samples::chosen(s.batch, s.count(), kOperation, c.state());
            Comparison comparison("out", c.dtype(out));
            const std::int64_t n = s.tokens * s.cols;
            for (const std::int64_t slot : sample(s.count(), kSamplesChecked)) {
              const std::int64_t from = chosen.samples[slot];
              comparison.add(c.read(out, slot * n, n), expected<float>(c, n, slot, kNone, from, x),
                             expected<double>(c, n, slot, kNone, from, x));
            }
            return comparison.error();
          }};
}

/// x and the result have memory of their own here, so that x is copied too.
GraphWork adding(const Sizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId x = random_input(graph, "x", s.shape(s.batch));
  const ValueId part = random_input(graph, "part", s.shape(s.count()));
  const SampleSubset subset = choose_samples(graph, "subset", s.batch, s.count(), kOperation);
  const ValueId out = add_samples(graph, "out", x, part, subset, kScale);
  const Cost cost{.flops = graph.cost(graph.nodes()[1]).flops,
                  .bytes = static_cast<double>(2 * graph.value(x).bytes() +
                                               graph.value(part).bytes() + 4 * s.batch)};
  return {.graph = std::move(graph),
          .timed = {1},
          .error =
              [=](const GraphCase& c) {
                const auto chosen =
                    reference::samples::chosen(s.batch, s.count(), kOperation, c.state());
                Comparison comparison("out", c.dtype(out));
                const std::int64_t n = s.tokens * s.cols;
                for (const std::int64_t at : sample(s.batch, kSamplesChecked)) {
                  const std::int64_t slot = chosen.slots[at];
                  comparison.add(c.read(out, at * n, n), expected<float>(c, n, at, x, slot, part),
                                 expected<double>(c, n, at, x, slot, part));
                }
                return comparison.error();
              },
          .cost = cost};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const Sizes s{images.batch, images.model.tokens(), images.model.hidden};
      for (const bool take : {true, false}) {
        add_graph(
            {(take ? "take_samples" : "add_samples") + s.text(), precision, images.chunk},
            [=](const DeviceTraits&) { return take ? taking(s, precision) : adding(s, precision); },
            /*copy=*/true);
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
