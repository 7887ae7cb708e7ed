// Image.transform(AFFINE) of Pillow for single pixels: where an output pixel takes its value from,
// and samples between pixels. Rounds as pixel_math.h says.
#pragma once

#include <cmath>
#include <cstdint>

#include "vitrine/pixel_math.h"

namespace vitrine::pixel {

/// Where an output pixel takes its value from; outside the image where x is −1.
struct NearestPixel {
  int x = -1, y = -1;
};

/// start + step + step + …: Pillow adds up positions of pictures that it only stretches or shifts.
VITRINE_HOST_DEVICE inline double added_up(double start, double step, int count) {
  for (int i = 0; i < count; ++i) start += step;
  return start;
}

VITRINE_HOST_DEVICE constexpr int pixel_under(double position, int size) {
  return position >= 0.0 && position < size ? static_cast<int>(position) : -1;
}

/// The arithmetic of Image.transform(AFFINE, NEAREST): positions are added up in double where the
/// axes stay apart, counted in 65536ths of a pixel where all corners are less than 32768 away, and
/// otherwise added up along both axes.
struct NearestMap {
  double value[6];
  double start_x, start_y;  ///< position of output pixel (0, 0)
  bool separable, fixed;
  std::uint32_t fixed_x[3], fixed_y[3];  ///< start and steps along x and y, in 65536ths

  VITRINE_HOST_DEVICE NearestMap(const double* v, int height, int width)
      : value{v[0], v[1], v[2], v[3], v[4], v[5]},
        start_x(v[2] + v[0] * 0.5),
        start_y(v[5] + v[4] * 0.5),
        separable(v[1] == 0.0 && v[3] == 0.0),
        fixed(near(0, 0) && near(width, height) && near(0, height) && near(width, 0)),
        fixed_x{fixed_point(v[2] + v[0] * 0.5 + v[1] * 0.5), fixed_point(v[0]), fixed_point(v[1])},
        fixed_y{fixed_point(v[5] + v[3] * 0.5 + v[4] * 0.5), fixed_point(v[3]), fixed_point(v[4])} {
    if (separable) return;
    start_x = v[2] + v[1] * 0.5 + v[0] * 0.5;
    start_y = v[5] + v[4] * 0.5 + v[3] * 0.5;
  }

  /// Column x and row y of a separable map, −1 outside.
  VITRINE_HOST_DEVICE int column(int x, int width) const {
    return pixel_under(added_up(start_x, value[0], x), width);
  }
  VITRINE_HOST_DEVICE int row(int y, int height) const {
    return pixel_under(added_up(start_y, value[4], y), height);
  }

  /// Of a map that is not separable.
  VITRINE_HOST_DEVICE NearestPixel source(int x, int y, int height, int width) const {
    NearestPixel from;
    if (fixed) {
      from.x = fixed_position(fixed_x, x, y);
      from.y = fixed_position(fixed_y, x, y);
    } else {
      from.x = pixel_under(added_up(added_up(start_x, value[1], y), value[0], x), width);
      from.y = pixel_under(added_up(added_up(start_y, value[4], y), value[3], x), height);
    }
    const bool inside = static_cast<unsigned>(from.x) < static_cast<unsigned>(width) &&
                        static_cast<unsigned>(from.y) < static_cast<unsigned>(height);
    return inside ? from : NearestPixel{};
  }

 private:
  VITRINE_HOST_DEVICE bool near(int x, int y) const {
    constexpr double kLimit = 32768.0;
    return std::fabs(unfused_product(value[0], x) + unfused_product(value[1], y) + value[2]) <
               kLimit &&
           std::fabs(unfused_product(value[3], x) + unfused_product(value[4], y) + value[5]) <
               kLimit;
  }
  VITRINE_HOST_DEVICE static std::uint32_t fixed_point(double v) {
    constexpr int kLimit = 0x7fffffff;
    return static_cast<std::uint32_t>(
        whole(std::floor(v * 65536.0 + 0.5), -kLimit, kLimit));  // the product is exact
  }
  VITRINE_HOST_DEVICE static int fixed_position(const std::uint32_t* axis, int x, int y) {
    const std::uint32_t position =
        axis[0] + axis[1] * static_cast<std::uint32_t>(x) + axis[2] * static_cast<std::uint32_t>(y);
    return static_cast<std::int32_t>(position) >> 16;
  }
};

/// Where between pixels a bilinear or bicubic sample lies: at x + dx, y + dy, counted from the
/// pixels' centres.
struct SamplePoint {
  bool inside;
  int x, y;
  double dx, dy;
};

VITRINE_HOST_DEVICE constexpr int floor_of(double v) {
  const int cut = static_cast<int>(v);
  return v < cut ? cut - 1 : cut;
}

/// For output pixel (x, y) of the map.
VITRINE_HOST_DEVICE inline SamplePoint sample_point(const double* v, int x, int y, int height,
                                                    int width) {
  const double centre_x = x + 0.5, centre_y = y + 0.5;
  const double from_x = unfused_product(v[0], centre_x) + unfused_product(v[1], centre_y) + v[2];
  const double from_y = unfused_product(v[3], centre_x) + unfused_product(v[4], centre_y) + v[5];
  const bool inside = from_x >= 0.0 && from_x < width && from_y >= 0.0 && from_y < height;
  if (!inside) return {};
  const int low_x = floor_of(from_x - 0.5), low_y = floor_of(from_y - 0.5);
  return {true, low_x, low_y, from_x - 0.5 - low_x, from_y - 0.5 - low_y};
}

/// Pixels beyond an edge are the edge's.
VITRINE_HOST_DEVICE inline std::uint8_t bilinear(const std::uint8_t* plane, int height, int width,
                                                 const SamplePoint& at) {
  const int left = clamped(at.x, 0, width - 1), right = clamped(at.x + 1, 0, width - 1);
  const auto along = [&](int y) {
    const std::uint8_t* row = plane + clamped(y, 0, height - 1) * width;
    return row[left] + unfused_product(static_cast<double>(row[right] - row[left]), at.dx);
  };
  const double upper = along(at.y), lower = along(at.y + 1);
  return static_cast<std::uint8_t>(static_cast<int>(upper + unfused_product(lower - upper, at.dy)));
}

/// Through b and c by a cubic whose slopes are those of the neighbours, a = −1 (Keys 1981). Number
/// is int where the values are levels.
template <typename Number>
VITRINE_HOST_DEVICE inline double cubic(Number a, Number b, Number c, Number d, double t) {
  const Number second = 2 * (a - b) + c - d;
  const Number third = -a + b - c + d;
  return b + unfused_product(
                 t, (c - a) + unfused_product(
                                  t, second + unfused_product(t, static_cast<double>(third))));
}

VITRINE_HOST_DEVICE inline std::uint8_t bicubic(const std::uint8_t* plane, int height, int width,
                                                const SamplePoint& at) {
  const int x0 = clamped(at.x - 1, 0, width - 1), x1 = clamped(at.x, 0, width - 1);
  const int x2 = clamped(at.x + 1, 0, width - 1), x3 = clamped(at.x + 2, 0, width - 1);
  const auto along = [&](int y) {
    const std::uint8_t* row = plane + clamped(y, 0, height - 1) * width;
    return cubic<int>(row[x0], row[x1], row[x2], row[x3], at.dx);
  };
  const double first = along(at.y - 1), second = along(at.y);
  const double third = along(at.y + 1), fourth = along(at.y + 2);
  return to_level(cubic(first, second, third, fourth, at.dy));
}

}  // namespace vitrine::pixel
