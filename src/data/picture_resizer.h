// Decoded pictures brought to a size, on one thread.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/cpu_kernels.h"
#include "cpu/thread_pool.h"
#include "vitrine/augment.h"
#include "vitrine/image.h"

namespace vitrine {

class PictureResizer {
 public:
  /// The view's box as an image of that size, by the view's filter.
  Image resize(std::span<const std::uint8_t> pixels, const PictureView& view, std::int64_t channels,
               std::int64_t height, std::int64_t width);

 private:
  cpu::ThreadPool pool_{1};
  cpu::CpuKernels kernels_{pool_};
};

}  // namespace vitrine
