// augment_images in CUDA: every bit as on the CPU, which is held to Pillow.
#include "augment_batch.h"
#include "cpu/cpu_kernels.h"
#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using Levels = std::vector<std::uint8_t>;

/// A batch in device memory. Images and workspace start `offset` bytes after an aligned address.
class DeviceBatch {
 public:
  explicit DeviceBatch(AugmentBatch batch, std::int64_t offset = 0)
      : offset_(offset),
        args_(batch.arguments()),
        images_(padded(batch.images)),
        workspace_(padded(batch.workspace)),
        operations_(batch.operations),
        fill_(batch.fill),
        mean_(batch.mean),
        std_(batch.std) {
    args_.images.data = images_.data() + offset;
    args_.workspace.data = workspace_.data() + offset;
    args_.operations = operations_.view();
    args_.fill = fill_.view();
    args_.mean = mean_.view();
    args_.std = std_.view();
  }

  const AugmentImages& arguments() const { return args_; }
  Levels images() const {
    const Levels levels = images_.values();
    return {levels.begin() + offset_, levels.end()};
  }

 private:
  Levels padded(const Levels& levels) const {
    Levels all(offset_, 0);
    all.insert(all.end(), levels.begin(), levels.end());
    return all;
  }

  std::int64_t offset_;
  AugmentImages args_;
  DeviceArray<std::uint8_t> images_, workspace_;
  DeviceArray<ImageOperation> operations_;
  DeviceArray<std::uint8_t> fill_;
  DeviceArray<float> mean_, std_;
};

Levels on_cpu(AugmentBatch batch) {
  cpu::ThreadPool pool(1);
  cpu::CpuKernels(pool).augment_images(batch.arguments());
  return batch.images;
}

class AugmentImagesKernel : public KernelTest {
 protected:
  Levels on_device(const AugmentBatch& batch, std::int64_t offset = 0) {
    const DeviceBatch device(batch, offset);
    kernels().augment_images(device.arguments());
    return device.images();
  }
};

TEST_F(AugmentImagesKernel, GivesTheBitsOfTheCpu) {
  const std::uint64_t last = kReduced ? 20 : 120;
  for (std::uint64_t seed = 0; seed < last; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const AugmentBatch batch = drawn_batch(seed, 44);
    const Levels expected = on_cpu(batch);
    EXPECT_EQ(on_device(batch), expected);
    EXPECT_EQ(on_device(batch, 1), expected);  // off a multiple of four bytes
    in_another_order([&] { EXPECT_EQ(on_device(batch), expected); });
  }
}

// Each kind by itself, on an image wider than a block of rows and on one of a few pixels.
TEST_F(AugmentImagesKernel, GivesTheBitsOfTheCpuForEveryKind) {
  for (int kind = 0; kind <= static_cast<int>(ImageOperationKind::erase); ++kind) {
    for (const std::int64_t width : {3, 300}) {
      if (kReduced && width > 100) continue;
      SCOPED_TRACE("kind " + std::to_string(kind) + " width " + std::to_string(width));
      RandomStream random(7, kind);
      AugmentBatch batch;
      batch.height = 20;
      batch.width = width;
      batch.operations_per_image = 1;
      for (std::int64_t i = 0; i < batch.elements(); ++i) {
        batch.images.push_back(static_cast<std::uint8_t>(random.next_u32() >> 25));
      }
      ImageOperation operation;
      while (static_cast<int>(operation.kind) != kind) operation = drawn_operation(random, 20);
      batch.operations = {operation};
      EXPECT_EQ(on_device(batch), on_cpu(batch));
    }
  }
}

TEST_F(AugmentImagesKernel, DoesNothingWithoutOperations) {
  AugmentBatch batch = drawn_batch(3, 30);
  batch.operations.assign(1, {});
  const DeviceBatch device(batch);
  AugmentImages args = device.arguments();
  args.operations = {};
  args.operations_per_image = 0;
  kernels().augment_images(args);
  EXPECT_EQ(device.images(), batch.images);
}

// The table lies in device memory, where no launcher looks: whatever it holds, nothing beyond its
// image is touched.
TEST_F(AugmentImagesKernel, KeepsToTheImageWhateverTheTableHolds) {
  const double nan = std::nan("");
  const std::vector<double> values = {nan, -1e300, 1e300, -1e9, 1e9, 0};
  for (int kind = 0; kind < 18; ++kind) {
    for (const double value : values) {
      SCOPED_TRACE("kind " + std::to_string(kind) + " value " + std::to_string(value));
      AugmentBatch batch;
      batch.batch = 2;
      batch.height = 5;
      batch.width = 6;
      batch.operations_per_image = 1;
      batch.images.assign(2 * batch.elements(), 200);
      ImageOperation operation{.kind = static_cast<ImageOperationKind>(kind),
                               .filter = static_cast<ResampleFilter>(kind % 4)};
      for (double& v : operation.value) v = value;
      operation.value[4] = 2;
      batch.operations = {operation, {}};
      const Levels levels = on_device(batch);
      EXPECT_EQ(Levels(levels.begin() + batch.elements(), levels.end()),
                Levels(batch.elements(), 200));
    }
  }
}

TEST_F(AugmentImagesKernel, RefusesContradictions) {
  const AugmentBatch batch = drawn_batch(5, 30);
  const DeviceBatch device(batch);
  AugmentImages args = device.arguments();
  args.workspace.size -= 1;
  expect_refused([&] { kernels().augment_images(args); }, "workspace");
  CudaKernels small = kernels_with({.shared_memory_per_block = 8 * 1024});
  AugmentBatch wide;
  wide.height = 1;
  wide.width = 4000;
  wide.images.assign(wide.elements(), 0);
  wide.operations.resize(1);
  wide.operations_per_image = 1;
  const DeviceBatch wide_device(wide);
  expect_refused([&] { small.augment_images(wide_device.arguments()); }, "height + width is 4001");
}

}  // namespace
}  // namespace vitrine::cuda
