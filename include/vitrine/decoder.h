// Decoding the part of a picture that somebody wants, at the size that they want.
//
// A JPEG is scaled while it is decoded: the inverse transform of a block of 8 × 8 coefficients
// yields m × m pixels, m = 1, 2, 3, 4 or 8 (libjpeg-turbo has no fast transforms for 5, 6 and 7,
// which take longer than 8); rows and columns of blocks outside the wanted box are skipped. What is
// still twice too large afterwards, and other formats, are reduced by averaging whole blocks of
// pixels (Pillow's Image.reduce), at most 256 to one along an axis.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vitrine/augment.h"

namespace vitrine {

/// What the header of a file says.
struct PictureInfo {
  std::string format;                  ///< "JPEG", "PNG", "PGM", "PPM"
  std::int64_t height = 0, width = 0;  ///< as seen: after the EXIF orientation
  std::int64_t channels = 0;  ///< as stored: 1 grey, 3 colour (palettes too), 4 CMYK; alpha
                              ///< not counted
  int orientation = 1;        ///< EXIF: 1 to 8, as stored to as seen
};

/// A box of a picture as seen, and how many pixels of it are needed.
struct DecodeRequest {
  double crop_y = 0, crop_x = 0, crop_height = 0, crop_width = 0;
  /// The result has at least so many pixels along each axis of the box, where the picture has them,
  /// and less than twice as many where a reduction can make it so. 0: all pixels.
  std::int64_t min_height = 0, min_width = 0;
  /// Decoded around the box, for a filter's support, in pixels of the result.
  std::int64_t margin = 4;
  std::int64_t channels = 3;  ///< 1: luma by ITU-R BT.601; 3
};

/// A decoder with the memory that it uses again. One a thread.
class Decoder {
 public:
  Decoder();
  ~Decoder();

  /// `name` is the file's in messages. Reads the header alone. Throws BadInput: unknown format
  /// (with its first bytes), damaged header, more than 2^27 pixels.
  PictureInfo read_info(std::span<const std::byte> file, const std::string& name);

  /// Appends pixels to `pixels`; the view's offset is that of its pixel (0, 0) there, its box the
  /// requested one in pixels of the result, its filter and flips untouched. Grey is repeated by a
  /// stride of 0 between channels, the orientation lies in the other strides. Palettes are
  /// expanded, 16 bits scaled to 8, alpha laid over white, CMYK converted as Pillow does. Throws
  /// BadInput for a file that is damaged or truncated before the last row of the box, and for a box
  /// that is not inside the picture; `pixels` is then unchanged.
  PictureView decode(std::span<const std::byte> file, const std::string& name,
                     const DecodeRequest& request, std::vector<std::uint8_t>& pixels);

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

}  // namespace vitrine
