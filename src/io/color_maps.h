// Numbers in [0, 1] as colours.
#pragma once

#include <array>
#include <cstdint>

#include "vitrine/picture.h"

namespace vitrine {

using Color = std::array<std::uint8_t, 3>;  ///< red, green, blue

/// `t` is brought into [0, 1]; NaN is grey.
Color color_of(ColorMap colors, float t);

}  // namespace vitrine
