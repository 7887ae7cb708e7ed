// A contact sheet: a few pictures of each class, as squares.
#include <algorithm>
#include <cmath>

#include "data/inspect_pictures.h"
#include "data/picture_resizer.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"
#include "vitrine/picture.h"

namespace vitrine {
namespace {

constexpr std::int64_t kSide = 96, kGap = 4, kMostOfAClass = 8, kMostInAll = 400;

struct Memory {
  Decoder decoder;
  PictureResizer resizer;
  std::vector<std::byte> file;
  std::vector<std::uint8_t> pixels;
};

/// The central square. Throws BadInput for a broken picture.
Image square_of(const PictureSource& source, std::int64_t i, Memory& memory) {
  const std::string name = source.name(i);
  const auto file = source.read(i, memory.file);
  const PictureInfo info = memory.decoder.read_info(file, name);
  const std::int64_t side = std::min(info.height, info.width);
  const DecodeRequest request{.crop_y = static_cast<double>((info.height - side) / 2),
                              .crop_x = static_cast<double>((info.width - side) / 2),
                              .crop_height = static_cast<double>(side),
                              .crop_width = static_cast<double>(side),
                              .min_height = kSide,
                              .min_width = kSide};
  memory.pixels.clear();
  PictureView view = memory.decoder.decode(file, name, request, memory.pixels);
  view.filter = ResampleFilter::bicubic;
  return memory.resizer.resize(memory.pixels, view, 3, kSide, kSide);
}

Image white_square() {
  return {3, kSide, kSide, std::vector<std::uint8_t>(3 * kSide * kSide, 255)};
}

/// Picture numbers by class.
std::vector<std::vector<std::int64_t>> by_class(const PictureSource& source) {
  std::vector<std::vector<std::int64_t>> pictures(source.class_names().size());
  for (std::int64_t i = 0; i < source.size(); ++i) {
    pictures[static_cast<std::size_t>(source.label(i))].push_back(i);
  }
  return pictures;
}

}  // namespace

std::optional<Image> picture_sheet(const PictureSource& source,
                                   const std::function<bool()>& observer) {
  const auto classes = static_cast<std::int64_t>(source.class_names().size());
  const std::int64_t of_a_class = std::clamp<std::int64_t>(kMostInAll / classes, 1, kMostOfAClass);
  // About as wide as high.
  const double square = std::sqrt(static_cast<double>(classes) / static_cast<double>(of_a_class));
  const std::int64_t classes_a_row = std::max<std::int64_t>(1, std::llround(square));
  Memory memory;
  std::vector<Image> squares;
  for (const std::vector<std::int64_t>& pictures : by_class(source)) {
    const std::size_t end = squares.size() + static_cast<std::size_t>(of_a_class);
    for (std::size_t i = 0; i < pictures.size() && squares.size() < end; ++i) {
      if (!observer()) return std::nullopt;
      try {
        squares.push_back(square_of(source, pictures[i], memory));
      } catch (const BadInput&) {  // counted and named by whoever looks at all
      }
    }
    squares.resize(end, white_square());
  }
  return contact_sheet(squares, classes_a_row * of_a_class, kGap);
}

}  // namespace vitrine
