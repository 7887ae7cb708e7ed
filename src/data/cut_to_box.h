// Crop, then resize: what RandomResizedCrop does.
#pragma once

#include <algorithm>
#include <cmath>

#include "vitrine/augment.h"

namespace vitrine {

/// Makes the box the whole picture, so that filters see nothing around it.
inline void cut_to_box(PictureView& view) {
  const auto cut = [&view](float& begin, float length, std::int32_t& side, std::int64_t stride) {
    constexpr float kRounding = 1.0f / 128.0f;  // of places to float
    const auto first = static_cast<std::int32_t>(std::floor(begin + kRounding));
    const auto end = static_cast<std::int32_t>(std::ceil(begin + length - kRounding));
    side = std::min(side, end) - first;
    begin -= static_cast<float>(first);
    view.offset += first * stride;
  };
  cut(view.crop_y, view.crop_height, view.height, view.stride_y);
  cut(view.crop_x, view.crop_width, view.width, view.stride_x);
}

}  // namespace vitrine
