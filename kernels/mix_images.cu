// Mixup and cutmix of the images of a batch; see vitrine/augment.h.
//
//   mixup   out = round(w a + (1 − w) b), in float, ties to even; products are rounded, so the bits
//           are the CPU's
//   cutmix  a with b's pixels in the box
//
// A thread writes 16 neighbouring bytes of an image, or one where images are not so aligned. The
// mixes lie in device memory, where no launcher looks: a partner outside the batch is none, boxes
// are clipped to the image.
//
// Account, 256 images of 3×224×224: 77 MB read (38.5 where nothing is mixed), 38.5 MB written, some
// ten operations a byte, 32 registers. Expected (not measured; not run on a GPU): 27 µs at a copy
// rate of 4.3 TB/s, and about as long for the 0.4·10⁹ operations beside it.
#include <limits>

#include "cuda_kernels.h"
#include "primitives/divisor.cuh"
#include "primitives/ptx.cuh"
#include "vitrine/arguments.h"
#include "vitrine/unfused.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWideAccess = 16;

/// kBytes neighbouring pixels.
template <int kBytes>
struct Pixels {
  unsigned word[kBytes / 4];

  __device__ __forceinline__ explicit Pixels(const std::uint8_t* from) {
    const uint4 words = ptx::load_16(from);
    word[0] = words.x, word[1] = words.y, word[2] = words.z, word[3] = words.w;
  }
  __device__ __forceinline__ unsigned operator[](int i) const {
    return word[i / 4] >> 8 * (i % 4) & 255u;
  }
  __device__ __forceinline__ void set(int i, unsigned pixel) {
    word[i / 4] = (word[i / 4] & ~(255u << 8 * (i % 4))) | pixel << 8 * (i % 4);
  }
  __device__ __forceinline__ void store(std::uint8_t* to) const {
    ptx::store_16(to, make_uint4(word[0], word[1], word[2], word[3]));
  }
};

template <>
struct Pixels<1> {
  unsigned pixel;

  __device__ __forceinline__ explicit Pixels(const std::uint8_t* from) : pixel(*from) {}
  __device__ __forceinline__ unsigned operator[](int) const { return pixel; }
  __device__ __forceinline__ void set(int, unsigned value) { pixel = value; }
  __device__ __forceinline__ void store(std::uint8_t* to) const {
    *to = static_cast<std::uint8_t>(pixel);
  }
};

struct ImageSize {
  unsigned elements, blocks;  ///< of an image
  Divisor height, width;
};

template <int kBytes>
__device__ __forceinline__ void mixup(Pixels<kBytes>& image, const Pixels<kBytes>& partner,
                                      float weight) {
#pragma unroll
  for (int i = 0; i < kBytes; ++i) {
    const float mixed = unfused_product(static_cast<float>(image[i]), weight) +
                        unfused_product(static_cast<float>(partner[i]), 1.0f - weight);
    image.set(i, static_cast<unsigned>(fminf(fmaxf(rintf(mixed), 0.0f), 255.0f)));
  }
}

/// `element` is the first pixel's place in the image.
template <int kBytes>
__device__ __forceinline__ void cutmix(Pixels<kBytes>& image, const Pixels<kBytes>& partner,
                                       const ImageMix& mix, const ImageSize& size, unsigned height,
                                       unsigned width, unsigned element) {
  unsigned x = element, y = size.width.divide(x);
  size.height.divide(y);
#pragma unroll
  for (int i = 0; i < kBytes; ++i) {
    const bool in_box = y - static_cast<unsigned>(mix.y) < static_cast<unsigned>(mix.height) &&
                        x - static_cast<unsigned>(mix.x) < static_cast<unsigned>(mix.width);
    if (in_box) image.set(i, partner[i]);
    if (++x == width) {
      x = 0;
      if (++y == height) y = 0;
    }
  }
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads) mix_images_kernel(MixImages args, ImageSize size) {
  const unsigned b = blockIdx.x / size.blocks;
  const unsigned element = (blockIdx.x % size.blocks * kThreads + threadIdx.x) * kBytes;
  if (element >= size.elements) return;
  const ImageMix mix = args.mixes.data[b];
  const std::int64_t at = static_cast<std::int64_t>(b) * size.elements + element;
  Pixels<kBytes> image(args.images.data + at);
  if (mix.partner >= 0 && mix.partner < args.batch) {
    const Pixels<kBytes> partner(args.images.data +
                                 static_cast<std::int64_t>(mix.partner) * size.elements + element);
    if (mix.height > 0 && mix.width > 0) {
      cutmix(image, partner, mix, size, static_cast<unsigned>(args.height),
             static_cast<unsigned>(args.width), element);
    } else {
      mixup(image, partner, mix.weight);
    }
  }
  image.store(args.out.data + at);
}

}  // namespace

void CudaKernels::mix_images(const MixImages& args) {
  constexpr const char* kOperation = "mix_images";
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  check_arguments(args);
  const std::int64_t elements = args.channels * args.height * args.width;
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % kWideAccess == 0;
  };
  const bool is_wide =
      elements % kWideAccess == 0 && aligned(args.out.data) && aligned(args.images.data);
  const std::int64_t blocks = ceil_div(elements, kThreads * (is_wide ? kWideAccess : 1));
  if (elements > kLimit - kThreads * kWideAccess || args.batch > kLimit / blocks) {
    throw DeviceError(std::string(kOperation) + ": batch, channels, height, width are " +
                      std::to_string(args.batch) + ", " + std::to_string(args.channels) + ", " +
                      std::to_string(args.height) + ", " + std::to_string(args.width) +
                      ", expected less than 2^31 elements an image and blocks");
  }
  const ImageSize size{static_cast<unsigned>(elements), static_cast<unsigned>(blocks),
                       Divisor(args.height), Divisor(args.width)};
  const auto launch_for = [&](auto bytes) {
    launch(kOperation, stream_, dim3(static_cast<unsigned>(args.batch * blocks)), kThreads, 0,
           mix_images_kernel<bytes.value>, args, size);
  };
  is_wide ? launch_for(Constant<kWideAccess>{}) : launch_for(Constant<1>{});
}

}  // namespace vitrine::cuda
