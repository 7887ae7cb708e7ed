// The operations of augment_images on one image, on one thread.
#pragma once

#include <cstdint>

#include "vitrine/pixel_math.h"

namespace vitrine::cpu {

/// Of an image [channels, height, width].
struct ImageShape {
  int channels, height, width;

  int plane() const { return height * width; }
  int elements() const { return channels * plane(); }
};

/// Operations that map the values of a channel one by one. Several in a row become one table, so
/// that pixels are written once however many there are.
class ToneTable {
 public:
  ToneTable();
  /// Appends an operation. `image` are the pixels that have not gone through the table.
  void append(const ImageOperation& operation, const std::uint8_t* image, const ImageShape& shape);
  /// Sends the pixels through the table, which becomes the identity.
  void apply(std::uint8_t* image, const ImageShape& shape);

 private:
  void append_histogram_tone(ImageOperationKind kind, const std::uint8_t* image,
                             const ImageShape& shape);
  int mean_luma(const std::uint8_t* image, const ImageShape& shape) const;
  void append_table(int channel, const std::uint8_t* next);

  static constexpr int kChannels = 3;
  std::uint8_t table_[kChannels][pixel::kLevels];
  bool identity_ = true;
};

/// color, hue and grayscale, in place.
void change_colors(const ImageOperation& operation, std::uint8_t* image, const ImageShape& shape);
/// hue, of three planes.
void shift_hue(std::uint8_t* image, int plane, std::uint8_t shift);

/// sharpness and gaussian_blur, from one image to another.
void sharpen(float factor, const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape);
void blur(double sigma, const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape);

/// affine, from one image to another.
void transform(const ImageOperation& operation, const std::uint8_t* fill, const std::uint8_t* from,
               std::uint8_t* to, const ImageShape& shape);

/// Positions of the pixels of an output row in the source, in 65536ths (see pixel::NearestMap).
struct FixedPointRow {
  std::uint32_t x, y, step_x, step_y;  ///< of the first pixel, and to the next
  int height, width;
};
/// offsets[0 … width) in a plane, −1 outside. There is room for so many offsets more.
constexpr int kSpareOffsets = 16;
void fixed_point_offsets(const FixedPointRow& row, std::int32_t* offsets);

/// affine between pixels: bilinear or bicubic.
struct SmoothTransform {
  const double* value;  ///< [6], of the operation
  ResampleFilter filter;
  const std::uint8_t* fill;  ///< [channels]
  const std::uint8_t* from;
  std::uint8_t* to;
  ImageShape shape;
};
void transform_smooth(const SmoothTransform& args);

/// erase, in place.
void erase(const ImageOperation& operation, const AugmentImages& args, std::uint8_t* image,
           const ImageShape& shape);

}  // namespace vitrine::cpu
