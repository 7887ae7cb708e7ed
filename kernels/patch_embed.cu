// From stored images to patches: gather, crop, resize, flip, normalise and unfold in one pass.
//
//   patches = unfold((pixel · scale - mean) / std).transpose(1, 2)    Dosovitskiy et al. 2020,
//                                                                     arXiv:2010.11929
// The resize is bilinear with pixel centres at one half and no antialiasing, clamped to the crop:
// what torchvision's resized_crop(antialias=False) does. Output pixel ox samples the source at
//   sx = crop_x + (ox + 0.5) · crop_width / width - 0.5
// and `flip` mirrors the output. A crop that is the whole image at the model's size is read without
// interpolation. The rows lie in device memory, where no launcher looks: an image index outside
// [0, N) makes an empty row (zeros), and samples are clamped into the image.
//
// One block owns one row of patches of one image, a contiguous strip of the output; a thread writes
// 16 bytes of it at a time (two elements, or one, where patch_size asks for it). The sample
// positions of a strip are computed once, in double, and kept in shared memory. Backward is the
// inverse of unfold on the same strips. patches and dimages are written (=).
//
// Account, 256 images of 3×224×224 u8, 16×16 patches to bf16: 38.5 MB read, 77 MB written, two
// operations an element; a thread reads 8 pixels and writes 16 bytes. Neighbouring lanes read
// 16-byte pieces of 16 image rows; the other half of each 32-byte sector is the next patch's and
// comes from L1 (a strip of pixels is 10.5 KB). Forward 48 registers, so 5 blocks of 256 threads a
// multiprocessor, 1.9 KB of shared memory; backward 32 registers, 8 blocks; no spills.
// Expected (not measured; not run on a GPU): 27 µs at a copy rate of 4.3 TB/s; 30 to 40 µs for
// whole images, as a block waits for its row before its first pixel; crops gather four bytes an
// element from L1, about 25 instructions each: 40 to 60 µs.
#include <limits>

#include "cuda_kernels.h"
#include "primitives/divisor.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kForwardBlocks = 4;  // a multiprocessor of sm_75 has 1024 threads
#else
constexpr int kForwardBlocks = 5;  // a multiprocessor: all that fit without spills
#endif
constexpr float kLargestByte = 255.0f;

/// Where an element of a strip lies in the image, counted from the strip's first row of pixels.
struct StripPixel {
  unsigned channel, y, x;
};

/// A row of patches [width / p, C, p, p] and how its elements are found.
struct Strip {
  unsigned elements;
  unsigned patch;  ///< patch_size
  Divisor patch_size, channels;

  template <typename Args>
  explicit Strip(const Args& args)
      : elements(static_cast<unsigned>(args.channels * args.patch_size * args.width)),
        patch(static_cast<unsigned>(args.patch_size)),
        patch_size(args.patch_size),
        channels(args.channels) {}

  __device__ __forceinline__ StripPixel pixel(unsigned element) const {
    unsigned x = element;
    unsigned y = patch_size.divide(x);
    unsigned channel = patch_size.divide(y);
    const unsigned piece = channels.divide(channel);
    return {channel, y, piece * patch + x};
  }
};

/// Where an output pixel samples the source along one axis.
struct Sample {
  int low;
  float weight;  ///< of the pixel after `low`
};

__device__ Sample sample_at(int i, float crop, float crop_size, int size, int source) {
  const auto first = static_cast<double>(crop), extent = static_cast<double>(crop_size);
  const double last = fmax(first, first + extent - 1.0);
  const double centre = (i + 0.5) * extent / size;
  const double inside = fmin(fmax(first + centre - 0.5, first), last);
  const double position = fmin(fmax(inside, 0.0), source - 1.0);  // NaN becomes 0
  const int low = static_cast<int>(position);
  return {low, static_cast<float>(position - low)};
}

__device__ bool is_whole_image(const PatchEmbedForward& args, const BatchRow& row) {
  return args.source_width == args.width && args.source_height == args.height &&
         row.crop_x == 0.0f && row.crop_y == 0.0f &&
         row.crop_width == static_cast<float>(args.width) &&
         row.crop_height == static_cast<float>(args.height);
}

/// One block's strip: writes each element once, `kVector` at a time.
template <typename T, typename Pixel, int kVector>
class StripUnfold {
 public:
  __device__ StripUnfold(const PatchEmbedForward& args, const Strip& strip)
      : args_(args),
        strip_(strip),
        row_(args.rows.data[blockIdx.x / strips()]),
        first_y_(static_cast<int>(blockIdx.x % strips() * strip.patch)) {}

  __device__ void operator()(Sample* samples) const {
    const std::int64_t plane = args_.source_height * args_.source_width;
    if (row_.image < 0 || row_.image >= args_.images.size / (args_.channels * plane)) {
      write([](StripPixel, float(&)[kVector]) {});
    } else if (is_whole_image(args_, row_)) {
      whole_image(plane);
    } else {
      resized_crop(plane, samples);
    }
  }

 private:
  __device__ unsigned strips() const { return static_cast<unsigned>(args_.height) / strip_.patch; }
  __device__ const Pixel* channel(unsigned c, std::int64_t plane) const {
    return static_cast<const Pixel*>(args_.images.data) + (row_.image * args_.channels + c) * plane;
  }

  /// Calls `fill(pixel, values)` for each piece of the strip, on values of zero.
  template <typename Fill>
  __device__ __forceinline__ void write(const Fill& fill) const {
    T* patches =
        elements<T>(args_.patches) + static_cast<std::int64_t>(blockIdx.x) * strip_.elements;
    for (unsigned e = threadIdx.x * kVector; e < strip_.elements; e += kThreads * kVector) {
      float values[kVector] = {};
      fill(strip_.pixel(e), values);
      store(patches + e, values);
    }
  }

  __device__ __forceinline__ void normalise(unsigned c, float (&values)[kVector]) const {
    constexpr float kLargest = sizeof(Pixel) == 1 ? kLargestByte : 1.0f;
    const float offset = args_.mean.data[c] * kLargest;
    const float factor = 1.0f / (args_.std.data[c] * kLargest);
#pragma unroll
    for (float& value : values) value = (value - offset) * factor;
  }

  __device__ void whole_image(std::int64_t plane) const {
    const bool mirror = row_.flip != 0;
    const int width = static_cast<int>(args_.width);
    write([&](StripPixel at, float(&values)[kVector]) {
      const Pixel* from = channel(at.channel, plane) + (first_y_ + at.y) * args_.width;
      const int x = static_cast<int>(at.x);
      float pixels[kVector];
      load(pixels, from + (mirror ? width - kVector - x : x));
#pragma unroll
      for (int i = 0; i < kVector; ++i) values[i] = pixels[mirror ? kVector - 1 - i : i];
      normalise(at.channel, values);
    });
  }

  /// `samples` holds width + patch_size of them: along a row, then down the strip's rows.
  __device__ void resized_crop(std::int64_t plane, Sample* samples) const {
    const int width = static_cast<int>(args_.width), height = static_cast<int>(args_.height);
    const int source_width = static_cast<int>(args_.source_width);
    const int source_height = static_cast<int>(args_.source_height);
    const int patch = static_cast<int>(strip_.patch);
    for (int i = static_cast<int>(threadIdx.x); i < width + patch; i += kThreads) {
      const int x = row_.flip != 0 ? width - 1 - i : i;
      samples[i] = i < width ? sample_at(x, row_.crop_x, row_.crop_width, width, source_width)
                             : sample_at(first_y_ + i - width, row_.crop_y, row_.crop_height,
                                         height, source_height);
    }
    __syncthreads();
    write([&](StripPixel at, float(&values)[kVector]) {
      const Sample y = samples[width + at.y];
      const Pixel* low = channel(at.channel, plane) + y.low * args_.source_width;
      const Pixel* high = low + (y.low + 1 < source_height ? source_width : 0);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const Sample x = samples[at.x + i];
        const int right = x.low + 1 < source_width ? x.low + 1 : x.low;
        const float first = blend(low[x.low], high[x.low], y.weight);
        values[i] = blend(first, blend(low[right], high[right], y.weight), x.weight);
      }
      normalise(at.channel, values);
    });
  }

  __device__ static float blend(float a, float b, float weight) {
    return fmaf(weight, b - a, a);
  }

  const PatchEmbedForward& args_;
  const Strip& strip_;
  const BatchRow row_;
  int first_y_;
};

template <typename T, typename Pixel, int kVector>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    patch_embed_forward_kernel(PatchEmbedForward args, Strip strip) {
  DYNAMIC_SHARED(Sample, samples);
  StripUnfold<T, Pixel, kVector>(args, strip)(samples);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    patch_embed_backward_kernel(PatchEmbedBackward args, Strip strip) {
  const unsigned strips = static_cast<unsigned>(args.height) / strip.patch;
  const std::int64_t image = blockIdx.x / strips;
  const unsigned first_y = blockIdx.x % strips * strip.patch;
  const T* dpatches =
      elements<T>(args.dpatches) + static_cast<std::int64_t>(blockIdx.x) * strip.elements;
  for (unsigned e = threadIdx.x * kVector; e < strip.elements; e += kThreads * kVector) {
    const StripPixel at = strip.pixel(e);
    float values[kVector];
    load(values, dpatches + e);
#pragma unroll
    for (float& value : values) value /= args.std.data[at.channel];
    const std::int64_t y = (image * args.channels + at.channel) * args.height + first_y + at.y;
    store(elements<T>(args.dimages) + y * args.width + at.x, values);
  }
}

/// What the kernels count in 32 bits.
template <typename Args>
void check_strip(const char* operation, const Args& args) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  const std::int64_t elements = args.channels * args.patch_size * args.width;
  if (elements > kLimit || args.height > kLimit) {
    throw DeviceError(std::string(operation) + ": channels · patch_size · width is " +
                      std::to_string(elements) + " and height is " + std::to_string(args.height) +
                      ", expected less than 2^31");
  }
}

/// Bytes of shared memory for the sample positions of one strip.
std::size_t sample_bytes(const char* operation, const PatchEmbedForward& args,
                         const CudaLimits& limits) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  if (args.source_width > kLimit || args.source_height > kLimit) {
    throw DeviceError(std::string(operation) + ": source_height, source_width are " +
                      std::to_string(args.source_height) + ", " +
                      std::to_string(args.source_width) + ", expected less than 2^31");
  }
  const std::int64_t samples = args.width + args.patch_size;
  const std::int64_t most = limits.shared_memory_per_block / static_cast<int>(sizeof(Sample));
  if (samples > most) {
    throw DeviceError(std::string(operation) + ": width + patch_size is " +
                      std::to_string(samples) + ", expected at most " + std::to_string(most) +
                      " on this device");
  }
  return static_cast<std::size_t>(samples) * sizeof(Sample);
}

/// Calls `body` with the widest access that fits rows of patches: 16 bytes, or two elements
/// (patches of 14), or one.
template <typename T, typename Body>
void for_width(std::int64_t patch_size, bool aligned, const Body& body) {
  if (!aligned || patch_size % 2 != 0) return body(Constant<1>{});
  if (patch_size % kVectorWidth<T> != 0) return body(Constant<2>{});
  body(Constant<kVectorWidth<T>>{});
}

template <typename T, typename Pixel>
void forward(const char* operation, cudaStream_t stream, std::size_t shared_bytes,
             const PatchEmbedForward& args) {
  const std::int64_t blocks = args.rows.size * (args.height / args.patch_size);
  const bool aligned = vectorizable<T>(0, args.patches.data, args.images.data);
  for_width<T>(args.patch_size, aligned, [&](auto width) {
    launch(operation, stream, dim3(static_cast<unsigned>(blocks)), kThreads, shared_bytes,
           patch_embed_forward_kernel<T, Pixel, width.value>, args, Strip(args));
  });
}

}  // namespace

void CudaKernels::patch_embed_forward(const PatchEmbedForward& args) {
  constexpr const char* kOperation = "patch_embed_forward";
  check_arguments(args);
  check_strip(kOperation, args);
  const std::size_t shared_bytes = sample_bytes(kOperation, args, limits_);
  for_float_type(kOperation, args.patches.dtype, [&]<typename T>() {
    if (args.images.dtype == DType::u8) {
      forward<T, std::uint8_t>(kOperation, stream_, shared_bytes, args);
    } else {
      forward<T, float>(kOperation, stream_, shared_bytes, args);
    }
  });
}

void CudaKernels::patch_embed_backward(const PatchEmbedBackward& args) {
  constexpr const char* kOperation = "patch_embed_backward";
  check_arguments(args);
  check_strip(kOperation, args);
  for_float_type(kOperation, args.dimages.dtype, [&]<typename T>() {
    const bool aligned = vectorizable<T>(0, args.dimages.data, args.dpatches.data);
    for_width<T>(args.patch_size, aligned, [&](auto width) {
      const Strip strip(args);
      launch(kOperation, stream_, dim3(static_cast<unsigned>(args.dimages.size / strip.elements)),
             kThreads, 0, patch_embed_backward_kernel<T, width.value>, args, strip);
    });
  });
}

}  // namespace vitrine::cuda
