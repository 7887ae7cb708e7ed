// Counting pictures, their sizes and pixels.
//
//   mean = Σ E_i[x] / n,   std = √(Σ E_i[x²] / n − mean²)      E_i: over the pixels of picture i
//
// Sums of a picture are whole numbers, those of all are taken in the order of the pictures.
#include "data/inspect_pictures.h"

#include <algorithm>
#include <cmath>

#include "data/ordered_work.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr std::int64_t kChannels = 3;
using Moments = std::array<double, kChannels>;

struct Worker {
  Decoder decoder;
  std::vector<std::byte> file;
  std::vector<std::uint8_t> pixels;
};

/// What a worker finds out about a picture.
struct Finding {
  PictureInfo info;
  Moments mean{}, mean_square{};  ///< of its pixels in [0, 1]
  std::string broken;
};

void measure(const std::uint8_t* pixels, const PictureView& view, Finding& finding) {
  const auto count = static_cast<double>(view.height) * view.width;
  for (std::int64_t c = 0; c < kChannels; ++c) {
    std::uint64_t sum = 0, squares = 0;
    for (std::int64_t y = 0; y < view.height; ++y) {
      const std::uint8_t* row = pixels + view.offset + c * view.stride_c + y * view.stride_y;
      for (std::int64_t x = 0; x < view.width; ++x) {
        const std::uint64_t value = row[x * view.stride_x];
        sum += value;
        squares += value * value;
      }
    }
    const auto at = static_cast<std::size_t>(c);
    finding.mean[at] = static_cast<double>(sum) / (255.0 * count);
    finding.mean_square[at] = static_cast<double>(squares) / (255.0 * 255.0 * count);
  }
}

void look_at(Worker& worker, const PictureSource& source, std::int64_t i, bool headers_only,
             Finding& finding) {
  const std::string name = source.name(i);
  finding.broken.clear();
  try {
    const auto file = source.read(i, worker.file);
    finding.info = worker.decoder.read_info(file, name);
    if (headers_only) return;
    const DecodeRequest all{.crop_height = static_cast<double>(finding.info.height),
                            .crop_width = static_cast<double>(finding.info.width),
                            .channels = kChannels};
    worker.pixels.clear();
    const PictureView view = worker.decoder.decode(file, name, all, worker.pixels);
    measure(worker.pixels.data(), view, finding);
  } catch (const BadInput& error) {
    finding.broken = error.what();
  }
}

class Summary {
 public:
  explicit Summary(const PictureSource& source) : source_(source), broken_(source.size()) {
    inspection_.class_counts.resize(source.class_names().size());
  }

  void add(std::int64_t i, const Finding& finding) {
    ++inspection_.class_counts[static_cast<std::size_t>(source_.label(i))];
    if (!finding.broken.empty()) return add_broken(i, finding.broken);
    inspection_.heights.push_back(finding.info.height);
    inspection_.widths.push_back(finding.info.width);
    ++inspection_.formats[finding.info.format];
    ++inspection_.channels[finding.info.channels];
    for (std::size_t c = 0; c < kChannels; ++c) {
      mean_[c] += finding.mean[c];
      mean_square_[c] += finding.mean_square[c];
    }
  }

  PictureInspection end(bool headers_only) {
    std::sort(inspection_.heights.begin(), inspection_.heights.end());
    std::sort(inspection_.widths.begin(), inspection_.widths.end());
    inspection_.broken = broken_.messages();
    const std::size_t n = inspection_.heights.size();
    const bool grey = inspection_.channels.size() == 1 && inspection_.channels.contains(1);
    for (std::size_t c = 0; !headers_only && n > 0 && c < (grey ? 1 : kChannels); ++c) {
      const double mean = mean_[c] / static_cast<double>(n);
      const double variance = mean_square_[c] / static_cast<double>(n) - mean * mean;
      inspection_.mean.push_back(mean);
      inspection_.std.push_back(std::sqrt(std::max(variance, 0.0)));
    }
    return std::move(inspection_);
  }

 private:
  void add_broken(std::int64_t i, const std::string& message) {
    try {
      broken_.add(i, message);
    } catch (const BadInput& error) {  // training would stop here; looking goes on
      inspection_.refusal = error.what();
    }
  }

  const PictureSource& source_;
  BrokenPictures broken_;
  PictureInspection inspection_;
  Moments mean_{}, mean_square_{};
};

}  // namespace

std::optional<PictureInspection> inspect_pictures(
    const PictureSource& source, const InspectOptions& options,
    const std::function<bool(std::int64_t)>& observer) {
  constexpr int kFindingsPerWorker = 16;
  const int workers = options.workers > 0 ? options.workers : default_workers();
  std::vector<Worker> team(static_cast<std::size_t>(workers));
  std::vector<Finding> findings(static_cast<std::size_t>(workers * kFindingsPerWorker));
  Summary summary(source);
  OrderedWork work(workers, static_cast<std::int64_t>(findings.size()), 1,
                   {.make =
                        [&](int worker, std::int64_t slot, std::int64_t, std::int64_t item) {
                          look_at(team[static_cast<std::size_t>(worker)], source, item,
                                  options.headers_only, findings[static_cast<std::size_t>(slot)]);
                        },
                    .finish = [](std::int64_t, std::int64_t) {}});
  work.start(source.size());
  for (std::int64_t i = 0; const std::optional<std::int64_t> slot = work.next(); ++i) {
    summary.add(i, findings[static_cast<std::size_t>(*slot)]);
    if (!observer(i + 1)) return std::nullopt;
  }
  return summary.end(options.headers_only);
}

}  // namespace vitrine
