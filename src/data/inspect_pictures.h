// What pictures there are, and a few of them to look at.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vitrine/image.h"
#include "vitrine/image_folder.h"

namespace vitrine {

struct PictureInspection {
  std::vector<std::int64_t> class_counts;       ///< broken pictures too
  std::vector<std::int64_t> heights, widths;    ///< of pictures that are not broken, sorted
  std::map<std::string, std::int64_t> formats;  ///< pictures of each
  std::map<std::int64_t, std::int64_t> channels;
  /// Of pixels in [0, 1], where each picture weighs the same; one channel where all are grey.
  /// Empty: nothing was decoded.
  std::vector<double> mean, std;
  std::vector<std::string> broken;  ///< names and reasons
  std::string refusal;              ///< what training on them would say; empty: nothing
};

struct InspectOptions {
  bool headers_only = false;
  int workers = 0;  ///< 0: one a core
};

/// Looks at every picture. Told how many are done; false stops, and nothing is returned.
std::optional<PictureInspection> inspect_pictures(
    const PictureSource& source, const InspectOptions& options,
    const std::function<bool(std::int64_t)>& observer);

/// Central squares of the first pictures of each class, in rows class by class; white where a class
/// has too few that are not broken. False stops, and nothing is returned.
std::optional<Image> picture_sheet(const PictureSource& source,
                                   const std::function<bool()>& observer);

}  // namespace vitrine
