// Operations on the colours and the geometry of u8 images, by a table of them for each image.
//
//   ImageOps, ImageEnhance and Image.transform of Pillow, see vitrine/pixel_math.h
//   RandAugment      Cubuk et al. 2020, arXiv:1909.13719
//   random erasing   Zhong et al. 2020, arXiv:1708.04896
//
// One block owns one image and does its operations in turn, so that statistics of the whole image
// (histograms, mean luma) need no second launch. What cannot be done in place goes to the
// workspace, and what is there at the end is copied back. Tones are tables of 256 levels a channel
// in shared memory; their pixels move four at a time where planes are multiples of four bytes.
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). 256 images of 3×224×224: 38.5 MB, 77 MB with the workspace; every operation reads
// and writes 77 MB, 18 µs at the copy rate, and statistics read 38.5 MB more, mostly from L2.
// nvcc for sm_80 and sm_90: 80 registers, no spills, 5 KB of shared memory and 16 KB for rows, so 3
// blocks of 8 warps a multiprocessor: the batch is one wave, two images each, and the slowest is
// the time:
//   tones          about 6 instructions a pixel and channel: 15 µs a multiprocessor's two images
//   bicubic        about 60 operations in double a pixel and channel, 64 a cycle: 160 µs; a chip
//                  that does two of them a cycle takes 5 ms
// Two operations of RandAugment: 50 to 200 µs, against 34 ms of ViT-B's step.
#include "augment_filter.cuh"
#include "augment_geometry.cuh"
#include "augment_tone.cuh"
#include "cuda_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

using augment::kBlocks;
using augment::kThreads;
using augment::Shape;
using augment::Shared;

/// Does one operation. Returns whether its result is in `to`. All threads call.
template <int kVector>
__device__ bool apply(const ImageOperation& operation, const AugmentImages& args,
                      std::uint8_t* from, std::uint8_t* to, const Shape& shape,
                      const Shared& shared) {
  if (pixel::is_tone(operation.kind)) {
    augment::change_tones<kVector>(operation, from, shape, shared.statistics);
    return false;
  }
  switch (operation.kind) {
    case ImageOperationKind::color:
    case ImageOperationKind::hue:
    case ImageOperationKind::grayscale:
      augment::change_colors<kVector>(operation, from, shape);
      return false;
    case ImageOperationKind::sharpness:
      augment::sharpen(static_cast<float>(operation.value[0]), from, to, shape);
      return true;
    case ImageOperationKind::gaussian_blur:
      augment::blur(pixel::blur_sigma(operation), from, to, shape, shared);
      return true;
    case ImageOperationKind::affine:
      augment::transform(operation, args.fill.data, from, to, shape, shared);
      return true;
    case ImageOperationKind::erase:
      augment::erase(operation, args, from, shape);
      return false;
    default:
      return false;
  }
}

template <int kVector>
__global__ void __launch_bounds__(kThreads, kBlocks)
    augment_images_kernel(AugmentImages args, int line_elements) {
  SHARED_ARRAY(augment::Statistics, statistics, [1]);
  DYNAMIC_SHARED(std::uint32_t, line);
  const Shared shared{statistics[0], line, line_elements};
  const Shape shape{static_cast<int>(args.channels), static_cast<int>(args.height),
                    static_cast<int>(args.width)};
  const int elements = shape.channels * shape.plane();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * elements;
  std::uint8_t *from = args.images.data + first, *to = args.workspace.data + first;
  const ImageOperation* operations = args.operations.data + blockIdx.x * args.operations_per_image;
  bool in_workspace = false;
  for (std::int64_t i = 0; i < args.operations_per_image; ++i) {
    if (operations[i].kind == ImageOperationKind::none) continue;
    if (apply<kVector>(operations[i], args, from, to, shape, shared)) {
      std::uint8_t* result = to;
      to = from;
      from = result;
      in_workspace = !in_workspace;
    }
    __syncthreads();
  }
  if (!in_workspace) return;
  augment::for_elements<kVector>(elements, [&](int i) {
    augment::store_pixels(to + i, augment::load_pixels<kVector>(from + i));
  });
}

/// Elements of dynamic shared memory.
int line_elements(const char* operation, const AugmentImages& args, const CudaLimits& limits) {
  const std::int64_t most =
      (limits.shared_memory_per_block - sizeof(augment::Statistics)) / sizeof(std::uint32_t);
  const std::int64_t needed = args.height + args.width;
  if (needed > most) {
    throw DeviceError(std::string(operation) + ": height + width is " + std::to_string(needed) +
                      ", expected at most " + std::to_string(most) + " on this device");
  }
  return static_cast<int>(needed < augment::kMinLine ? augment::kMinLine : needed);
}

}  // namespace

void CudaKernels::augment_images(const AugmentImages& args) {
  constexpr const char* kOperation = "augment_images";
  constexpr int kWide = 4;
  check_arguments(args);
  const int line = line_elements(kOperation, args, limits_);
  if (args.operations_per_image == 0) return;
  const auto aligned = [](const std::uint8_t* data) {
    return reinterpret_cast<std::uintptr_t>(data) % kWide == 0;
  };
  const bool wide = args.height * args.width % kWide == 0 && aligned(args.images.data) &&
                    aligned(args.workspace.data);
  for_bool(wide, [&](auto is_wide) {
    launch(kOperation, stream_, dim3(static_cast<unsigned>(args.batch)), kThreads,
           static_cast<std::size_t>(line) * sizeof(std::uint32_t),
           augment_images_kernel < is_wide.value ? kWide : 1 >, args, line);
  });
}

}  // namespace vitrine::cuda
