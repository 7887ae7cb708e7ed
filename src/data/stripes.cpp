// Images for measurements: a stripe pattern by class, and noise.
#include "vitrine/dataset.h"

namespace vitrine {

Dataset make_stripes(std::int64_t count, std::int64_t classes, std::int64_t channels,
                     std::int64_t height, std::int64_t width) {
  Dataset data{.name = "stripes", .channels = channels, .height = height, .width = width};
  for (std::int64_t i = 0; i < classes; ++i) data.class_names.push_back(std::to_string(i));
  data.images.resize(static_cast<std::size_t>(count * data.image_bytes()));
  std::uint8_t* pixel = data.images.data();
  RandomStream random(1, 0);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(width));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(classes)));
    data.labels.push_back(label);
    for (std::int64_t x = 0; x < width; ++x) {
      row[static_cast<std::size_t>(x)] =
          static_cast<std::uint8_t>(x * (label + 1) * 16 / width % 16 * 12);
    }
    std::uint32_t noise = 0;  // four pixels of it
    for (std::int64_t y = 0; y < channels * height; ++y) {
      for (std::int64_t x = 0; x < width; ++x, noise >>= 8) {
        if (x % 4 == 0) noise = random.next_u32();
        *pixel++ = static_cast<std::uint8_t>(row[static_cast<std::size_t>(x)] + noise % 64);
      }
    }
  }
  return data;
}

}  // namespace vitrine
