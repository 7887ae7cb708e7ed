// What decoding costs in memory: nothing new once warm, little for a large PNG.

#include <gtest/gtest.h>
#include <png.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <new>

#include "picture_files.h"
#include "vitrine/decoder.h"

namespace {
std::atomic<std::int64_t> allocations = 0;
}  // namespace

// Counted, since a warm decoder is to allocate nothing. (GCC 12 takes the pair for mismatched.)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace vitrine {
namespace {

TEST(DecoderMemory, AppendsAndAllocatesNothingOnceWarm) {
  Decoder decoder;
  const std::vector<std::string> files = {
      picture_file("photograph.jpg"), picture_file("cmyk.jpg"), picture_file("progressive.jpg"),
      picture_file("rgb_interlaced.png"), picture_file("reduced.png")};
  const std::string name = "a name that is too long to be stored in the string itself";
  std::vector<std::uint8_t> pixels;
  std::vector<std::int64_t> offsets[2];
  for (auto& pass : offsets) {
    pixels.clear();
    pass.reserve(files.size());
    const std::int64_t before = allocations;
    for (const std::string& file : files) {
      const std::size_t size = pixels.size();
      const PictureInfo info = decoder.read_info(bytes_of(file), name);
      DecodeRequest request = whole(info);
      request.min_height = request.min_width = 10;
      const PictureView view = decoder.decode(bytes_of(file), name, request, pixels);
      EXPECT_EQ(pixels.size(), size + static_cast<std::size_t>(view.height * view.width * 3));
      pass.push_back(view.offset);
    }
    if (&pass == &offsets[1]) {
      EXPECT_EQ(allocations, before);
    }
  }
  EXPECT_EQ(offsets[0], offsets[1]);
  EXPECT_EQ(offsets[0][0], 0);
  EXPECT_GT(offsets[0][1], 0);
}

/// A black PNG, written row by row.
std::string large_png(std::uint32_t height, std::uint32_t width) {
  std::string file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &file,
      [](png_structp p, png_bytep data, std::size_t bytes) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), bytes);
      },
      nullptr);
  png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_compression_level(png, 1);
  png_set_filter(png, 0, PNG_FILTER_NONE);
  png_write_info(png, info);
  const std::vector<png_byte> row(width * 3);
  for (std::uint32_t y = 0; y < height; ++y) png_write_row(png, row.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return file;
}

/// A number of kilobytes from the kernel's account of this process.
std::int64_t kilobytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1));
  }
  return 0;
}

TEST(DecoderMemory, LargePngStreams) {
  const std::string file = large_png(10000, 10000);
  {
    std::ofstream reset("/proc/self/clear_refs");  // the largest memory so far is now that of now
    reset << "5";
    if (!reset.flush()) GTEST_SKIP() << "this kernel does not say how much memory a process used";
  }
  Decoder decoder;
  const PictureInfo info = decoder.read_info(bytes_of(file), "large");
  EXPECT_EQ(info.height * info.width, 100'000'000);
  DecodeRequest request = whole(info);
  request.min_height = request.min_width = 300;
  const std::int64_t before = kilobytes("VmRSS");
  const Decoded decoded = decode(decoder, file, request);
  EXPECT_EQ(decoded.view.height, 304);  // a 33rd, rounded up
  EXPECT_LT(kilobytes("VmHWM") - before, 16 * 1024);
}

}  // namespace
}  // namespace vitrine
