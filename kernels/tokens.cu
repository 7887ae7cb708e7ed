// The token sequence: class token, registers, positions and dropout; and pooling, the way back.
//
//   x = dropout(concat(class_token, registers, patches) + position)    Dosovitskiy et al. 2020,
//   y = mean of x over a window of tokens                              arXiv:2010.11929;
//                                                  registers: Darcet et al. 2024, arXiv:2309.16588
//
// Forward and the backward of pooling: one thread moves 16 bytes of one image; a position, the
// class token or a register is read again for every image and comes from L2. Sums (dclass,
// dregisters and dposition over the images, y over the tokens): a block owns 32 pieces of 16 bytes,
// its eight warps take every eighth image or token, and the eight parts are added in their order in
// shared memory. So dx is read once, no sum depends on the order of blocks, and nothing is added in
// memory.
//
// dpatches, y and a pooled dx are written (=); dclass, dregisters and dposition too, each by one
// thread, or added to (+=) where `accumulate` says so, as is a pooled dx.
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16: [50432, 768], 77 MB a tensor; memory-bound.
//   forward 2 tensors and the positions from L2, 36 µs; backward the same without them
// nvcc for sm_90, bf16: forward 26 registers, 8 blocks of 8 warps a multiprocessor; backward 44 (54
// with dropout), 5 blocks (4), of which [197, 768] has 591: less than one round, 4.5 a
// multiprocessor, each thread one access of 16 bytes under way: 18 KB where 23 KB hide 700 ns
// (Little). Expected: forward 90 % of the copy rate, backward 60 to 75 %.
#include <limits>

#include "cuda_kernels.h"
#include "primitives/dropout.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

/// Neighbouring elements of one image [T, D].
struct Range {
  unsigned first = 0, size = 0;

  __device__ bool contains(unsigned element) const { return element - first < size; }
};

/// Which elements of one image are whose; `positions` have one that is added.
struct TokenLayout {
  unsigned elements;
  Range class_token, registers, patches, positions;

  template <typename Args>
  explicit TokenLayout(const Args& args) {
    const auto hidden = static_cast<unsigned>(args.hidden);
    class_token.size = args.place == ClassToken::none ? 0 : hidden;
    registers.size = static_cast<unsigned>(args.num_registers) * hidden;
    patches.size = static_cast<unsigned>(args.num_patches) * hidden;
    registers.first = args.place == ClassToken::first ? hidden : 0;
    patches.first = registers.first + registers.size;
    class_token.first = args.place == ClassToken::last ? patches.first + patches.size : 0;
    elements = class_token.size + registers.size + patches.size;
    positions = args.patch_positions ? patches : Range{0, elements};
  }
};

/// Where element e of an image comes from.
template <typename T>
__device__ __forceinline__ const T* source_of(const TokensForward& args, const TokenLayout& layout,
                                              std::int64_t image, unsigned e) {
  if (layout.class_token.contains(e)) {
    return elements<T>(args.class_token) + (e - layout.class_token.first);
  }
  if (layout.registers.contains(e)) {
    return elements<T>(args.registers) + (e - layout.registers.first);
  }
  return elements<T>(args.patches) + image * layout.patches.size + (e - layout.patches.first);
}

/// Which element of which image a thread moves; a block moves one image's.
struct ImageElement {
  unsigned image, element;
};

template <int kVector>
__device__ __forceinline__ ImageElement image_element(unsigned blocks_per_image) {
  const unsigned block = blockIdx.x % blocks_per_image;
  return {blockIdx.x / blocks_per_image, (block * kThreads + threadIdx.x) * kVector};
}

/// dropout(x) of elements [first, first + kVector) of [B, T, D], counted in the whole batch.
template <bool kRandom, int kVector>
__device__ __forceinline__ void drop(const DropoutDraw& draw, std::uint64_t first,
                                     float (&x)[kVector]) {
  if constexpr (!kRandom) return;
  if constexpr (kVector == 1) {
    x[0] *= draw.element(first);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; i += 4) {
      const float4 factors = draw.quad((first + i) / 4);
      x[i] *= factors.x;
      x[i + 1] *= factors.y;
      x[i + 2] *= factors.z;
      x[i + 3] *= factors.w;
    }
  }
}

/// Element 0 of image `image` of this call in the tensor [B, T, D] of the whole batch.
template <bool kRandom>
__device__ std::uint64_t first_element(const StepState* state, std::int64_t image,
                                       const TokenLayout& layout) {
  if constexpr (!kRandom) return 0;
  return static_cast<std::uint64_t>(state->first_row + image) * layout.elements;
}

template <typename T, int kVector, bool kRandom>
__global__ void __launch_bounds__(kThreads)
    tokens_forward_kernel(TokensForward args, TokenLayout layout, unsigned blocks_per_image) {
  const auto [image, e] = image_element<kVector>(blocks_per_image);
  if (e >= layout.elements) return;
  float x[kVector];
  load(x, source_of<T>(args, layout, image, e));
  if (args.position.data != nullptr && layout.positions.contains(e)) {
    float position[kVector];
    load(position, elements<T>(args.position) + (e - layout.positions.first));
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] += position[i];
  }
  const DropoutDraw draw(args.dropout, args.state);
  drop<kRandom>(draw, first_element<kRandom>(args.state, image, layout) + e, x);
  store(elements<T>(args.x) + static_cast<std::int64_t>(image) * layout.elements + e, x);
}

/// Adds the warps' sums in their order: element threadIdx.x of the block's 32 · kVector,
/// lane-major. All threads call, once; threads beyond that many elements receive 0.
template <int kVector>
__device__ __forceinline__ float sum_of_warps(const float (&sum)[kVector]) {
  SHARED_ARRAY(float4, shared, [kThreads * kVector / 4]);
  auto* parts = reinterpret_cast<float*>(shared);
  store(parts + threadIdx.x * kVector, sum);
  __syncthreads();
  float total = 0.0f;
  if (threadIdx.x < kWarpSize * kVector) {
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      total += parts[warp * kWarpSize * kVector + threadIdx.x];
    }
  }
  return total;
}

/// The gradient of elements [e, e + kVector) of every kWarps-th image: dpatches, and their sum.
template <typename T, int kVector, bool kRandom>
__device__ __forceinline__ void sum_over_images(const TokensBackward& args,
                                                const TokenLayout& layout, unsigned e,
                                                float (&sum)[kVector]) {
  const T* __restrict__ dx = elements<T>(args.dx) + e;
  const bool is_patch = args.dpatches.data != nullptr && layout.patches.contains(e);
  T* __restrict__ dpatches = elements<T>(args.dpatches) + (is_patch ? e - layout.patches.first : 0);
  const DropoutDraw draw(args.dropout, args.state);
  [[maybe_unused]] constexpr int kUnroll = kRandom ? 1 : 4;
#pragma unroll kUnroll
  for (std::int64_t image = threadIdx.x / kWarpSize; image < args.batch; image += kWarps) {
    float gradient[kVector];
    load(gradient, dx + image * layout.elements);
    drop<kRandom>(draw, first_element<kRandom>(args.state, image, layout) + e, gradient);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum[i] += gradient[i];
    if (is_patch) store(dpatches + image * layout.patches.size, gradient);
  }
}

/// The sum of element e to its place in `out`, the gradients of a range of elements, if it has one.
__device__ __forceinline__ void write_sum(float* out, const Range& range, unsigned e, float sum,
                                          bool accumulate) {
  if (out == nullptr || !range.contains(e)) return;
  out += e - range.first;
  *out = accumulate ? *out + sum : sum;
}

template <typename T, int kVector, bool kRandom>
__global__ void __launch_bounds__(kThreads)
    tokens_backward_kernel(TokensBackward args, TokenLayout layout) {
  constexpr unsigned kElements = kWarpSize * kVector;
  const unsigned first = blockIdx.x * kElements;
  const unsigned mine = first + threadIdx.x % kWarpSize * kVector;
  float sum[kVector] = {};
  if (mine < layout.elements) sum_over_images<T, kVector, kRandom>(args, layout, mine, sum);

  const float total = sum_of_warps(sum);
  const unsigned e = first + threadIdx.x;
  if (threadIdx.x >= kElements || e >= layout.elements) return;
  write_sum(args.dposition.data, layout.positions, e, total, args.accumulate);
  write_sum(args.dclass.data, layout.class_token, e, total, args.accumulate);
  write_sum(args.dregisters.data, layout.registers, e, total, args.accumulate);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    pool_forward_kernel(PoolForward args, unsigned blocks_per_image) {
  constexpr std::int64_t kColumns = kWarpSize * kVector;
  const std::int64_t image = blockIdx.x / blocks_per_image;
  const std::int64_t first = blockIdx.x % blocks_per_image * kColumns;
  const std::int64_t mine = first + threadIdx.x % kWarpSize * kVector;
  const TokenWindow& window = args.window;
  float sum[kVector] = {};
  if (mine < args.hidden) {
    const T* x = elements<T>(args.x) + (image * window.total + window.first) * args.hidden + mine;
#pragma unroll 4
    for (std::int64_t token = threadIdx.x / kWarpSize; token < window.tokens; token += kWarps) {
      float values[kVector];
      load(values, x + token * args.hidden);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] += values[i];
    }
  }
  const float total = sum_of_warps(sum);
  const std::int64_t col = first + threadIdx.x;
  if (threadIdx.x >= kColumns || col >= args.hidden) return;
  const float mean = total / static_cast<float>(window.tokens);
  elements<T>(args.y)[image * args.hidden + col] = from_float<T>(mean);
}

/// With kAccumulate the elements are those of the window, else of the whole image.
template <typename T, int kVector, bool kAccumulate>
__global__ void __launch_bounds__(kThreads)
    pool_backward_kernel(PoolBackward args, unsigned blocks_per_image) {
  const auto [image, e] = image_element<kVector>(blocks_per_image);
  const auto hidden = static_cast<unsigned>(args.hidden);
  const TokenWindow& window = args.window;
  const unsigned first = static_cast<unsigned>(window.first) * hidden;
  const unsigned size = static_cast<unsigned>(window.tokens) * hidden;
  if (e >= (kAccumulate ? size : static_cast<unsigned>(window.total) * hidden)) return;
  T* dx = elements<T>(args.dx) + image * window.total * args.hidden + e + (kAccumulate ? first : 0);
  float gradient[kVector] = {};
  if (kAccumulate || e - first < size) {
    load(gradient, elements<T>(args.dy) + image * args.hidden + e % hidden);
    const float scale = 1.0f / static_cast<float>(window.tokens);
#pragma unroll
    for (float& value : gradient) value *= scale;
  }
  if constexpr (kAccumulate) {
    float before[kVector];
    load(before, dx);
#pragma unroll
    for (int i = 0; i < kVector; ++i) gradient[i] += before[i];
  }
  store(dx, gradient);
}

/// Blocks an image is cut into; the kernels count its elements in 32 bits.
unsigned blocks_of(const char* operation, std::int64_t elements, std::int64_t elements_per_block) {
  if (elements > std::numeric_limits<std::int32_t>::max()) {
    throw DeviceError(std::string(operation) + ": an image has " + std::to_string(elements) +
                      " elements (tokens · hidden), expected less than 2^31");
  }
  return static_cast<unsigned>(ceil_div(elements, elements_per_block));
}

template <typename Args>
std::int64_t image_elements(const Args& args) {
  const std::int64_t class_tokens = args.place == ClassToken::none ? 0 : 1;
  return (args.num_patches + args.num_registers + class_tokens) * args.hidden;
}

dim3 grid_of(std::int64_t images, unsigned blocks_per_image) {
  return dim3(static_cast<unsigned>(images * blocks_per_image));
}

}  // namespace

void CudaKernels::tokens_forward(const TokensForward& args) {
  constexpr const char* kOperation = "tokens_forward";
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const bool wide =
        vectorizable<T>(args.hidden, args.x.data, args.patches.data, args.class_token.data,
                        args.registers.data, args.position.data);
    for_bool(wide, [&](auto is_wide) {
      for_bool(args.dropout.probability > 0.0f, [&](auto random) {
        constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
        const unsigned blocks = blocks_of(kOperation, image_elements(args), kThreads * kVector);
        launch(kOperation, stream_, grid_of(args.batch, blocks), kThreads, 0,
               tokens_forward_kernel<T, kVector, random.value>, args, TokenLayout(args), blocks);
      });
    });
  });
}

void CudaKernels::tokens_backward(const TokensBackward& args) {
  constexpr const char* kOperation = "tokens_backward";
  check_arguments(args);
  for_float_type(kOperation, args.dx.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.hidden, args.dx.data, args.dpatches.data);
    for_bool(wide, [&](auto is_wide) {
      for_bool(args.dropout.probability > 0.0f, [&](auto random) {
        constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
        const unsigned blocks = blocks_of(kOperation, image_elements(args), kWarpSize * kVector);
        launch(kOperation, stream_, grid_of(1, blocks), kThreads, 0,
               tokens_backward_kernel<T, kVector, random.value>, args, TokenLayout(args));
      });
    });
  });
}

void CudaKernels::pool_forward(const PoolForward& args) {
  constexpr const char* kOperation = "pool_forward";
  check_arguments(args);
  for_float_type(kOperation, args.y.dtype, [&]<typename T>() {
    for_bool(vectorizable<T>(args.hidden, args.x.data), [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      const unsigned blocks = blocks_of(kOperation, args.hidden, kWarpSize * kVector);
      launch(kOperation, stream_, grid_of(args.batch, blocks), kThreads, 0,
             pool_forward_kernel<T, kVector>, args, blocks);
    });
  });
}

void CudaKernels::pool_backward(const PoolBackward& args) {
  constexpr const char* kOperation = "pool_backward";
  check_arguments(args);
  const std::int64_t tokens = args.accumulate ? args.window.tokens : args.window.total;
  blocks_of(kOperation, args.window.total * args.hidden, kThreads);  // counted in 32 bits
  for_float_type(kOperation, args.dx.dtype, [&]<typename T>() {
    for_bool(vectorizable<T>(args.hidden, args.dx.data, args.dy.data), [&](auto is_wide) {
      for_bool(args.accumulate, [&](auto accumulate) {
        constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
        const unsigned blocks = blocks_of(kOperation, tokens * args.hidden, kThreads * kVector);
        launch(kOperation, stream_, grid_of(args.batch, blocks), kThreads, 0,
               pool_backward_kernel<T, kVector, accumulate.value>, args, blocks);
      });
    });
  });
}

}  // namespace vitrine::cuda
