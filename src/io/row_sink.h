// What happens to decoded rows: a part of each is converted, reduced and stored, one row after
// another, so that no more of a picture is in memory than is wanted of it.
//
// Pixels are reduced by averaging blocks of factor_y × factor_x, in the integers of Pillow's
// Image.reduce: (sum + n / 2) · ⌊2^24 / n⌋ >> 24, where a block at the edge has fewer pixels n.
#pragma once

#include <cstdint>
#include <vector>

namespace vitrine {

/// Luma by ITU-R BT.601: 0.299, 0.587 and 0.114 times 2^16, the same integers as Pillow's "L".
inline std::uint8_t luma(std::uint32_t red, std::uint32_t green, std::uint32_t blue) {
  return static_cast<std::uint8_t>((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16);
}

/// What a decoder's rows consist of; alpha is laid over white.
enum class Samples : std::uint8_t { grey, grey_alpha, rgb, rgb_alpha, inverted_cmyk };

/// Bytes of a pixel.
std::int64_t count_of(Samples samples);

/// The part of one axis of a picture that is decoded, and what becomes of it.
struct AxisPart {
  std::int64_t begin = 0, end = 0;  ///< pixels of the decoder; begin is a multiple of the factor
  std::int64_t factor = 1;          ///< so many of them become one of the result
  double crop_begin = 0, crop_size = 0;  ///< the wanted box, in pixels of the result
  std::int64_t result_size() const { return (end - begin + factor - 1) / factor; }
};

/// What is wanted along one axis of a picture as stored, see DecodeRequest.
struct AxisRequest {
  double begin = 0, size = 0;
  std::int64_t minimum = 0, margin = 0;
};

/// Plans an axis of `size` pixels which the decoder scales by eighths / 8.
AxisPart plan_axis(const AxisRequest& request, std::int64_t size, std::int64_t eighths);

class RowSink {
 public:
  /// The result is appended to `pixels`: [y.result_size(), x.result_size(), channels()].
  void start(Samples samples, std::int64_t channels, const AxisPart& y, const AxisPart& x,
             std::vector<std::uint8_t>& pixels);
  /// The next of the rows y.begin … y.end − 1, from pixel x.begin on.
  void add(const std::uint8_t* row);

  const AxisPart& y() const { return y_; }
  const AxisPart& x() const { return x_; }
  /// Grey stays one channel also where three are wanted.
  std::int64_t channels() const { return channels_; }

 private:
  void reduce(const std::uint8_t* row);
  void store_means(std::uint32_t rows);

  Samples samples_ = Samples::grey;
  AxisPart y_, x_;
  std::int64_t channels_ = 0, next_row_ = 0;
  std::uint8_t* out_ = nullptr;      ///< the next row of the result
  std::vector<std::uint8_t> row_;    ///< a converted row that is yet to be reduced
  std::vector<std::uint32_t> sums_;  ///< of the block of rows
};

}  // namespace vitrine
