// Boxes of pictures resampled in CUDA: equal, bit for bit, to a reference that goes pixel by pixel.
#include "reference/resized_crop.h"

#include <limits>

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::resized_crop;

class CudaResizedCrop : public KernelTest {
 protected:
  /// `shift` bytes lie before the images.
  Bytes run(const Problem& p, const CudaLimits& limits = {}, std::int64_t shift = 0) {
    const Bytes first = run_once(p, limits, shift);
    Bytes again;
    in_another_order([&] { again = run_once(p, limits, shift); });
    EXPECT_EQ(first, again);
    return first;
  }

  Bytes run_once(const Problem& p, const CudaLimits& limits, std::int64_t shift) {
    const DeviceArray<std::uint8_t> sources(p.sources), images(shift + p.elements());
    const DeviceArray<PictureView> views(p.views);
    kernels_with(limits).resized_crop(
        arguments(p, {images.data() + shift, p.elements()}, sources.view(), views.view()));
    Bytes values = images.values();
    values.erase(values.begin(), values.begin() + shift);
    return values;
  }
};

TEST_F(CudaResizedCrop, EqualsReferenceForRandomViews) {
  const std::uint64_t end = kReduced ? 5010 : 5040;
  for (std::uint64_t seed = 5000; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Problem p = random_problem(seed, seed % 4 == 0 ? 50 : 16);
    EXPECT_EQ(run(p), images_of(p));
  }
}

// As many rows a band as memory allows: on chips with little of it there are more bands.
TEST_F(CudaResizedCrop, BandsDoNotChangeBits) {
  RandomStream random(5100, 0);
  Problem p{3, 70, 24, random_bytes(3 * 97 * 61, random), {whole(0, 3, 97, 61, false)}};
  for (const ResampleFilter filter :
       {ResampleFilter::nearest, ResampleFilter::bilinear, ResampleFilter::bicubic}) {
    p.views[0].filter = filter;
    p.views[0].flip_y = filter == ResampleFilter::bicubic;
    const Bytes expected = images_of(p);
    for (const int kilobytes : {227, 64, 24, 10, 5}) {
      SCOPED_TRACE(std::to_string(kilobytes) + " KB");
      CudaLimits limits;
      limits.shared_memory_per_block = kilobytes * 1024;
      EXPECT_EQ(run(p, limits), expected);
    }
  }
}

// Images that start off a word are written byte by byte.
TEST_F(CudaResizedCrop, WritesUnalignedImages) {
  RandomStream random(5200, 0);
  Problem p{1, 9, 12, random_bytes(20 * 30, random), {whole(0, 1, 20, 30, true)}};
  EXPECT_EQ(run(p, {}, 1), images_of(p));
}

// No launcher can look at the views: what is wrong there reads no foreign memory.
TEST_F(CudaResizedCrop, SurvivesViewsThatNobodyChecked) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  RandomStream random(5300, 0);
  Problem p{3, 10, 12, random_bytes(3 * 20 * 24, random), {}};
  const PictureView good = whole(0, 3, 20, 24, false);
  const auto add = [&](auto change) {
    p.views.push_back(good);
    change(p.views.back());
  };
  add([](PictureView& view) { view.offset = 1; });
  add([](PictureView& view) { view.offset = -5; });
  add([](PictureView& view) { view.offset = kHuge; });
  add([](PictureView& view) { view.stride_y = kHuge; });
  add([](PictureView& view) { view.stride_x = -kHuge; });
  add([](PictureView& view) { view.stride_c = std::numeric_limits<std::int64_t>::min(); });
  add([](PictureView& view) { view.height = 0; });
  add([](PictureView& view) { view.width = -3; });
  add([](PictureView& view) { view.height = std::numeric_limits<std::int32_t>::max(); });
  const std::int64_t empty = std::ssize(p.views);
  add([](PictureView& view) { view.crop_y = kNan, view.crop_height = kNan; });
  add([](PictureView& view) { view.crop_x = -1e30f, view.crop_width = kInfinity; });
  add([](PictureView& view) { view.crop_x = 1e30f, view.crop_height = -1.0f; });
  add([](PictureView& view) { view.crop_x = 23.0f, view.crop_width = 50.0f; });
  add([](PictureView& view) { view.filter = ResampleFilter::nearest, view.crop_x = 1e9f; });
  add([](PictureView& view) { view.filter = static_cast<ResampleFilter>(77); });

  const DeviceArray<std::uint8_t> sources(p.sources), images(p.elements());
  const DeviceArray<PictureView> views(p.views);
  ResizedCrop args = arguments(p, images.view(), sources.view(), views.view());
  args.largest_scale = 2.0f;
  kernels().resized_crop(args);
  const Bytes found = images.values();
  EXPECT_EQ(Bytes(found.begin(), found.begin() + empty * p.image_elements()),
            Bytes(empty * p.image_elements(), 0));
}

// A box that is larger than largest_scale says leaves no pixels, and no writes beyond memory.
TEST_F(CudaResizedCrop, BoxesLargerThanPromisedAreEmpty) {
  RandomStream random(5400, 0);
  const Problem p{1,
                  4,
                  4,
                  random_bytes(2 * 80 * 80, random),
                  {whole(0, 1, 80, 4, true), whole(0, 1, 4, 80, true), whole(0, 1, 4, 4, true)}};
  const DeviceArray<std::uint8_t> sources(p.sources), images(p.elements());
  const DeviceArray<PictureView> views(p.views);
  ResizedCrop args = arguments(p, images.view(), sources.view(), views.view());
  args.largest_scale = 1.0f;
  kernels().resized_crop(args);
  Bytes expected(2 * p.image_elements(), 0);
  const Bytes last = image_of(p, p.views[2]);
  expected.insert(expected.end(), last.begin(), last.end());
  EXPECT_EQ(images.values(), expected);
}

// Of five rows that lie more than 2^32 bytes apart only the last one exists, and is looked at. It
// lies behind the others, or before them.
TEST_F(CudaResizedCrop, CountsBytesIn64Bits) {
  constexpr std::int64_t kApart = (std::int64_t{1} << 32) + 12345, kOthers = 4 * kApart;
  RandomStream random(5500, 0);
  Problem p{3, 1, 6, random_bytes(3 * 8, random), {whole(0, 3, 1, 8, false)}};
  const DeviceArray<std::uint8_t> sources(p.sources), images(p.elements());
  for (const ResampleFilter filter : {ResampleFilter::nearest, ResampleFilter::bilinear}) {
    for (const bool behind : {true, false}) {
      p.views[0].filter = filter;
      PictureView far = p.views[0];
      far.height = 5, far.crop_y = 4.0f;
      far.stride_y = behind ? kApart : -kApart, far.offset = behind ? 0 : kOthers;
      const DeviceArray<PictureView> views(far);
      const auto begin = reinterpret_cast<std::uintptr_t>(sources.data()) - (behind ? kOthers : 0);
      kernels().resized_crop(arguments(
          p, images.view(),
          {reinterpret_cast<std::uint8_t*>(begin), kOthers + std::ssize(p.sources)}, views.view()));
      EXPECT_EQ(images.values(), images_of(p));
    }
  }
}

TEST_F(CudaResizedCrop, RefusesContradictions) {
  const Problem p{3, 10, 12, Bytes(3 * 20 * 24), {whole(0, 3, 20, 24, false)}};
  const DeviceArray<std::uint8_t> sources(p.sources), images(p.elements());
  const DeviceArray<PictureView> views(p.views);
  const auto refused = [&](const char* field, auto change) {
    ResizedCrop args = arguments(p, images.view(), sources.view(), views.view());
    change(args);
    expect_refused([&] { kernels().resized_crop(args); }, field);
  };
  refused("images", [](ResizedCrop& args) { args.images.size -= 1; });
  refused("views", [](ResizedCrop& args) { args.views = {}; });
  refused("width", [](ResizedCrop& args) { args.width = 0; });
  refused("largest_scale 1000", [](ResizedCrop& args) { args.largest_scale = 1000.0f; });
  refused("less than 2^31 bands", [](ResizedCrop& args) {
    args.height = std::int64_t{1} << 40, args.images.size = 36 * args.height;
  });
}

}  // namespace
}  // namespace vitrine::cuda
