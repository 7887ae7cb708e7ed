// Boxes of pictures resampled on the CPU: equal to what Pillow computed (tests/pillow, made by
// tools/make_resized_crop_values.py) and, for random views, to a reference that goes pixel by
// pixel.
#include "reference/resized_crop.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <sstream>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference_check.h"
#include "vitrine/resample.h"
#include "vitrine/safetensors.h"

namespace vitrine::cpu {
namespace {

using namespace reference::resized_crop;

constexpr std::uint8_t kPoison = 0xA5;

Bytes run(const Problem& p, int threads = 2) {
  ThreadPool pool(threads);
  Bytes images(p.elements(), kPoison);
  CpuKernels(pool).resized_crop(arguments(p, {images.data(), std::ssize(images)},
                                          {p.sources.data(), std::ssize(p.sources)},
                                          {p.views.data(), std::ssize(p.views)}));
  return images;
}

/// A picture of random pixels, seen whole.
Problem one_picture(std::int64_t channels, std::int32_t height, std::int32_t width, bool planar) {
  RandomStream random(4100, 0);
  Problem p{channels, 11, 14, random_bytes(channels * height * width, random), {}};
  p.views = {whole(0, channels, height, width, planar)};
  p.views[0].filter = ResampleFilter::bicubic;
  return p;
}

// Pillow ----------------------------------------------------------------------------------------

struct PillowCase {
  Problem problem;
  Bytes image;
};

Bytes bytes_of(const SafetensorsEntry& entry) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(entry.data);
  return {first, first + entry.bytes};
}

PillowCase pillow_case(const SafetensorsFile& file, const std::string& name) {
  std::istringstream words(file.metadata().at(name));
  std::string picture_name, filter;
  words >> picture_name >> filter;
  const SafetensorsEntry& picture = *file.find("picture." + picture_name);
  const SafetensorsEntry& image = *file.find(name + ".image");
  const std::vector<float> box = file.read_f32(name + ".box", {4});
  Problem p{image.shape[0], image.shape[1], image.shape[2], bytes_of(picture), {}};
  PictureView view = whole(0, p.channels, static_cast<std::int32_t>(picture.shape[0]),
                           static_cast<std::int32_t>(picture.shape[1]), false);
  view.crop_x = box[0], view.crop_y = box[1], view.crop_width = box[2], view.crop_height = box[3];
  view.filter = filter == "nearest"    ? ResampleFilter::nearest
                : filter == "bilinear" ? ResampleFilter::bilinear
                                       : ResampleFilter::bicubic;
  p.views = {view};
  return {p, bytes_of(image)};
}

TEST(ResizedCrop, EqualsPillow) {
  const SafetensorsFile file(VITRINE_TESTS_DIRECTORY "/pillow/resized_crop.safetensors");
  for_targets([&] {
    int cases = 0;
    for (const auto& [name, value] : file.metadata()) {
      if (name == "pillow") continue;
      SCOPED_TRACE("case " + name + ": picture " + value);
      const PillowCase expected = pillow_case(file, name);
      EXPECT_EQ(run(expected.problem), expected.image);
      EXPECT_EQ(images_of(expected.problem), expected.image) << "the reference";
      ++cases;
    }
    EXPECT_EQ(cases, 87);
  });
}

// Random views ----------------------------------------------------------------------------------

TEST(ResizedCrop, EqualsReferenceForRandomViews) {
  for_targets([] {
    for (std::uint64_t seed = 4000; seed < 4060; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      const Problem p = random_problem(seed, seed % 3 == 0 ? 90 : 20);
      EXPECT_EQ(run(p, 1 + static_cast<int>(seed % 3)), images_of(p));
    }
  });
}

// Rows of more than one strip, and widths beside whole vectors.
TEST(ResizedCrop, EqualsReferenceForLargePictures) {
  for (const std::int64_t width : {15, 16, 17, 48, 64, 65}) {
    SCOPED_TRACE("width " + std::to_string(width));
    Problem p = one_picture(3, 150, 131, false);
    p.height = 40, p.width = width;
    EXPECT_EQ(run(p), images_of(p));
  }
}

TEST(ResizedCrop, FlipsTheImage) {
  const Problem plain = one_picture(3, 23, 31, false);
  const Bytes image = run(plain);
  for (int flips = 1; flips < 4; ++flips) {
    Problem p = plain;
    p.views[0].flip_x = flips & 1, p.views[0].flip_y = flips >> 1;
    for (const ResampleFilter filter : {ResampleFilter::nearest, ResampleFilter::bicubic}) {
      p.views[0].filter = filter;
      Problem unflipped = plain;
      unflipped.views[0].filter = filter;
      const Bytes expected = run(unflipped), flipped = run(p);
      for (std::int64_t i = 0; i < p.elements(); ++i) {
        const std::int64_t x = i % p.width, y = i / p.width % p.height, c = i / p.width / p.height;
        const std::int64_t from_x = (flips & 1) != 0 ? p.width - 1 - x : x;
        const std::int64_t from_y = flips >> 1 != 0 ? p.height - 1 - y : y;
        ASSERT_EQ(flipped[i], expected[(c * p.height + from_y) * p.width + from_x]) << i;
      }
    }
  }
}

/// Where pixel (y, x) of an upright picture lies in the stored one, by EXIF.
std::pair<int, int> stored_pixel(int orientation, int y, int x, int height, int width) {
  switch (orientation) {
    case 2:
      return {y, width - 1 - x};
    case 3:
      return {height - 1 - y, width - 1 - x};
    case 4:
      return {height - 1 - y, x};
    case 5:
      return {x, y};
    case 6:
      return {height - 1 - x, y};
    case 7:
      return {height - 1 - x, width - 1 - y};
    case 8:
      return {x, width - 1 - y};
    default:
      return {y, x};
  }
}

TEST(ResizedCrop, SeesPicturesUpright) {
  constexpr int kHeight = 37, kWidth = 70;
  for (int orientation = 1; orientation <= 8; ++orientation) {
    SCOPED_TRACE("orientation " + std::to_string(orientation));
    Problem stored = one_picture(3, kHeight, kWidth, false), upright = stored;
    const bool turned = orientation >= 5;
    const int height = turned ? kWidth : kHeight, width = turned ? kHeight : kWidth;
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const auto [from_y, from_x] = stored_pixel(orientation, y, x, kHeight, kWidth);
        std::memcpy(&upright.sources[3 * (y * width + x)],
                    &stored.sources[3 * (from_y * kWidth + from_x)], 3);
      }
    }
    upright.views = {whole(0, 3, height, width, false)};
    upright.views[0].filter = ResampleFilter::bicubic;
    stored.views[0] = oriented(stored.views[0], orientation);
    stored.views[0].crop_width = static_cast<float>(width);
    stored.views[0].crop_height = static_cast<float>(height);
    EXPECT_EQ(run(stored), run(upright));
  }
}

// Images of a CHW dataset, at the model's size: nothing is changed.
TEST(ResizedCrop, CopiesStoredImagesOfTheModelsSize) {
  for (const ResampleFilter filter :
       {ResampleFilter::nearest, ResampleFilter::bilinear, ResampleFilter::bicubic}) {
    Problem p = one_picture(3, 32, 32, true);
    p.height = p.width = 32;
    p.views[0].filter = filter;
    EXPECT_EQ(run(p), p.sources);
  }
}

TEST(ResizedCrop, EmptyRowsAreZero) {
  Problem p = one_picture(3, 8, 9, false);
  p.views = {PictureView{}, p.views[0], PictureView{}};
  const Bytes images = run(p), zeros(p.image_elements(), 0);
  const auto image = [&](int b) {
    const auto first = images.begin() + b * p.image_elements();
    return Bytes(first, first + p.image_elements());
  };
  EXPECT_EQ(image(0), zeros);
  EXPECT_EQ(image(1), image_of(p, p.views[1]));
  EXPECT_EQ(image(2), zeros);
  p.views = {PictureView{}, PictureView{}};
  p.sources.clear();  // every picture of a batch was broken
  EXPECT_EQ(run(p), Bytes(p.elements(), 0));
}

// Rows of a picture that lie more than 2^31 bytes apart, in memory that is reserved and not used.
TEST(ResizedCrop, CountsBytesIn64Bits) {
  constexpr int kRows = 5;
  constexpr std::int64_t kApart = (std::int64_t{1} << 31) + 12345, kRow = 3 * 9;
  constexpr std::int64_t kSize = (kRows - 1) * kApart + kRow;
  void* reserved = mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(reserved, MAP_FAILED);
  auto* bytes = static_cast<std::uint8_t*>(reserved);
  Problem p = one_picture(3, kRows, 9, false);
  for (int y = 0; y < kRows; ++y) std::memcpy(bytes + y * kApart, &p.sources[y * kRow], kRow);
  ThreadPool pool(1);
  for (const ResampleFilter filter :
       {ResampleFilter::nearest, ResampleFilter::bilinear, ResampleFilter::bicubic}) {
    for (const float crop_y : {0.0f, 4.0f}) {
      PictureView& near = p.views[0];
      near.filter = filter, near.crop_y = crop_y, near.crop_height = 5.0f - crop_y;
      PictureView far = near;
      far.stride_y = kApart;
      Bytes images(p.elements(), kPoison);
      CpuKernels(pool).resized_crop(
          arguments(p, {images.data(), std::ssize(images)}, {bytes, kSize}, {&far, 1}));
      EXPECT_EQ(images, images_of(p));
    }
  }
  munmap(reserved, kSize);
}

TEST(ResizedCrop, KnowsWhatLiesInside) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  PictureView view = whole(100, 3, 10, 20, false);
  EXPECT_TRUE(is_inside(view, 3, 700));
  EXPECT_FALSE(is_inside(view, 3, 699));
  EXPECT_FALSE(is_inside(view, 4, 700));
  view.offset = std::int64_t{1} << 40;
  EXPECT_TRUE(is_inside(view, 3, view.offset + 600));
  EXPECT_FALSE(is_inside(view, 3, view.offset + 599));
  const auto changed = [](auto change) {
    PictureView other = whole(100, 3, 10, 20, false);
    change(other);
    return is_inside(other, 3, 700);
  };
  EXPECT_FALSE(changed([](PictureView& v) { v.offset = -1; }));
  EXPECT_FALSE(changed([](PictureView& v) { v.offset = kHuge; }));
  EXPECT_FALSE(changed([](PictureView& v) { v.height = 0; }));
  EXPECT_FALSE(changed([](PictureView& v) { v.stride_y = -60; }));
  EXPECT_FALSE(changed([](PictureView& v) { v.stride_x = kHuge; }));
  EXPECT_FALSE(changed([](PictureView& v) { v.stride_c = -kHuge; }));
  EXPECT_FALSE(changed([](PictureView& v) {
    v.height = std::numeric_limits<std::int32_t>::max(), v.stride_y = kHuge / 1000;
  }));
  EXPECT_TRUE(changed([](PictureView& v) { v.offset = 640, v.stride_y = -60; }));
}

TEST(ResizedCrop, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  const Problem p = one_picture(3, 20, 30, false);
  Bytes images(p.elements());
  const auto refused = [&](const std::string& message, auto change, auto change_view) {
    std::vector<PictureView> views = p.views;
    change_view(views[0]);
    ResizedCrop args = arguments(p, {images.data(), std::ssize(images)},
                                 {p.sources.data(), std::ssize(p.sources)}, {views.data(), 1});
    change(args);
    expect_refused([&] { kernels.resized_crop(args); }, message);
  };
  const auto args_refused = [&](const std::string& message, auto change) {
    refused(message, change, [](PictureView&) {});
  };
  args_refused("images has", [](ResizedCrop& args) { args.images.size -= 1; });
  args_refused("views has", [](ResizedCrop& args) { args.views.size = 2; });
  args_refused("channels", [](ResizedCrop& args) { args.channels = 0; });
  args_refused("sources is null", [](ResizedCrop& args) { args.sources.data = nullptr; });
  args_refused("largest_scale is", [](ResizedCrop& args) { args.largest_scale = 0.0f; });
  args_refused("views[0].crop_width is 30", [](ResizedCrop& args) { args.largest_scale = 2.0f; });
  const auto view_refused = [&](const std::string& message, auto change) {
    refused(
        message, [](ResizedCrop&) {}, change);
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  view_refused("views[0] points outside", [](PictureView& view) { view.offset = -2; });
  view_refused("views[0] points outside", [](PictureView& view) { view.offset = 1; });
  view_refused("views[0].filter is 3",
               [](PictureView& view) { view.filter = static_cast<ResampleFilter>(3); });
  view_refused("views[0].crop_height", [](PictureView& view) { view.crop_y = 1.0f; });
  view_refused("views[0].crop_width", [](PictureView& view) { view.crop_x = -0.5f; });
  view_refused("views[0].crop_width", [](PictureView& view) { view.crop_width = 0.0f; });
  view_refused("views[0].crop_height", [](PictureView& view) { view.crop_y = kNan; });
}

}  // namespace
}  // namespace vitrine::cpu
