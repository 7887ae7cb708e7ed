#include "io/row_sink.h"

#include <algorithm>
#include <cmath>

namespace vitrine {
namespace {

/// A larger factor would lose the last bits of the mean.
constexpr double kMaxFactor = 256;

/// value · factor / 255, rounded.
std::uint8_t scaled(unsigned value, unsigned factor) {
  return static_cast<std::uint8_t>((value * factor + 127) / 255);
}

/// The colour seen through alpha on white, rounded.
std::uint8_t over_white(unsigned colour, unsigned alpha) {
  return static_cast<std::uint8_t>((colour * alpha + 255 * (255 - alpha) + 127) / 255);
}

template <int kSamples, int kColours, typename Convert>
void convert_each(const std::uint8_t* row, std::int64_t width, std::int64_t channels,
                  std::uint8_t* out, const Convert& convert) {
  for (std::int64_t x = 0; x < width; ++x, row += kSamples) {
    if (channels == kColours) {
      for (int c = 0; c < kColours; ++c) *out++ = convert(row, c);
    } else {
      *out++ = luma(convert(row, 0), convert(row, 1), convert(row, 2));
    }
  }
}

/// `channels` is 1, or 3 for what has colours.
void convert(Samples samples, const std::uint8_t* row, std::int64_t width, std::int64_t channels,
             std::uint8_t* out) {
  switch (samples) {
    case Samples::grey:
      std::copy_n(row, width, out);
      break;
    case Samples::grey_alpha:
      convert_each<2, 1>(row, width, channels, out,
                         [](const std::uint8_t* p, int) { return over_white(p[0], p[1]); });
      break;
    case Samples::rgb:
      if (channels == 3) {
        std::copy_n(row, width * 3, out);
      } else {
        convert_each<3, 3>(row, width, channels, out,
                           [](const std::uint8_t* p, int c) { return p[c]; });
      }
      break;
    case Samples::rgb_alpha:
      convert_each<4, 3>(row, width, channels, out,
                         [](const std::uint8_t* p, int c) { return over_white(p[c], p[3]); });
      break;
    case Samples::inverted_cmyk:
      convert_each<4, 3>(row, width, channels, out,
                         [](const std::uint8_t* p, int c) { return scaled(p[c], p[3]); });
      break;
  }
}

/// ⌊2^24 / n⌋ as Pillow computes it.
std::uint32_t reciprocal(std::uint32_t n) {
  return static_cast<std::uint32_t>(4294967296.0f / static_cast<float>(256 * n));
}

}  // namespace

std::int64_t count_of(Samples samples) {
  constexpr std::int64_t kCounts[] = {1, 2, 3, 4, 4};
  return kCounts[static_cast<int>(samples)];
}

AxisPart plan_axis(const AxisRequest& request, std::int64_t size, std::int64_t eighths) {
  const std::int64_t scaled_size = (size * eighths + 7) / 8;
  const double scale = static_cast<double>(eighths) / 8;
  AxisPart part;
  if (request.minimum > 0) {
    const double times = request.size * scale / static_cast<double>(request.minimum);
    part.factor = static_cast<std::int64_t>(std::clamp(std::floor(times), 1.0, kMaxFactor));
  }
  const double to_result = scale / static_cast<double>(part.factor);
  const double first = request.begin * to_result, last = first + request.size * to_result;
  const std::int64_t result_size = (scaled_size + part.factor - 1) / part.factor;
  const std::int64_t begin = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(first)) - request.margin, 0, result_size - 1);
  const std::int64_t end = std::clamp(static_cast<std::int64_t>(std::ceil(last)) + request.margin,
                                      begin + 1, result_size);
  part.begin = begin * part.factor;
  part.end = std::min(end * part.factor, scaled_size);
  part.crop_begin = first - static_cast<double>(begin);
  part.crop_size = last - first;
  return part;
}

void RowSink::start(Samples samples, std::int64_t channels, const AxisPart& y, const AxisPart& x,
                    std::vector<std::uint8_t>& pixels) {
  samples_ = samples;
  channels_ = samples == Samples::grey || samples == Samples::grey_alpha ? 1 : channels;
  y_ = y;
  x_ = x;
  next_row_ = y.begin;
  const std::size_t offset = pixels.size();
  pixels.resize(offset + static_cast<std::size_t>(y.result_size() * x.result_size() * channels_));
  out_ = pixels.data() + offset;
  if (y.factor == 1 && x.factor == 1) return;
  row_.resize(static_cast<std::size_t>((x.end - x.begin) * channels_));
  sums_.assign(static_cast<std::size_t>(x.result_size() * channels_), 0);
}

void RowSink::add(const std::uint8_t* row) {
  const std::int64_t width = x_.end - x_.begin;
  ++next_row_;
  if (y_.factor == 1 && x_.factor == 1) {
    convert(samples_, row, width, channels_, out_);
    out_ += width * channels_;
    return;
  }
  convert(samples_, row, width, channels_, row_.data());
  reduce(row_.data());
  if (next_row_ % y_.factor == 0 || next_row_ == y_.end) {
    store_means(static_cast<std::uint32_t>((next_row_ - 1) % y_.factor + 1));
  }
}

void RowSink::reduce(const std::uint8_t* row) {
  const std::int64_t width = x_.end - x_.begin;
  std::uint32_t* sums = sums_.data();
  for (std::int64_t x = 0; x < width; x += x_.factor, sums += channels_) {
    const std::uint8_t* end = row + std::min(x_.factor, width - x) * channels_;
    if (channels_ == 1) {
      for (; row < end; ++row) sums[0] += row[0];
    } else {
      for (; row < end; row += 3) {
        sums[0] += row[0];
        sums[1] += row[1];
        sums[2] += row[2];
      }
    }
  }
}

void RowSink::store_means(std::uint32_t rows) {
  const std::int64_t width = x_.end - x_.begin;
  std::size_t i = 0;
  std::uint32_t pixels = 0, multiplier = 0;
  for (std::int64_t x = 0; x < width; x += x_.factor) {
    const auto n = rows * static_cast<std::uint32_t>(std::min(x_.factor, width - x));
    if (n != pixels) multiplier = reciprocal(n);
    pixels = n;
    for (std::int64_t c = 0; c < channels_; ++c, ++i) {
      *out_++ = static_cast<std::uint8_t>(((sums_[i] + n / 2) * multiplier) >> 24);
      sums_[i] = 0;
    }
  }
}

}  // namespace vitrine
