// From stored images to patches: gather, crop, resize, flip, normalise and unfold in one pass.
//
//   patches = unfold((pixel · scale - mean) / std).transpose(1, 2)    Dosovitskiy et al. 2020,
//                                                                     arXiv:2010.11929
// The resize is bilinear with pixel centres at one half and no antialiasing, clamped to the crop:
// what torchvision's resized_crop(antialias=False) does. Output pixel ox samples the source at
//   sx = crop_x + (ox + 0.5) · crop_width / width - 0.5
// and `flip` mirrors the output. An image belongs to one thread, which makes a row of pixels at a
// time and cuts it into pieces of patches. A crop that is the whole image at the model's size is
// read without interpolation. Backward is the inverse of unfold; dimages is written (=).
#include <algorithm>
#include <cmath>
#include <vector>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#ifndef VITRINE_CPU_PATCH_EMBED_UNFOLD
#define VITRINE_CPU_PATCH_EMBED_UNFOLD
namespace vitrine::cpu {

// Where the rows of one channel of one image come from and go to.
template <typename T>
struct Unfold {
  const T* pixels;  // [rows, width]
  float* patches;   // element of the first pixel
  std::int64_t rows, width, patch_size;
  std::int64_t step;  // elements between neighbouring patches
  bool mirror;
  float offset, factor;  // (pixel - offset) · factor
};

}  // namespace vitrine::cpu
#endif  // VITRINE_CPU_PATCH_EMBED_UNFOLD

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/patch_embed.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_pixels(D d, const float* x) {
  return hn::LoadU(d, x);
}

template <class D>
HWY_INLINE hn::Vec<D> load_pixels(D d, const std::uint8_t* x) {
  const hn::Rebind<std::uint8_t, D> bytes;
  const hn::Rebind<std::int32_t, D> integers;
  return hn::ConvertTo(d, hn::PromoteTo(integers, hn::LoadU(bytes, x)));
}

// Writes elements [j, patch_size) of one row of a patch, as many as whole vectors hold; the pixel
// of element 0 is `from[0]`, or `from[-1]` when mirrored. Returns the first element left.
template <class D, typename T>
HWY_INLINE std::int64_t unfold_piece(D d, const Unfold<T>& args, const T* from, std::int64_t j,
                                     float* to) {
  const std::int64_t lanes = hn::Lanes(d);
  const auto offset = hn::Set(d, args.offset), factor = hn::Set(d, args.factor);
  for (; j + lanes <= args.patch_size; j += lanes) {
    const auto pixels =
        args.mirror ? hn::Reverse(d, load_pixels(d, from - j - lanes)) : load_pixels(d, from + j);
    hn::StoreU(hn::Mul(hn::Sub(pixels, offset), factor), d, to + j);
  }
  return j;
}

// `kWidth` is the patch size where it is one vector of four, known to the compiler: the patches of
// small images are so narrow that finding the pieces would cost more than filling them.
template <std::int64_t kWidth, typename T>
HWY_INLINE void unfold_rows(const Unfold<T> args) {  // a copy, which the stores cannot alias
  const std::int64_t p = kWidth > 0 ? kWidth : args.patch_size;
  const std::int64_t pieces = args.width / p;
  for (std::int64_t y = 0; y < args.rows; ++y) {
    const T* from = args.pixels + y * args.width + (args.mirror ? args.width : 0);
    float* to = args.patches + y / p * pieces * args.step + y % p * p;
    for (std::int64_t i = 0; i < pieces; ++i, from += args.mirror ? -p : p, to += args.step) {
      std::int64_t j = 0;
      if constexpr (kWidth == 0) j = unfold_piece(hn::CappedTag<float, 16>(), args, from, j, to);
      j = unfold_piece(hn::CappedTag<float, 4>(), args, from, j, to);
      if constexpr (kWidth == 0) unfold_piece(hn::CappedTag<float, 1>(), args, from, j, to);
    }
  }
}

template <typename T>
HWY_INLINE void unfold(Unfold<T> args) {
  constexpr std::int64_t kNarrow = 4;
  if (args.patch_size == kNarrow && hn::Lanes(hn::CappedTag<float, 4>()) == kNarrow) {
    args.patch_size = kNarrow;
    unfold_rows<kNarrow>(args);
  } else {
    unfold_rows<0>(args);
  }
}

void unfold_f32(const Unfold<float>& args) {
  unfold(args);
}
void unfold_u8(const Unfold<std::uint8_t>& args) {
  unfold(args);
}

// x + weight · (y - x): two rows of pixels, blended.
template <typename T>
HWY_INLINE void blend(const T* x, const T* y, std::int64_t n, float weight, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t lanes = hn::Lanes(d);
  const auto at = [&](auto tag, std::int64_t i) HWY_ATTR {
    const auto first = load_pixels(tag, x + i);
    const auto change = hn::Sub(load_pixels(tag, y + i), first);
    hn::StoreU(hn::MulAdd(change, hn::Set(tag, weight), first), tag, out + i);
  };
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) at(d, i);
  for (; i < n; ++i) at(one, i);
}

void blend_f32(const float* x, const float* y, std::int64_t n, float weight, float* out) {
  blend(x, y, n, weight, out);
}

void blend_u8(const std::uint8_t* x, const std::uint8_t* y, std::int64_t n, float weight,
              float* out) {
  blend(x, y, n, weight, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(unfold_f32);
HWY_EXPORT(unfold_u8);
HWY_EXPORT(blend_f32);
HWY_EXPORT(blend_u8);

namespace {

constexpr float kLargestByte = 255.0f;

void unfold(const Unfold<float>& args) {
  HWY_DYNAMIC_DISPATCH(unfold_f32)(args);
}
void unfold(const Unfold<std::uint8_t>& args) {
  HWY_DYNAMIC_DISPATCH(unfold_u8)(args);
}
void blend(const float* x, const float* y, std::int64_t n, float weight, float* out) {
  HWY_DYNAMIC_DISPATCH(blend_f32)(x, y, n, weight, out);
}
void blend(const std::uint8_t* x, const std::uint8_t* y, std::int64_t n, float weight, float* out) {
  HWY_DYNAMIC_DISPATCH(blend_u8)(x, y, n, weight, out);
}

// Where an output pixel samples the source along one axis.
struct Sample {
  std::int64_t low, high;
  float weight;  // of `high`
};

std::vector<Sample> samples_of(float crop, float crop_size, std::int64_t size, std::int64_t source,
                               bool mirror) {
  const auto first = static_cast<double>(crop);
  const auto extent = static_cast<double>(crop_size);
  const double last = std::max(first, first + extent - 1.0);
  std::vector<Sample> samples(size);
  for (std::int64_t i = 0; i < size; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * extent / static_cast<double>(size);
    const double position = std::clamp(first + centre - 0.5, first, last);
    const auto low = std::min(static_cast<std::int64_t>(position), source - 1);
    samples[mirror ? size - 1 - i : i] = {low, std::min(low + 1, source - 1),
                                          static_cast<float>(position - static_cast<double>(low))};
  }
  return samples;
}

bool is_whole_image(const PatchEmbedForward& args, const BatchRow& row) {
  return args.source_width == args.width && args.source_height == args.height &&
         row.crop_x == 0.0f && row.crop_y == 0.0f &&
         row.crop_width == static_cast<float>(args.width) &&
         row.crop_height == static_cast<float>(args.height);
}

// Element of the patches [P, C·p·p] of one image where pixel (channel, y, 0) goes.
std::int64_t patch_element(std::int64_t channels, std::int64_t width, std::int64_t patch_size,
                           std::int64_t channel, std::int64_t y) {
  const std::int64_t area = patch_size * patch_size;
  const std::int64_t patch = y / patch_size * (width / patch_size);
  return patch * channels * area + channel * area + y % patch_size * patch_size;
}

// Writes one image's patches; T is the type of the stored pixels.
template <typename T>
class ImageUnfold {
 public:
  ImageUnfold(const PatchEmbedForward& args, std::int64_t b)
      : args_(args),
        row_(args.rows[b]),
        images_(static_cast<const T*>(args.images.data)),
        patches_(args.patches.f32().data + b * args.channels * args.height * args.width),
        pixels_(is_whole_image(args, args.rows[b]) ? 0 : args.width) {}

  void operator()() {
    if (row_.image < 0) {
      std::fill_n(patches_, args_.channels * args_.height * args_.width, 0.0f);
    } else if (is_whole_image(args_, row_)) {
      whole_image();
    } else {
      resized_crop();
    }
  }

 private:
  const T* channel(std::int64_t c) const {
    return images_ + (row_.image * args_.channels + c) * args_.source_height * args_.source_width;
  }

  void whole_image() {
    for (std::int64_t c = 0; c < args_.channels; ++c) {
      unfold_rows(channel(c), args_.height, row_.flip != 0, c, 0);
    }
  }

  // Blends two source rows where the crop crosses them, then samples along the result.
  void resized_crop() {
    const std::vector<Sample> xs =
        samples_of(row_.crop_x, row_.crop_width, args_.width, args_.source_width, row_.flip != 0);
    const std::vector<Sample> ys =
        samples_of(row_.crop_y, row_.crop_height, args_.height, args_.source_height, false);
    const std::int64_t left = std::min(xs.front().low, xs.back().low);
    const std::int64_t right = std::max(xs.front().high, xs.back().high);
    std::vector<float> blended(right - left + 1);
    for (std::int64_t c = 0; c < args_.channels; ++c) {
      for (std::int64_t y = 0; y < args_.height; ++y) {
        const T* low = channel(c) + ys[y].low * args_.source_width + left;
        const T* high = channel(c) + ys[y].high * args_.source_width + left;
        blend(low, high, right - left + 1, ys[y].weight, blended.data());
        for (std::int64_t x = 0; x < args_.width; ++x) {
          const float first = blended[xs[x].low - left];
          pixels_[x] = first + xs[x].weight * (blended[xs[x].high - left] - first);
        }
        unfold_rows(pixels_.data(), 1, false, c, y);
      }
    }
  }

  // Normalises `rows` rows of channel c, from row y of the output on.
  template <typename Pixel>
  void unfold_rows(const Pixel* from, std::int64_t rows, bool mirror, std::int64_t c,
                   std::int64_t y) {
    const float largest = sizeof(T) == 1 ? kLargestByte : 1.0f;
    const std::int64_t p = args_.patch_size;
    float* to = patches_ + patch_element(args_.channels, args_.width, p, c, y);
    unfold(Unfold<Pixel>{from, to, rows, args_.width, p, args_.channels * p * p, mirror,
                         args_.mean[c] * largest, 1.0f / (args_.std[c] * largest)});
  }

  const PatchEmbedForward& args_;
  const BatchRow& row_;
  const T* images_;
  float* patches_;
  std::vector<float> pixels_;  // one resized row
};

void check_row(const char* operation, const PatchEmbedForward& args, std::int64_t b,
               std::int64_t num_images) {
  const BatchRow& row = args.rows[b];
  const auto name = [&] { return "rows[" + std::to_string(b) + "]"; };
  VITRINE_CHECK(row.image >= -1 && row.image < num_images, operation,
                name() + ".image is " + std::to_string(row.image) + ", expected -1 to " +
                    std::to_string(num_images - 1));
  if (row.image < 0) return;
  const bool inside = row.crop_x >= 0.0f && row.crop_width > 0.0f && row.crop_y >= 0.0f &&
                      row.crop_height > 0.0f &&
                      row.crop_x + row.crop_width <= static_cast<float>(args.source_width) &&
                      row.crop_y + row.crop_height <= static_cast<float>(args.source_height);
  VITRINE_CHECK(inside, operation,
                name() + ".crop is " + std::to_string(row.crop_width) + "x" +
                    std::to_string(row.crop_height) + " at (" + std::to_string(row.crop_x) + ", " +
                    std::to_string(row.crop_y) + "), expected inside the source of " +
                    std::to_string(args.source_width) + "x" + std::to_string(args.source_height));
}

// What check_arguments leaves: the rows lie in this device's memory.
void check_rows(const PatchEmbedForward& args) {
  const std::int64_t elements = args.channels * args.source_height * args.source_width;
  for (std::int64_t b = 0; b < args.rows.size; ++b) {
    check_row("patch_embed_forward", args, b, args.images.size / elements);
  }
}

}  // namespace

void CpuKernels::patch_embed_forward(const PatchEmbedForward& args) {
  check_arguments(args);
  check_rows(args);
  pool_.parallel_for(args.rows.size, [&](int, std::int64_t b) {
    if (args.images.dtype == DType::u8) {
      ImageUnfold<std::uint8_t>(args, b)();
    } else {
      ImageUnfold<float>(args, b)();
    }
  });
}

void CpuKernels::patch_embed_backward(const PatchEmbedBackward& args) {
  check_arguments(args);
  const std::int64_t elements = args.channels * args.height * args.width;
  float* dimages = args.dimages.f32().data;
  const float* dpatches = args.dpatches.f32().data;
  const std::int64_t p = args.patch_size;
  pool_.parallel_for(args.dimages.size / elements, [&](int, std::int64_t image) {
    const float* from = dpatches + image * elements;
    float* to = dimages + image * elements;
    for (std::int64_t c = 0; c < args.channels; ++c) {
      for (std::int64_t y = 0; y < args.height; ++y, to += args.width) {
        const float* piece = from + patch_element(args.channels, args.width, p, c, y);
        for (std::int64_t x = 0; x < args.width; ++x) {
          to[x] = piece[x / p * args.channels * p * p + x % p] / args.std[c];
        }
      }
    }
  });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
