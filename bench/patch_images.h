// Stored images and where the rows of a batch come from, for the benchmarks of the patch
// projection.
#pragma once

#include <cstring>
#include <vector>

#include "graph_case.h"
#include "reference/patch_embed.h"

namespace vitrine::bench {

struct PatchSizes {
  std::int64_t batch, channels, image_size, patch_size, hidden;

  std::int64_t patches() const { return image_size / patch_size * (image_size / patch_size); }
  std::int64_t pixels() const { return channels * patch_size * patch_size; }
  std::int64_t image_elements() const { return channels * image_size * image_size; }
  std::string text() const {
    return "/B:" + std::to_string(batch) + "/C:" + std::to_string(channels) +
           "/size:" + std::to_string(image_size) + "/p:" + std::to_string(patch_size);
  }
  PatchEmbedOptions options() const {
    return {channels, image_size, image_size, patch_size, image_size, image_size};
  }
};

inline PatchSizes patch_sizes(const Images& images) {
  const shapes::Model& m = images.model;
  return {images.batch, m.channels, m.image_size, m.patch_size, m.hidden};
}

/// One row for each stored image: whole and as it is, or flipped and cropped.
inline std::vector<BatchRow> batch_rows(const PatchSizes& s, bool varied) {
  std::vector<BatchRow> rows;
  const auto size = static_cast<float>(s.image_size);
  for (std::int64_t i = 0; i < s.batch; ++i) {
    BatchRow row{.image = i, .crop_width = size, .crop_height = size};
    if (varied) {
      row.crop_x = row.crop_y = 0.0625f * size;
      row.crop_width = row.crop_height = 0.875f * size - static_cast<float>(i % 3);
      row.flip = static_cast<std::int32_t>(i % 2);
    }
    rows.push_back(row);
  }
  return rows;
}

/// The inputs of a graph that begins with stored images.
struct StoredImages {
  ValueId images, rows, mean, std;
  std::vector<BatchRow> batch;

  StoredImages(Graph& graph, const PatchSizes& s, bool varied)
      : images(graph.input("images", {s.batch, s.channels, s.image_size, s.image_size}, DType::u8,
                           ValueKind::input)),
        rows(graph.input("rows", {s.batch, static_cast<std::int64_t>(sizeof(BatchRow))}, DType::u8,
                         ValueKind::row_input)),
        mean(graph.constant("mean", {s.channels}, of_channels(s, 0.45f))),
        std(graph.constant("std", {s.channels}, of_channels(s, 0.25f))),
        batch(batch_rows(s, varied)) {}

  static std::vector<float> of_channels(const PatchSizes& s, float first) {
    std::vector<float> numbers;
    for (std::int64_t i = 0; i < s.channels; ++i) {
      numbers.push_back(first + 0.01f * static_cast<float>(i));
    }
    return numbers;
  }
  std::vector<char> row_bytes() const {
    std::vector<char> bytes(batch.size() * sizeof(BatchRow));
    std::memcpy(bytes.data(), batch.data(), bytes.size());
    return bytes;
  }
  /// The reference's problem for one image, with patches of that size.
  reference::patch_embed::Problem problem(const GraphCase& c, const PatchSizes& s,
                                          std::int64_t image, std::int64_t patch_size) const {
    BatchRow row = batch[static_cast<std::size_t>(image)];
    row.image = 0;
    reference::patch_embed::Problem problem(
        {s.channels, s.image_size, s.image_size, patch_size, s.image_size, s.image_size, {row}}, 0);
    const std::vector<float> pixels =
        c.drawn(images, image * s.image_elements(), s.image_elements());
    problem.bytes.assign(pixels.begin(), pixels.end());
    problem.mean = of_channels(s, 0.45f);
    problem.std = of_channels(s, 0.25f);
    return problem;
  }
};

}  // namespace vitrine::bench
