// Formats told apart, and EXIF's orientations turned into strides.

#include "vitrine/decoder.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "io/image_formats.h"

namespace vitrine {
namespace {

using Bytes = std::span<const unsigned char>;

/// What an orientation of EXIF does to a stored picture: mirrors its axes, then exchanges them.
struct Orientation {
  bool mirror_y, mirror_x, exchange;
  explicit Orientation(int exif)
      : mirror_y(exif == 3 || exif == 4 || exif == 6 || exif == 7),
        mirror_x(exif == 2 || exif == 3 || exif == 7 || exif == 8),
        exchange(exif >= 5) {}
};

Bytes bytes_of(std::span<const std::byte> file) {
  return {reinterpret_cast<const unsigned char*>(file.data()), file.size()};
}

/// The first bytes of an alien file, for a message.
std::string first_bytes(Bytes file) {
  if (file.empty()) return "an empty file";
  constexpr char kHex[] = "0123456789abcdef";
  std::string text = "\"";
  for (unsigned char byte : file.first(std::min<std::size_t>(8, file.size()))) {
    if (byte >= 0x20 && byte < 0x7F) {
      text += static_cast<char>(byte);
    } else {
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text + '"';
}

bool starts_with(Bytes file, std::string_view start) {
  return file.size() >= start.size() &&
         std::equal(start.begin(), start.end(), file.begin(), [](char expected, unsigned char c) {
           return static_cast<unsigned char>(expected) == c;
         });
}

void check_request(const DecodeRequest& request, const PictureInfo& info, const std::string& name) {
  const auto inside = [](double begin, double size, std::int64_t limit) {
    return begin >= 0 && size > 0 && begin + size <= static_cast<double>(limit) * (1 + 1e-9);
  };
  if (!inside(request.crop_y, request.crop_height, info.height) ||
      !inside(request.crop_x, request.crop_width, info.width)) {
    fail_decoding(name, "box of " + std::to_string(request.crop_width) + " x " +
                            std::to_string(request.crop_height) + " pixels at " +
                            std::to_string(request.crop_x) + ", " + std::to_string(request.crop_y) +
                            ", expected it inside " + std::to_string(info.width) + " x " +
                            std::to_string(info.height));
  }
  if (request.channels != 1 && request.channels != 3) {
    fail_decoding(name, std::to_string(request.channels) + " channels wanted, expected 1 or 3");
  }
}

/// The request for a picture of height × width pixels as stored.
StoredRequest as_stored(const DecodeRequest& request, const Orientation& orientation,
                        std::int64_t height, std::int64_t width) {
  StoredRequest stored;
  stored.y = {request.crop_y, request.crop_height, request.min_height, request.margin};
  stored.x = {request.crop_x, request.crop_width, request.min_width, request.margin};
  stored.channels = request.channels;
  if (orientation.exchange) std::swap(stored.y, stored.x);
  const auto mirror = [](AxisRequest& axis, std::int64_t size) {
    axis.begin = std::max(0.0, static_cast<double>(size) - axis.begin - axis.size);
  };
  if (orientation.mirror_y) mirror(stored.y, height);
  if (orientation.mirror_x) mirror(stored.x, width);
  return stored;
}

/// What `sink` stored from `offset` on, as seen.
PictureView as_seen(const RowSink& sink, const Orientation& orientation, std::size_t offset,
                    std::int64_t wanted_channels) {
  struct Axis {
    std::int64_t stride, size;
    double begin, crop;
  };
  const auto axis_of = [](const AxisPart& part, std::int64_t stride) {
    return Axis{stride, part.result_size(), part.crop_begin, part.crop_size};
  };
  Axis x = axis_of(sink.x(), sink.channels());
  Axis y = axis_of(sink.y(), sink.channels() * x.size);
  PictureView view;
  view.offset = static_cast<std::int64_t>(offset);
  const auto mirror = [&](Axis& axis) {
    view.offset += (axis.size - 1) * axis.stride;
    axis.stride = -axis.stride;
    axis.begin = static_cast<double>(axis.size) - axis.begin - axis.crop;
  };
  if (orientation.mirror_y) mirror(y);
  if (orientation.mirror_x) mirror(x);
  if (orientation.exchange) std::swap(y, x);
  view.stride_y = y.stride;
  view.stride_x = x.stride;
  view.stride_c = sink.channels() == wanted_channels ? 1 : 0;
  view.height = static_cast<std::int32_t>(y.size);
  view.width = static_cast<std::int32_t>(x.size);
  view.crop_y = static_cast<float>(y.begin);
  view.crop_x = static_cast<float>(x.begin);
  view.crop_height = static_cast<float>(y.crop);
  view.crop_width = static_cast<float>(x.crop);
  return view;
}

}  // namespace

struct Decoder::Memory {
  std::unique_ptr<FormatDecoder> jpeg = make_jpeg_decoder();
  std::unique_ptr<FormatDecoder> png = make_png_decoder();
  std::unique_ptr<FormatDecoder> pnm = make_pnm_decoder();
  RowSink sink;

  FormatDecoder& decoder_of(Bytes file, const std::string& name) {
    if (starts_with(file, "\xFF\xD8\xFF")) return *jpeg;
    if (starts_with(file, "\x89PNG")) return *png;
    for (const char* start : {"P2", "P3", "P5", "P6"}) {
      if (starts_with(file, start)) return *pnm;
    }
    fail_decoding(name, "not an image: expected PNG, JPEG, PGM or PPM, found " + first_bytes(file));
  }
};

Decoder::Decoder() : memory_(std::make_unique<Memory>()) {}
Decoder::~Decoder() = default;

PictureInfo Decoder::read_info(std::span<const std::byte> file, const std::string& name) {
  PictureInfo info = memory_->decoder_of(bytes_of(file), name).open(bytes_of(file), name);
  if (Orientation(info.orientation).exchange) std::swap(info.height, info.width);
  return info;
}

PictureView Decoder::decode(std::span<const std::byte> file, const std::string& name,
                            const DecodeRequest& request, std::vector<std::uint8_t>& pixels) {
  FormatDecoder& decoder = memory_->decoder_of(bytes_of(file), name);
  PictureInfo info = decoder.open(bytes_of(file), name);
  const Orientation orientation(info.orientation);
  const std::int64_t height = info.height, width = info.width;
  if (orientation.exchange) std::swap(info.height, info.width);
  check_request(request, info, name);
  const std::size_t offset = pixels.size();
  try {
    decoder.read(name, as_stored(request, orientation, height, width), memory_->sink, pixels);
  } catch (...) {
    pixels.resize(offset);
    throw;
  }
  return as_seen(memory_->sink, orientation, offset, request.channels);
}

}  // namespace vitrine
