// Boxes of pictures resampled to images of one size; the arithmetic is that of vitrine/resample.h.
//
// An image belongs to one thread. Both passes are one loop: rows of bytes, each times a weight,
// summed. The vertical pass has such rows; for the horizontal one the picture is transposed, kStrip
// rows at a time, so that neighbouring bytes are pixels of neighbouring rows under one weight. What
// it makes is transposed back, flipped where asked, and kept for the rows of the box alone.
// `nearest` reads one pixel each.
#include <algorithm>
#include <cstring>
#include <vector>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"
#include "vitrine/resample.h"

#ifndef VITRINE_CPU_RESIZED_CROP_PASSES
#define VITRINE_CPU_RESIZED_CROP_PASSES
namespace vitrine::cpu {

constexpr std::int64_t kBlock = 16;  // bytes of a vector that is transposed
constexpr std::int64_t kStrip = 4 * kBlock;

constexpr std::int64_t whole_blocks(std::int64_t n) {
  return (n + kBlock - 1) / kBlock * kBlock;
}

// Windows of all outputs of an axis; the zero weights at the ends of a window are dropped.
struct Taps {
  std::vector<ResampleWindow> windows;  // [outputs]
  std::vector<std::int32_t> weights;    // [outputs, stride]
  std::int64_t stride = 0;

  std::int64_t begin() const { return windows.front().first; }
  std::int64_t end() const { return windows.back().first + windows.back().count; }
};

// One pass along outputs × channels: out[i, c] = Σ_t in[first(i) − begin + t, c] · weight(i, t),
// where every in[x, c] and out[i, c] is a run of `length` bytes, a multiple of kBlock.
struct Pass {
  const Taps* taps;
  const std::uint8_t* in;
  std::uint8_t* out;
  std::int64_t channels, length;
  std::int64_t in_pixel, in_channel;    // bytes between runs of neighbouring pixels, channels
  std::int64_t out_pixel, out_channel;  // out_pixel is negative where the outputs are mirrored
};

// rows[r][0 … kBlock) becomes column r of `out`, whose rows are `stride` bytes apart.
struct Transpose {
  const std::uint8_t* rows[kBlock];
  std::uint8_t* out;
  std::int64_t stride;
};

}  // namespace vitrine::cpu
#endif  // VITRINE_CPU_RESIZED_CROP_PASSES

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/resized_crop.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums for kVectors · lanes neighbouring bytes.
template <int kVectors, class D>
HWY_INLINE void weighted_rows(D d, const std::uint8_t* in, std::int64_t stride,
                              const std::int32_t* weights, std::int32_t count, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, D> bytes;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> sums[kVectors];
  for (auto& sum : sums) sum = hn::Set(d, kResampleHalf);
  for (std::int32_t tap = 0; tap < count; ++tap, in += stride) {
    const auto weight = hn::Set(d, weights[tap]);
    for (int i = 0; i < kVectors; ++i) {
      const auto pixels = hn::PromoteTo(d, hn::LoadU(bytes, in + i * lanes));
      sums[i] = hn::Add(sums[i], hn::Mul(pixels, weight));
    }
  }
  for (int i = 0; i < kVectors; ++i) {
    hn::StoreU(hn::DemoteTo(bytes, hn::ShiftRight<kResampleBits>(sums[i])), bytes, out + i * lanes);
  }
}

void resample_pass(const Pass& pass) {
  const hn::CappedTag<std::int32_t, kBlock> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  constexpr int kVectors = 4;
  const Taps& taps = *pass.taps;
  for (std::int64_t i = 0; i < std::ssize(taps.windows); ++i) {
    const auto [first, count] = taps.windows[i];
    const std::int32_t* weights = taps.weights.data() + i * taps.stride;
    for (std::int64_t c = 0; c < pass.channels; ++c) {
      const std::uint8_t* in =
          pass.in + (first - taps.begin()) * pass.in_pixel + c * pass.in_channel;
      std::uint8_t* out = pass.out + i * pass.out_pixel + c * pass.out_channel;
      std::int64_t j = 0;
      for (; j + kVectors * lanes <= pass.length; j += kVectors * lanes) {
        weighted_rows<kVectors>(d, in + j, pass.in_pixel, weights, count, out + j);
      }
      for (; j < pass.length; j += lanes) {
        weighted_rows<1>(d, in + j, pass.in_pixel, weights, count, out + j);
      }
    }
  }
}

#if HWY_TARGET == HWY_SCALAR
void transpose_block(const Transpose& args) {
  for (std::int64_t r = 0; r < kBlock; ++r) {
    for (std::int64_t i = 0; i < kBlock; ++i) args.out[i * args.stride + r] = args.rows[r][i];
  }
}
#else
// Each step rotates the eight bits (row, column) of every byte's place by one.
void transpose_block(const Transpose& args) {
  const hn::FixedTag<std::uint8_t, kBlock> d;
  hn::Vec<decltype(d)> rows[kBlock];
  for (std::int64_t r = 0; r < kBlock; ++r) rows[r] = hn::LoadU(d, args.rows[r]);
  for (int step = 0; step < 4; ++step) {
    hn::Vec<decltype(d)> next[kBlock];
    for (std::int64_t r = 0; r < kBlock / 2; ++r) {
      next[2 * r] = hn::InterleaveLower(d, rows[r], rows[r + kBlock / 2]);
      next[2 * r + 1] = hn::InterleaveUpper(d, rows[r], rows[r + kBlock / 2]);
    }
    for (std::int64_t r = 0; r < kBlock; ++r) rows[r] = next[r];
  }
  for (std::int64_t r = 0; r < kBlock; ++r) hn::StoreU(rows[r], d, args.out + r * args.stride);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(resample_pass);
HWY_EXPORT(transpose_block);

namespace {

void fill_taps(const ResampleAxis& axis, std::int64_t outputs, Taps& taps) {
  taps.stride = most_taps(axis.support);
  taps.windows.resize(outputs);
  taps.weights.resize(outputs * taps.stride);
  for (std::int32_t i = 0; i < outputs; ++i) {
    ResampleWindow window = resample_window(axis, i);
    std::int32_t* weights = taps.weights.data() + i * taps.stride;
    resample_weights(axis, i, window,
                     [&](std::int32_t tap, std::int32_t weight) { weights[tap] = weight; });
    const auto is_zero = [](std::int32_t weight) { return weight == 0; };
    while (window.count > 1 && is_zero(weights[window.count - 1])) --window.count;
    const auto zeros = static_cast<std::int32_t>(
        std::find_if_not(weights, weights + window.count - 1, is_zero) - weights);
    std::copy(weights + zeros, weights + window.count, weights);
    taps.windows[i] = {window.first + zeros, window.count - zeros};
  }
}

// What a thread uses for one image after another.
struct Memory {
  Taps x, y;
  std::vector<std::uint8_t> strip;    // [pixels, C, kStrip]
  std::vector<std::uint8_t> resized;  // [C, width in whole blocks, kStrip]
  std::vector<std::uint8_t> rows;     // [C, rows of the box in whole strips, width in whole blocks]
  std::vector<std::uint8_t> padded;   // [C, height, width in whole blocks]
};

// Makes one image.
class ImageCrop {
 public:
  ImageCrop(const ResizedCrop& args, std::int64_t b, Memory& memory)
      : args_(args),
        view_(args.views[b]),
        picture_(args.sources.data + view_.offset),
        image_(args.images.data + b * args.channels * args.height * args.width),
        pitch_(whole_blocks(args.width)),
        memory_(memory) {}

  void operator()() {
    if (view_.offset < 0) {
      std::fill_n(image_, args_.channels * args_.height * args_.width, std::uint8_t{0});
    } else if (view_.filter == ResampleFilter::nearest) {
      nearest();
    } else {
      resample();
    }
  }

 private:
  ResampleAxis axis_x() const {
    return resample_axis(view_.crop_x, view_.crop_width, view_.width, args_.width, view_.filter);
  }
  ResampleAxis axis_y() const {
    return resample_axis(view_.crop_y, view_.crop_height, view_.height, args_.height, view_.filter);
  }
  std::uint8_t* row(std::int64_t c, std::int64_t y) const {
    const std::int64_t flipped = view_.flip_y != 0 ? args_.height - 1 - y : y;
    return image_ + (c * args_.height + flipped) * args_.width;
  }

  void nearest() {
    std::vector<std::int64_t> xs(args_.width), ys(args_.height);
    const bool flip = view_.flip_x != 0;
    nearest_pixels(axis_x(), static_cast<std::int32_t>(args_.width), [&](auto i, auto x) {
      xs[flip ? args_.width - 1 - i : i] = x * view_.stride_x;
    });
    nearest_pixels(axis_y(), static_cast<std::int32_t>(args_.height),
                   [&](auto i, auto y) { ys[i] = y * view_.stride_y; });
    for (std::int64_t c = 0; c < args_.channels; ++c) {
      for (std::int64_t y = 0; y < args_.height; ++y) {
        const std::uint8_t* from = picture_ + ys[y] + c * view_.stride_c;
        std::transform(xs.begin(), xs.end(), row(c, y), [&](std::int64_t x) { return from[x]; });
      }
    }
  }

  void resample() {
    fill_taps(axis_x(), args_.width, memory_.x);
    fill_taps(axis_y(), args_.height, memory_.y);
    const std::int64_t first = memory_.y.begin(), count = memory_.y.end() - first;
    const std::int64_t rows = (count + kStrip - 1) / kStrip * kStrip;
    memory_.strip.resize((memory_.x.end() - memory_.x.begin()) * args_.channels * kStrip);
    memory_.resized.resize(args_.channels * pitch_ * kStrip);
    memory_.rows.resize(args_.channels * rows * pitch_);
    for (std::int64_t y = 0; y < count; y += kStrip) {
      const std::int64_t length = std::min(kStrip, count - y);
      load_strip(first + y, length);
      resample_strip(whole_blocks(length));
      for (std::int64_t c = 0; c < args_.channels; ++c) {
        store_strip(c, whole_blocks(length), memory_.rows.data() + (c * rows + y) * pitch_);
      }
    }
    resample_rows(rows);
  }

  // The pixels of rows [y, y + rows), transposed. Runs that are not whole repeat their last row.
  void load_strip(std::int64_t y, std::int64_t rows) {
    const std::int64_t begin = memory_.x.begin(), pixels = memory_.x.end() - begin;
    const std::uint8_t* from = picture_ + y * view_.stride_y + begin * view_.stride_x;
    const std::int64_t channels = args_.channels;
    if (view_.stride_x == channels && (view_.stride_c == 1 || channels == 1)) {
      load_bytes(from, pixels * channels, rows, memory_.strip.data(), kStrip);
      return;
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      std::uint8_t* to = memory_.strip.data() + c * kStrip;
      if (view_.stride_x == 1) {
        load_bytes(from + c * view_.stride_c, pixels, rows, to, channels * kStrip);
      } else {
        load_pixels(from + c * view_.stride_c, view_.stride_x, pixels, rows, to, channels * kStrip);
      }
    }
  }

  // Rows of `bytes` neighbouring bytes; the last block of a row overlaps the one before it.
  void load_bytes(const std::uint8_t* from, std::int64_t bytes, std::int64_t rows, std::uint8_t* to,
                  std::int64_t to_stride) const {
    if (bytes < kBlock) return load_pixels(from, 1, bytes, rows, to, to_stride);
    for (std::int64_t r = 0; r < rows; r += kBlock) {
      for (std::int64_t next = 0; next < bytes; next += kBlock) {
        const std::int64_t x = std::min(next, bytes - kBlock);
        Transpose block{{}, to + x * to_stride + r, to_stride};
        for (std::int64_t i = 0; i < kBlock; ++i) {
          block.rows[i] = from + std::min(r + i, rows - 1) * view_.stride_y + x;
        }
        HWY_DYNAMIC_DISPATCH(transpose_block)(block);
      }
    }
  }

  void load_pixels(const std::uint8_t* from, std::int64_t stride, std::int64_t pixels,
                   std::int64_t rows, std::uint8_t* to, std::int64_t to_stride) const {
    for (std::int64_t x = 0; x < pixels; ++x, from += stride, to += to_stride) {
      for (std::int64_t r = 0; r < rows; ++r) to[r] = from[r * view_.stride_y];
      std::fill(to + rows, to + whole_blocks(rows), to[rows - 1]);
    }
  }

  void resample_strip(std::int64_t length) {
    const bool flip = view_.flip_x != 0;
    Pass pass{&memory_.x, memory_.strip.data(), memory_.resized.data(), args_.channels, length};
    pass.in_pixel = args_.channels * kStrip, pass.in_channel = kStrip;
    pass.out_pixel = flip ? -kStrip : kStrip, pass.out_channel = pitch_ * kStrip;
    if (flip) pass.out += (args_.width - 1) * kStrip;
    HWY_DYNAMIC_DISPATCH(resample_pass)(pass);
  }

  void store_strip(std::int64_t c, std::int64_t rows, std::uint8_t* to) const {
    for (std::int64_t x = 0; x < pitch_; x += kBlock) {
      const std::uint8_t* from = memory_.resized.data() + (c * pitch_ + x) * kStrip;
      for (std::int64_t r = 0; r < rows; r += kBlock) {
        Transpose block{{}, to + r * pitch_ + x, pitch_};
        for (std::int64_t i = 0; i < kBlock; ++i) block.rows[i] = from + i * kStrip + r;
        HWY_DYNAMIC_DISPATCH(transpose_block)(block);
      }
    }
  }

  void resample_rows(std::int64_t rows) {
    Pass pass{&memory_.y, memory_.rows.data(), row(0, 0), args_.channels, pitch_};
    pass.in_pixel = pitch_, pass.in_channel = rows * pitch_;
    pass.out_pixel = view_.flip_y != 0 ? -args_.width : args_.width;
    pass.out_channel = args_.height * args_.width;
    if (pitch_ == args_.width) return HWY_DYNAMIC_DISPATCH(resample_pass)(pass);
    memory_.padded.resize(args_.channels * args_.height * pitch_);
    pass.out = memory_.padded.data();
    pass.out_pixel = pitch_, pass.out_channel = args_.height * pitch_;
    HWY_DYNAMIC_DISPATCH(resample_pass)(pass);
    for (std::int64_t c = 0; c < args_.channels; ++c) {
      for (std::int64_t y = 0; y < args_.height; ++y) {
        std::memcpy(row(c, y), pass.out + (c * args_.height + y) * pitch_, args_.width);
      }
    }
  }

  const ResizedCrop& args_;
  const PictureView& view_;
  const std::uint8_t* picture_;
  std::uint8_t* image_;
  std::int64_t pitch_;  // bytes of a row in whole blocks
  Memory& memory_;
};

// What rounding to float may have added to a box, and its scale to the largest.
constexpr float kBoxRounding = 1.0f / 64.0f;
constexpr float kScaleRounding = 1.0001f;

void check_axis(const std::string& axis, float crop, float extent, std::int32_t size,
                float largest) {
  VITRINE_CHECK(extent > 0.0f && crop >= -kBoxRounding &&
                    crop + extent <= static_cast<float>(size) + kBoxRounding,
                "resized_crop",
                axis + " is " + std::to_string(extent) + " from " + std::to_string(crop) +
                    ", expected inside the picture's " + std::to_string(size));
  VITRINE_CHECK(extent <= largest * kScaleRounding, "resized_crop",
                axis + " is " + std::to_string(extent) + ", expected at most " +
                    std::to_string(largest) + " by largest_scale");
}

// What check_arguments leaves: the views lie in this device's memory.
void check_view(const ResizedCrop& args, std::int64_t b) {
  const PictureView& view = args.views[b];
  if (view.offset == -1) return;
  const std::string name = "views[" + std::to_string(b) + "]";
  VITRINE_CHECK(
      is_inside(view, args.channels, args.sources.size), "resized_crop",
      name + " points outside the " + std::to_string(args.sources.size) + " bytes of sources");
  const auto filter = static_cast<std::int32_t>(view.filter);
  VITRINE_CHECK(filter >= 0 && filter <= static_cast<std::int32_t>(ResampleFilter::bicubic),
                "resized_crop", name + ".filter is " + std::to_string(filter));
  check_axis(name + ".crop_height", view.crop_y, view.crop_height, view.height,
             args.largest_scale * static_cast<float>(args.height));
  check_axis(name + ".crop_width", view.crop_x, view.crop_width, view.width,
             args.largest_scale * static_cast<float>(args.width));
}

}  // namespace

void CpuKernels::resized_crop(const ResizedCrop& args) {
  check_arguments(args);
  for (std::int64_t b = 0; b < args.batch; ++b) check_view(args, b);
  std::vector<Memory> memory(pool_.threads());
  pool_.parallel_for(args.batch,
                     [&](int worker, std::int64_t b) { ImageCrop(args, b, memory[worker])(); });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
