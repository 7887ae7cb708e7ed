// Worker threads that read, decode and draw the augmentation of pictures.
//
// A worker decodes into its item's own memory; whoever makes the last item of a batch lays the
// pixels of all behind each other. What is broken is told to BrokenPictures by the consumer, in the
// order of the epoch, so that counts and errors come at the same place whatever the workers do.
#include "vitrine/loader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "data/cut_to_box.h"
#include "data/ordered_work.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

/// Adds the seconds from one mark to the next to the member named.
class StopWatch {
 public:
  void add_to(double& seconds) {
    const auto now = std::chrono::steady_clock::now();
    seconds += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// One row of a batch.
struct Item {
  std::vector<std::uint8_t> pixels;
  PictureView view;
  std::vector<ImageOperation> operations;
  std::int32_t label = -1;
  std::int64_t picture = -1;
  std::vector<std::int64_t> broken;  ///< pictures met on the way
  LoaderTimes times;

  /// An empty row; memory is kept.
  void clear(std::int64_t of) {
    pixels.clear();
    view = PictureView{};
    operations.clear();
    label = -1;
    picture = of;
    broken.clear();
    times = LoaderTimes{};
  }
};

struct Slot {
  std::vector<Item> items;
  std::int64_t count = 0;
  LoadedBatch batch;
};

struct Worker {
  Decoder decoder;
  std::vector<std::byte> file;
};

int workers_of(const LoaderOptions& options) {
  return options.workers > 0 ? options.workers : default_workers();
}

DecodeRequest request_of(const DrawnAugmentation& drawn, const AugmentationConfig& config) {
  return {.crop_y = drawn.crop_y,
          .crop_x = drawn.crop_x,
          .crop_height = drawn.crop_height,
          .crop_width = drawn.crop_width,
          .min_height = config.height,
          .min_width = config.width,
          .channels = config.channels};
}

}  // namespace

struct Loader::State {
  State(const PictureSource& from, const AugmentationConfig& how, const LoaderOptions& given,
        BrokenPictures& list);

  void make(Worker& worker, Item& item, std::int64_t position);
  bool try_picture(Worker& worker, Item& item, std::int64_t position);
  void finish(Slot& slot);
  void tell_broken(const Slot& slot);
  std::optional<std::string> known_broken(std::int64_t picture) const;

  const PictureSource& source;
  const AugmentationConfig config;
  const LoaderOptions options;
  BrokenPictures& broken;

  std::vector<std::int64_t> order;
  std::int64_t epoch = 0, first_position = 0;
  std::vector<Worker> workers;
  std::vector<Slot> slots;

  mutable std::mutex mutex;                      ///< of the two below
  std::map<std::int64_t, std::string> messages;  ///< of broken pictures
  LoaderTimes times;

  OrderedWork work;  ///< last: its threads end first
};

Loader::State::State(const PictureSource& from, const AugmentationConfig& how,
                     const LoaderOptions& given, BrokenPictures& list)
    : source(from),
      config(how),
      options(given),
      broken(list),
      workers(static_cast<std::size_t>(workers_of(given))),
      slots(static_cast<std::size_t>(given.batches_ahead)),
      work(workers_of(given), given.batches_ahead, given.batch,
           {.make =
                [this](int worker, std::int64_t slot, std::int64_t place, std::int64_t item) {
                  make(workers[static_cast<std::size_t>(worker)],
                       slots[static_cast<std::size_t>(slot)].items[static_cast<std::size_t>(place)],
                       item);
                },
            .finish =
                [this](std::int64_t slot, std::int64_t count) {
                  slots[static_cast<std::size_t>(slot)].count = count;
                  finish(slots[static_cast<std::size_t>(slot)]);
                }}) {
  for (Slot& slot : slots) slot.items.resize(static_cast<std::size_t>(options.batch));
}

std::optional<std::string> Loader::State::known_broken(std::int64_t picture) const {
  const std::lock_guard lock(mutex);
  const auto found = messages.find(picture);
  return found == messages.end() ? std::nullopt : std::optional(found->second);
}

/// Whether item.picture could be used; where not, it is in `messages`.
bool Loader::State::try_picture(Worker& worker, Item& item, std::int64_t position) {
  if (known_broken(item.picture)) return false;
  const std::string name = source.name(item.picture);
  StopWatch watch;
  try {
    const auto file = source.read(item.picture, worker.file);
    watch.add_to(item.times.read);
    const PictureInfo info = worker.decoder.read_info(file, name);
    watch.add_to(item.times.decode);
    DrawnAugmentation drawn = options.training
                                  ? draw_augmentation(config, info.height, info.width, options.seed,
                                                      epoch, first_position + position)
                                  : evaluation_view(config, info.height, info.width);
    watch.add_to(item.times.draw);
    item.view = worker.decoder.decode(file, name, request_of(drawn, config), item.pixels);
    watch.add_to(item.times.decode);
    if (options.training && config.crop_mode == CropMode::rrc) cut_to_box(item.view);
    item.view.filter = drawn.filter;
    item.view.flip_x = drawn.flip_x ? 1 : 0;
    item.view.flip_y = drawn.flip_y ? 1 : 0;
    item.operations = std::move(drawn.operations);
  } catch (const BadInput& error) {
    const std::lock_guard lock(mutex);
    messages.emplace(item.picture, error.what());
    return false;
  }
  item.label = source.label(item.picture);
  item.times.pictures = 1;
  return true;
}

void Loader::State::make(Worker& worker, Item& item, std::int64_t position) {
  const std::int64_t wanted = order[static_cast<std::size_t>(position)];
  item.clear(wanted);
  // So many in a row are more than BrokenPictures bears.
  const std::int64_t tries = options.training ? source.size() / 100 + 2 : 1;
  for (std::int64_t i = 0; i < tries; ++i) {
    if (try_picture(worker, item, position)) break;
    item.broken.push_back(item.picture);
    item.pixels.clear();
    item.view = PictureView{};
    if (options.training) item.picture = (item.picture + 1) % source.size();
  }
  if (options.training) {
    item.operations.resize(static_cast<std::size_t>(config.operations_per_image()));
  }
}

/// Lays the items of a batch behind each other.
void Loader::State::finish(Slot& slot) {
  LoadedBatch& batch = slot.batch;
  batch.views.clear();
  batch.operations.clear();
  batch.labels.clear();
  batch.pictures.clear();
  std::size_t bytes = 0;
  for (std::int64_t i = 0; i < slot.count; ++i) {
    bytes += slot.items[static_cast<std::size_t>(i)].pixels.size();
  }
  batch.pixels.resize(bytes);
  std::size_t begin = 0;
  LoaderTimes sum;
  for (std::int64_t i = 0; i < slot.count; ++i) {
    Item& item = slot.items[static_cast<std::size_t>(i)];
    std::copy(item.pixels.begin(), item.pixels.end(),
              batch.pixels.begin() + static_cast<std::ptrdiff_t>(begin));
    if (item.view.offset >= 0) item.view.offset += static_cast<std::int64_t>(begin);
    begin += item.pixels.size();
    batch.views.push_back(item.view);
    batch.operations.insert(batch.operations.end(), item.operations.begin(), item.operations.end());
    batch.labels.push_back(item.label);
    batch.pictures.push_back(item.picture);
    sum.read += item.times.read;
    sum.decode += item.times.decode;
    sum.draw += item.times.draw;
    sum.pictures += item.times.pictures;
  }
  const std::lock_guard lock(mutex);
  times.read += sum.read;
  times.decode += sum.decode;
  times.draw += sum.draw;
  times.pictures += sum.pictures;
}

void Loader::State::tell_broken(const Slot& slot) {
  for (std::int64_t i = 0; i < slot.count; ++i) {
    for (const std::int64_t picture : slot.items[static_cast<std::size_t>(i)].broken) {
      broken.add(picture, *known_broken(picture));
    }
  }
}

Loader::Loader(const PictureSource& source, const AugmentationConfig& config,
               const LoaderOptions& options, BrokenPictures& broken)
    : state_(std::make_unique<State>(source, config, options, broken)) {}
Loader::~Loader() = default;

void Loader::start(std::vector<std::int64_t> order, std::int64_t epoch, std::int64_t position) {
  state_->work.start(0);  // nobody reads what changes now
  state_->order = std::move(order);
  state_->epoch = epoch;
  state_->first_position = position;
  state_->work.start(static_cast<std::int64_t>(state_->order.size()));
}

const LoadedBatch* Loader::next() {
  const std::optional<std::int64_t> slot = state_->work.next();
  if (!slot) return nullptr;
  const Slot& ready = state_->slots[static_cast<std::size_t>(*slot)];
  state_->tell_broken(ready);
  return &ready.batch;
}

LoaderTimes Loader::times() const {
  const std::lock_guard lock(state_->mutex);
  LoaderTimes times = state_->times;
  times.waited = state_->work.waited();
  return times;
}

}  // namespace vitrine
