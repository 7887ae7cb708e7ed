// JPEG files of every kind for tests.
#pragma once

#include <cstdio>
#include <cstdlib>
// jpeglib.h wants size_t and FILE declared.
#include <jpeglib.h>

#include <string>
#include <vector>

#include "vitrine/image.h"
#include "vitrine/random.h"

namespace vitrine {

inline Image random_image(std::int64_t channels, std::int64_t height, std::int64_t width,
                          std::uint64_t seed) {
  Image image{channels, height, width, {}};
  RandomStream random(seed, 0);
  for (std::int64_t i = 0; i < channels * height * width; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(random.below(256)));
  }
  return image;
}

struct JpegKind {
  const char* name = "best quality";
  int quality = 100;
  /// Colours are stored for blocks of so many pixels; 0: libjpeg's choice.
  int block_width = 0, block_height = 0;
  bool progressive = false;
  unsigned restart_interval = 0;
};

/// 1 channel: grey, 3: colour, 4: CMYK.
inline std::string encode_jpeg(const Image& image, const JpegKind& kind = {}) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = static_cast<int>(image.channels);
  const J_COLOR_SPACE spaces[] = {JCS_UNKNOWN, JCS_GRAYSCALE, JCS_UNKNOWN, JCS_RGB, JCS_CMYK};
  jpeg.in_color_space = spaces[image.channels];
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, kind.quality, TRUE);
  if (kind.block_width > 0) {
    jpeg.comp_info[0].h_samp_factor = kind.block_width;
    jpeg.comp_info[0].v_samp_factor = kind.block_height;
  }
  jpeg.restart_interval = kind.restart_interval;
  if (kind.progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  const std::int64_t plane = image.height * image.width;
  for (std::int64_t y = 0; y < image.height; ++y) {
    std::vector<JSAMPLE> row;
    for (std::int64_t x = 0; x < image.width; ++x) {
      for (std::int64_t c = 0; c < image.channels; ++c) {
        row.push_back(image.pixels[static_cast<std::size_t>(c * plane + y * image.width + x)]);
      }
    }
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&jpeg, &rows, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string result(reinterpret_cast<char*>(bytes), size);
  jpeg_destroy_compress(&jpeg);
  free(bytes);
  return result;
}

}  // namespace vitrine
