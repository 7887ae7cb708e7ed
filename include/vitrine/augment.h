// The `augment` family of the catalogue: from decoded pixels of any size to varied images of the
// model's size. Everything is u8; numbers are Pillow's, so that recipes mean what they mean
// elsewhere.
//
//   resized_crop     a box of a picture, resampled with antialiasing; orientation and flips
//   augment_images   for each image a list of operations on colours and geometry
//   mix_images       mixup (Zhang et al. 2018, arXiv:1710.09412), cutmix (Yun et al. 2019,
//                    arXiv:1905.04899)
//
// What is drawn at random is drawn by the host (see augmentation.h) and comes in tables; the one
// exception is the noise of `erase`.
#pragma once

#include <cstdint>

#include "vitrine/tensor.h"

namespace vitrine {

enum class ResampleFilter : std::int32_t { nearest, bilinear, bicubic };

/// A picture as it is seen, and the box of it that becomes an image. Pixel (y, x) of channel c is
/// byte offset + y · stride_y + x · stride_x + c · stride_c of the sources, so strides carry layout
/// and EXIF orientation; they may be negative.
struct PictureView {
  std::int64_t offset = -1;  ///< −1: no picture, the image is all zeros
  std::int64_t stride_y = 0, stride_x = 0, stride_c = 0;
  std::int32_t height = 0, width = 0;                             ///< of the picture
  float crop_y = 0, crop_x = 0, crop_height = 0, crop_width = 0;  ///< the box, in its pixels
  ResampleFilter filter = ResampleFilter::bilinear;
  std::int32_t flip_x = 0, flip_y = 0;  ///< 1: mirror the image left to right, top to bottom
  std::int32_t unused = 0;
};

/// images[b] = PIL's resize((width, height), filter, box) of view b, where the box is
/// (crop_x, crop_y, crop_x + crop_width, crop_y + crop_height), clipped to the picture; pixels of
/// the picture around the box are seen by filters that reach that far. (To crop first and to resize
/// what is left, as torchvision's resized_crop does, the picture of the view is the crop.) Along
/// each axis the filter's support is widened by the scale (antialiasing), weights are rounded to 22
/// bits and rows are rounded to u8 between the axes, horizontal first. `nearest` takes the pixel
/// under the centre.
/// What a device cannot check before it runs: a view that points outside the sources, or whose box
/// is larger than largest_scale, makes an image of zeros on CUDA and a DeviceError on the CPU.
struct ResizedCrop {
  View<std::uint8_t> images;        ///< out  [B, C, height, width]
  ConstView<std::uint8_t> sources;  ///< in   what the views point into
  ConstView<PictureView> views;     ///< in   [B]
  std::int64_t batch = 0, channels = 0, height = 0, width = 0;
  /// No box is more than so many times as high or as wide as the image: it decides what memory a
  /// device needs.
  float largest_scale = 4.0f;
};

/// What an ImageOperation does. Its numbers are `value[0]`, `value[1]`, …
enum class ImageOperationKind : std::int32_t {
  none,
  auto_contrast,  ///< ImageOps.autocontrast
  equalize,       ///< ImageOps.equalize
  invert,         ///< 255 − x
  posterize,      ///< keeps the upper value[0] bits
  solarize,       ///< 255 − x where x ≥ value[0]
  solarize_add,   ///< min(255, x + value[0]) where x < value[1]
  brightness,     ///< ImageEnhance.Brightness by the factor value[0]: blend with black
  contrast,       ///< ImageEnhance.Contrast: blend with the mean of the luma
  color,          ///< ImageEnhance.Color (saturation): blend with the luma
  sharpness,      ///< ImageEnhance.Sharpness: blend with ImageFilter.SMOOTH
  hue,            ///< turned by value[0] of a whole turn in Pillow's HSV, as torchvision does it
  grayscale,      ///< the luma in all channels
  /// Separable, σ = value[0] from 0.001 to 32, 2·⌈3σ⌉ + 1 taps, mirrored at the edges.
  gaussian_blur,
  /// Image.transform(AFFINE, value[0..5], filter): output pixel (x, y) takes the source at
  /// (v0 (x+½) + v1 (y+½) + v2, v3 (x+½) + v4 (y+½) + v5), `fill` outside.
  affine,
  /// The box y = value[0], x = value[1], height = value[2], width = value[3] becomes, by value[4],
  /// 0: `fill`; 1: one colour of N(mean, std); 2: a colour of N(mean, std) for each pixel (Zhong et
  /// al. 2020, arXiv:1708.04896; timm's "const", "rand", "pixel").
  erase
};

struct ImageOperation {
  ImageOperationKind kind = ImageOperationKind::none;
  ResampleFilter filter = ResampleFilter::bilinear;  ///< of `affine`
  double value[6] = {};
  std::uint64_t random = 0;  ///< stream of the noise of `erase`, see erase_noise in pixel_math.h
};

/// Luma is Pillow's: (19595 r + 38470 g + 7471 b + 32768) >> 16. On grey images `color`, `hue` and
/// `grayscale` change nothing.
struct AugmentImages {
  View<std::uint8_t> images;             ///< in/out  [B, C, height, width]
  View<std::uint8_t> workspace;          ///< [B, C, height, width]
  ConstView<ImageOperation> operations;  ///< in   [B, operations_per_image], applied in order
  ConstView<std::uint8_t> fill;          ///< in   [C]
  ConstView<float> mean, std;            ///< in   [C], of pixels scaled to [0, 1]
  std::int64_t batch = 0, channels = 0, height = 0, width = 0;
  std::int64_t operations_per_image = 0;
};

/// How an image is mixed with another one of its batch.
struct ImageMix {
  std::int32_t partner = -1;  ///< image of the batch; −1: stays as it is
  float weight = 1.0f;        ///< of the image itself: mixup, round(w a + (1 − w) b)
  /// Cutmix: the partner's pixels inside the box, the image's own outside. Empty: mixup.
  std::int32_t y = 0, x = 0, height = 0, width = 0;
};

struct MixImages {
  View<std::uint8_t> out;          ///< out  [B, C, height, width]
  ConstView<std::uint8_t> images;  ///< in   [B, C, height, width]
  ConstView<ImageMix> mixes;       ///< in   [B]
  std::int64_t batch = 0, channels = 0, height = 0, width = 0;
};

}  // namespace vitrine
