// The decoders behind `Decoder`, one a format. They know pixels as stored, not as seen.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/one_line.h"
#include "io/row_sink.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"

namespace vitrine {

/// A file may claim any size; more than this is refused before memory is asked for.
constexpr std::int64_t kMaxImagePixels = std::int64_t{1} << 27;

struct StoredRequest {
  AxisRequest y, x;
  std::int64_t channels = 3;
};

/// One picture at a time; memory is used again.
class FormatDecoder {
 public:
  virtual ~FormatDecoder() = default;
  /// Reads the header; height and width as stored. Throws BadInput "NAME: …", as `read` does.
  virtual PictureInfo open(std::span<const unsigned char> file, const std::string& name) = 0;
  /// Starts `sink` and gives it its rows, once after `open`. `file` must still be there.
  virtual void read(const std::string& name, const StoredRequest& request, RowSink& sink,
                    std::vector<std::uint8_t>& pixels) = 0;
};

std::unique_ptr<FormatDecoder> make_jpeg_decoder();
std::unique_ptr<FormatDecoder> make_png_decoder();
std::unique_ptr<FormatDecoder> make_pnm_decoder();

[[noreturn]] inline void fail_decoding(const std::string& name, const std::string& what) {
  throw BadInput(one_line(name) + ": " + what);
}

inline void check_image_size(std::int64_t height, std::int64_t width, const std::string& name) {
  if (height < 1 || width < 1 || height > kMaxImagePixels / width) {
    fail_decoding(name, std::to_string(width) + " x " + std::to_string(height) +
                            " pixels, expected 1 to " + std::to_string(kMaxImagePixels) +
                            " in all");
  }
}

/// The orientation that an EXIF block ("Exif", two zeros, TIFF) tells: 1 to 8; 1 where there is
/// none, or the block is damaged.
int exif_orientation(std::span<const unsigned char> block);

}  // namespace vitrine
