// Packing pictures: each is decoded whole and, where its short side is longer than asked for,
// reduced by Pillow's bicubic resize; the long side is rounded down, as torchvision's Resize does.
#include <algorithm>
#include <optional>
#include <utility>

#include "data/ordered_work.h"
#include "data/packed.h"
#include "data/picture_resizer.h"
#include "data/pnm_file.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"
#include "vitrine/image_folder.h"

namespace vitrine {
namespace {

struct Worker {
  Decoder decoder;
  PictureResizer resizer;
  std::vector<std::byte> file;
  std::vector<std::uint8_t> pixels;
};

struct Record {
  std::vector<std::byte> file;
  std::string broken;  ///< why there is none
};

/// Length of a side whose picture's short side becomes `to`.
std::int64_t reduced(std::int64_t side, std::int64_t short_side, std::int64_t to) {
  return short_side > to ? side * to / short_side : side;
}

void make_record(Worker& worker, const PictureSource& source, std::int64_t i,
                 std::int64_t short_side, Record& record) {
  const std::string name = source.name(i);
  record.broken.clear();
  PictureView view;
  PictureInfo info;
  worker.pixels.clear();
  try {
    const auto file = source.read(i, worker.file);
    info = worker.decoder.read_info(file, name);
    const DecodeRequest request{.crop_height = static_cast<double>(info.height),
                                .crop_width = static_cast<double>(info.width),
                                .channels = info.channels == 1 ? 1 : 3};
    view = worker.decoder.decode(file, name, request, worker.pixels);
  } catch (const BadInput& error) {
    record.broken = error.what();
    return;
  }
  view.filter = ResampleFilter::bicubic;
  const std::int64_t side = std::min(info.height, info.width);
  const Image image = worker.resizer.resize(worker.pixels, view, info.channels == 1 ? 1 : 3,
                                            reduced(info.height, side, short_side),
                                            reduced(info.width, side, short_side));
  write_pnm(image.pixels.data(), image.channels, image.height, image.width, record.file);
}

/// Returns false when told to stop.
bool pack_split(const PictureSource& source, Split split, const PackOptions& options,
                const std::function<bool(std::int64_t)>& observer, PackedWriter& writer,
                PackSummary& summary) {
  constexpr int kRecordsPerWorker = 4;
  const int workers = options.workers > 0 ? options.workers : default_workers();
  std::vector<Worker> team(static_cast<std::size_t>(workers));
  std::vector<Record> records(static_cast<std::size_t>(workers * kRecordsPerWorker));
  OrderedWork work(workers, static_cast<std::int64_t>(records.size()), 1,
                   {.make =
                        [&](int worker, std::int64_t slot, std::int64_t, std::int64_t item) {
                          make_record(team[static_cast<std::size_t>(worker)], source, item,
                                      options.short_side, records[static_cast<std::size_t>(slot)]);
                        },
                    .finish = [](std::int64_t, std::int64_t) {}});
  BrokenPictures broken(source.size());
  work.start(source.size());
  for (std::int64_t i = 0; const std::optional<std::int64_t> slot = work.next(); ++i) {
    const Record& record = records[static_cast<std::size_t>(*slot)];
    if (record.broken.empty()) {
      writer.add(split, source.label(i), source.name(i), record.file);
      ++(split == Split::train ? summary.train : summary.val);
    } else {
      broken.add(i, record.broken);
      summary.broken.push_back(record.broken);
    }
    if (!observer(i + 1)) return false;
  }
  return true;
}

}  // namespace

std::optional<PackSummary> pack_pictures(const PictureSource& train, const PictureSource& val,
                                         const std::filesystem::path& path,
                                         const PackOptions& options, const PackObserver& observer) {
  if (options.short_side < 1) {
    throw BadInput("short_side: found " + std::to_string(options.short_side) +
                   ", expected at least 1");
  }
  const std::int64_t all = train.size() + val.size();
  PackSummary summary;
  PackedWriter writer(path, train.class_names());
  const auto told = [&](std::int64_t before) {
    return [&observer, all, before](std::int64_t done) { return observer(before + done, all); };
  };
  if (!pack_split(train, Split::train, options, told(0), writer, summary) ||
      !pack_split(val, Split::test, options, told(train.size()), writer, summary)) {
    return std::nullopt;
  }
  writer.commit();
  summary.bytes = writer.bytes();
  return summary;
}

}  // namespace vitrine
