// Boxes of pictures resampled to images of one size; the arithmetic is that of vitrine/resample.h,
// which rounds as Pillow does, so the bits are the CPU's.
//
// One block owns a band of output rows of one image, all channels. It computes the weights of the
// image's columns and of the band's rows, a thread an output, in double; resamples the rows of the
// picture that the band needs along x, into shared memory as u8; and sums columns of those, four
// neighbouring pixels a thread. Rows of the picture that two bands need are resampled twice: a
// fifth of them with 16 rows a band at half the size. The views lie in device memory, where no
// launcher looks: one that points outside the sources, or whose box is larger than largest_scale
// says, makes an image of zeros; boxes are clipped to their picture. `nearest` keeps the pixels'
// positions in shared memory, each axis summed up by one thread as Pillow sums.
//
// Account, 256 views of 448×448 RGB pixels to 224×224, bicubic, largest_scale 2: 154 MB read once
// from memory, 38.5 MB written. A block of 16 rows reads 38 rows of the picture, nine single bytes
// a pixel and channel from L1: 0.8·10⁹ loads in all, 26·10⁶ a warp; 0.3·10⁹ products follow from
// shared memory. 64 registers, no spills, 40 KB of shared memory: four blocks a multiprocessor.
// Expected (not measured; not run on a GPU): memory alone 45 µs at 4.3 TB/s; a warp's byte load
// touches some 200 bytes of a row, two lines, which at a line a clock makes 230 µs on 132
// multiprocessors. Doubles: 240 outputs a block, each 9 weights computed twice with a division,
// some 10⁵ operations: under 30 µs on a chip with 64 of them a clock, 1 ms on one with two.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda_kernels.h"
#include "primitives/divisor.cuh"
#include "vitrine/arguments.h"
#include "vitrine/resample.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // a multiprocessor
constexpr int kQuad = 4;    // pixels of a word
constexpr int kMostRows = 32;

/// How an image is cut, and what a block has room for. Shared memory holds
///   windows [width + rows], weights [width + rows, taps], pixels [C, source_rows, pitch]
/// where the outputs are the columns of the image and then the rows of the band.
struct Bands {
  int rows, count;  ///< of a band; bands of an image
  int taps, source_rows, pitch;
  Divisor width, quads;

  __device__ __host__ int outputs(std::int64_t columns) const {
    return static_cast<int>(columns) + rows;
  }
};

/// One block's band.
template <int kChannels>
class CropBand {
 public:
  __device__ CropBand(const ResizedCrop& args, const Bands& bands, unsigned char* shared)
      : args_(args),
        bands_(bands),
        view_(args.views.data[blockIdx.x / static_cast<unsigned>(bands.count)]),
        image_(blockIdx.x / static_cast<unsigned>(bands.count)),
        first_y_(static_cast<int>(blockIdx.x % static_cast<unsigned>(bands.count)) * bands.rows),
        rows_(min(bands.rows, static_cast<int>(args.height) - first_y_)),
        width_(static_cast<int>(args.width)),
        windows_(reinterpret_cast<ResampleWindow*>(shared)),
        weights_(reinterpret_cast<int*>(windows_ + bands.outputs(args.width))),
        pixels_(
            reinterpret_cast<unsigned char*>(weights_ + bands.outputs(args.width) * bands.taps)) {}

  __device__ void operator()() {
    const bool is_nearest = view_.filter == ResampleFilter::nearest;
    if (!is_inside(view_, args_.channels, args_.sources.size) || !(is_nearest || has_room())) {
      write([](int, int, int) { return 0; });
    } else if (is_nearest) {
      nearest();
    } else {
      resample();
    }
  }

 private:
  __device__ ResampleAxis axis(bool is_column) const {
    return is_column ? resample_axis(view_.crop_x, view_.crop_width, view_.width, args_.width,
                                     view_.filter)
                     : resample_axis(view_.crop_y, view_.crop_height, view_.height, args_.height,
                                     view_.filter);
  }
  __device__ const std::uint8_t* picture() const { return args_.sources.data + view_.offset; }
  __device__ std::uint8_t* row(std::int64_t channel, int y) const {
    const std::int64_t flipped =
        view_.flip_y != 0 ? args_.height - 1 - (first_y_ + y) : first_y_ + y;
    return args_.images.data +
           ((image_ * args_.channels + channel) * args_.height + flipped) * args_.width;
  }

  /// Finds the rows of the picture that the band needs.
  __device__ bool has_room() {
    const ResampleAxis y = axis(false);
    const ResampleWindow begin = resample_window(y, first_y_);
    const ResampleWindow end = resample_window(y, first_y_ + rows_ - 1);
    source_y_ = begin.first;
    source_rows_ = end.first + end.count - begin.first;
    return source_rows_ <= bands_.source_rows && most_taps(y.support) <= bands_.taps &&
           most_taps(axis(true).support) <= bands_.taps;
  }

  /// Calls pixel(channel, y, x) for each pixel of the band.
  template <typename Pixel>
  __device__ void write(const Pixel& pixel) const {
    for (int c = 0; c < args_.channels; ++c) {
      for (unsigned i = threadIdx.x; i < static_cast<unsigned>(rows_ * width_); i += kThreads) {
        unsigned x = i;
        const int y = static_cast<int>(bands_.width.divide(x));
        row(c, y)[x] = static_cast<std::uint8_t>(pixel(c, y, static_cast<int>(x)));
      }
    }
  }

  __device__ void nearest() const {
    int* const columns = weights_;
    int* const rows = weights_ + width_;
    if (threadIdx.x == 0) {
      nearest_pixels(axis(true), width_, [&](int i, int pixel) {
        columns[view_.flip_x != 0 ? width_ - 1 - i : i] = pixel;
      });
    } else if (threadIdx.x == kWarpSize) {
      nearest_pixels(axis(false), first_y_ + rows_, [&](int i, int pixel) {
        if (i >= first_y_) rows[i - first_y_] = pixel;
      });
    }
    __syncthreads();
    write([&](int c, int row, int column) {
      return picture()[rows[row] * view_.stride_y + columns[column] * view_.stride_x +
                       c * view_.stride_c];
    });
  }

  __device__ void resample() const {
    for (int i = static_cast<int>(threadIdx.x); i < width_ + rows_; i += kThreads) {
      const bool is_column = i < width_;
      const ResampleAxis along = axis(is_column);
      const int output = is_column ? i : first_y_ + i - width_;
      const ResampleWindow window = resample_window(along, output);
      int* const weights = weights_ + i * bands_.taps;
      resample_weights(along, output, window, [&](int tap, int weight) { weights[tap] = weight; });
      windows_[i] = window;
    }
    __syncthreads();
    resample_rows();
    __syncthreads();
    const bool whole_words = args_.width % kQuad == 0 &&
                             reinterpret_cast<std::uintptr_t>(args_.images.data) % kQuad == 0;
    for (int c = 0; c < args_.channels; ++c) resample_columns(c, whole_words);
  }

  /// The picture's rows along x, kChannels at once, into shared memory.
  __device__ void resample_rows() const {
    const std::int64_t stride_x = view_.stride_x, stride_c = view_.stride_c;
    const bool flip = view_.flip_x != 0;
    for (unsigned i = threadIdx.x; i < static_cast<unsigned>(source_rows_ * width_);
         i += kThreads) {
      unsigned column = i;
      const int y = static_cast<int>(bands_.width.divide(column));
      const int x = static_cast<int>(column);
      const ResampleWindow window = windows_[x];
      const std::uint8_t* from =
          picture() + (source_y_ + y) * view_.stride_y + window.first * stride_x;
      unsigned char* to = pixels_ + y * bands_.pitch + (flip ? width_ - 1 - x : x);
      for (int c = 0; c < args_.channels; c += kChannels, from += kChannels * stride_c) {
        int sums[kChannels];
        sum_pixels(from, stride_x, stride_c, weights_ + x * bands_.taps, window.count, sums);
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          *to = resampled_pixel(sums[k]);
          to += bands_.source_rows * bands_.pitch;
        }
      }
    }
  }

  __device__ __forceinline__ static void sum_pixels(const std::uint8_t* from, std::int64_t stride_x,
                                                    std::int64_t stride_c, const int* weights,
                                                    int count, int (&sums)[kChannels]) {
#pragma unroll
    for (int& sum : sums) sum = kResampleHalf;
    for (int tap = 0; tap < count; ++tap, from += stride_x) {
      const int weight = weights[tap];
#pragma unroll
      for (int k = 0; k < kChannels; ++k) sums[k] += from[k * stride_c] * weight;
    }
  }

  /// One channel's rows in shared memory along y, into the image.
  __device__ void resample_columns(int c, bool whole_words) const {
    const auto quads = static_cast<unsigned>(bands_.pitch / kQuad);
    const auto* words =
        reinterpret_cast<const unsigned*>(pixels_ + c * bands_.source_rows * bands_.pitch);
    for (unsigned i = threadIdx.x; i < static_cast<unsigned>(rows_) * quads; i += kThreads) {
      unsigned quad = i;
      const int y = static_cast<int>(bands_.quads.divide(quad));
      const ResampleWindow window = windows_[width_ + y];
      const int* weights = weights_ + (width_ + y) * bands_.taps;
      const unsigned* from = words + (window.first - source_y_) * static_cast<int>(quads) + quad;
      int sums[kQuad] = {kResampleHalf, kResampleHalf, kResampleHalf, kResampleHalf};
      for (int tap = 0; tap < window.count; ++tap, from += quads) {
        const unsigned word = *from;
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
          sums[k] += static_cast<int>(word >> 8 * k & 255u) * weights[tap];
        }
      }
      store_quad(row(c, y) + quad * kQuad, width_ - static_cast<int>(quad) * kQuad, whole_words,
                 sums);
    }
  }

  __device__ __forceinline__ static void store_quad(std::uint8_t* to, int left, bool whole_words,
                                                    const int (&sums)[kQuad]) {
    if (whole_words) {
      unsigned word = 0;
#pragma unroll
      for (int k = 0; k < kQuad; ++k) word |= unsigned{resampled_pixel(sums[k])} << 8 * k;
      *reinterpret_cast<unsigned*>(to) = word;
      return;
    }
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (k < left) to[k] = resampled_pixel(sums[k]);
    }
  }

  const ResizedCrop& args_;
  const Bands& bands_;
  const PictureView& view_;  ///< in device memory: too many fields to stay in registers
  const std::int64_t image_;
  const int first_y_, rows_, width_;
  int source_y_ = 0, source_rows_ = 0;  ///< of the picture that the band needs
  ResampleWindow* const windows_;
  int* const weights_;
  unsigned char* const pixels_;
};

template <int kChannels>
__global__ void __launch_bounds__(kThreads, kBlocks)
    resized_crop_kernel(ResizedCrop args, Bands bands) {
  DYNAMIC_SHARED(unsigned char, shared);
  CropBand<kChannels>(args, bands, shared)();
}

/// What bands of so many rows need, in double: it may be more than any device has.
struct BandMemory {
  double taps, source_rows, pitch, bytes;

  BandMemory(const ResizedCrop& args, int rows) {
    constexpr double kRounding = 1.0001, kSupport = 2.0;  // of scales; of the widest filter
    const double scale = kRounding * static_cast<double>(args.largest_scale);
    const double support = kSupport * std::max(scale, 1.0);
    const double outputs = static_cast<double>(args.width) + rows;
    taps = 2.0 * std::ceil(support) + 1.0;
    source_rows = std::ceil((rows - 1) * scale + 2.0 * support) + 2.0;
    pitch = std::ceil(static_cast<double>(args.width) / kQuad) * kQuad;
    bytes = outputs * (sizeof(ResampleWindow) + sizeof(int) * taps) +
            static_cast<double>(args.channels) * source_rows * pitch;
  }
};

/// The most rows a band of which kBlocks, or else fewer, blocks fit a multiprocessor.
int rows_of_band(const ResizedCrop& args, const CudaLimits& limits) {
  constexpr int kFewRows = 8, kReserved = 1024;  // bytes that CUDA takes of each block
  for (int blocks = kBlocks; blocks >= 1; blocks /= 2) {
    const int room = limits.shared_memory_per_block / blocks - (blocks > 1 ? kReserved : 0);
    for (int rows = kMostRows; rows >= (blocks > 1 ? kFewRows : 1); rows /= 2) {
      if (BandMemory(args, rows).bytes <= room) return rows;
    }
  }
  throw DeviceError("resized_crop: a row of " + std::to_string(args.width) + " pixels at " +
                    "largest_scale " + std::to_string(args.largest_scale) + " needs " +
                    std::to_string(BandMemory(args, 1).bytes) + " bytes, expected at most " +
                    std::to_string(limits.shared_memory_per_block) + " on this device");
}

}  // namespace

void CudaKernels::resized_crop(const ResizedCrop& args) {
  constexpr const char* kOperation = "resized_crop";
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  check_arguments(args);
  const int rows = rows_of_band(args, limits_);
  const BandMemory memory(args, rows);
  const std::int64_t count = ceil_div(args.height, rows);
  if (args.height > kLimit - kMostRows || args.batch > kLimit / count) {
    throw DeviceError(std::string(kOperation) + ": batch, height are " +
                      std::to_string(args.batch) + ", " + std::to_string(args.height) +
                      ", expected less than 2^31 bands");
  }
  const auto pitch = static_cast<int>(memory.pitch);
  const Bands bands{rows,
                    static_cast<int>(count),
                    static_cast<int>(memory.taps),
                    static_cast<int>(memory.source_rows),
                    pitch,
                    Divisor(args.width),
                    Divisor(pitch / kQuad)};
  const dim3 grid(static_cast<unsigned>(args.batch * count));
  const auto bytes = static_cast<std::size_t>(memory.bytes);
  const auto launch_for = [&](auto channels) {
    launch(kOperation, stream_, grid, kThreads, bytes, resized_crop_kernel<channels.value>, args,
           bands);
  };
  args.channels % 3 == 0 ? launch_for(Constant<3>{}) : launch_for(Constant<1>{});
}

}  // namespace vitrine::cuda
