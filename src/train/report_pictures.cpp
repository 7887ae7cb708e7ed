#include "train/report_pictures.h"

#include <algorithm>

#include "train/html.h"

namespace vitrine {
namespace {

std::string figure(const Picture& picture) {
  const std::string caption = escape_html(picture.caption);
  return "<figure><img alt=\"" + caption + "\" src=\"" + png_data_uri(picture.image) +
         "\"><figcaption>" + caption + "</figcaption></figure>\n";
}

std::string figures(const std::vector<Picture>& pictures, const std::string& style) {
  std::string html = "<div class=\"" + style + "\">\n";
  for (const Picture& picture : pictures) html += figure(picture);
  return html + "</div>\n";
}

std::size_t png_bytes(const std::vector<Picture>& pictures) {
  std::size_t bytes = 0;
  for (const Picture& picture : pictures) bytes += encode_png(picture.image).size();
  return bytes;
}

}  // namespace

std::string render_augmentation(const Report& report) {
  if (report.augmentation.empty()) return "";
  return section_heading("Augmentation", "What the model was trained on.") +
         figures(report.augmentation, "wide");
}

std::string render_attention(const Report& report) {
  if (report.attention.empty()) return "";
  return section_heading("What the model looks at",
                         "Test images, and over them how much the answer reads of each patch: in "
                         "the middle the attention of the last layer, averaged over the heads; on "
                         "the right that of all layers, rolled out. Yellow is the most that a "
                         "patch of the map has, violet none.") +
         figures(report.attention, "looks");
}

std::string render_positions(const Report& report) {
  if (report.positions.empty()) return "";
  return section_heading("Position embeddings",
                         "What is added to each patch to tell the model where it lies.") +
         figures(report.positions, "pair positions");
}

void fit_pictures(std::vector<Picture>& pictures, std::size_t bytes) {
  constexpr std::int64_t kSmallest = 48;
  const std::vector<Picture> whole = pictures;
  std::int64_t side = 0;
  for (const Picture& picture : whole) {
    side = std::max({side, picture.image.height, picture.image.width});
  }
  while (png_bytes(pictures) > bytes && side > kSmallest) {
    side = std::max(kSmallest, side * 3 / 4);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      pictures[i].image = shrink(whole[i].image, side);
    }
  }
}

}  // namespace vitrine
