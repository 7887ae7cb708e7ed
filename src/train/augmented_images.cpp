#include "train/augmented_images.h"

#include <algorithm>

#include "data/cut_to_box.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

/// Bytes that decoded pictures of a batch need at most, but for extreme boxes: along each axis less
/// than twice the model's size, and the filter's margins.
std::int64_t decoded_bytes(const RunConfig& config, const BatchImagesOptions& options) {
  const VitConfig& model = config.model;
  const std::int64_t height = 2 * model.image_height + 16, width = 2 * model.image_width + 16;
  return options.batch * model.num_channels * height * width;
}

/// A picture and what was drawn for it.
void apply(const DrawnAugmentation& drawn, PictureView& view) {
  view.crop_y = static_cast<float>(drawn.crop_y);
  view.crop_x = static_cast<float>(drawn.crop_x);
  view.crop_height = static_cast<float>(drawn.crop_height);
  view.crop_width = static_cast<float>(drawn.crop_width);
  view.filter = drawn.filter;
  view.flip_x = drawn.flip_x ? 1 : 0;
  view.flip_y = drawn.flip_y ? 1 : 0;
}

Buffer upload(Device& device, const void* data, std::size_t bytes, const std::string& what) {
  Buffer buffer = device.allocate(bytes, what);
  device.upload(buffer.data(), data, bytes);
  return buffer;
}

}  // namespace

AugmentedImages::AugmentedImages(Device& device, const RunConfig& config, const Dataset& data,
                                 const BatchImagesOptions& options)
    : device_(device),
      data_(data),
      options_(options),
      config_(augmentation(config)),
      seed_(config.recipe.seed) {
  const auto batch = static_cast<std::size_t>(options.batch);
  const std::size_t bytes =
      batch * static_cast<std::size_t>(config_.channels * config_.height * config_.width);
  const auto channels = static_cast<std::size_t>(config_.channels);
  images_ = device.allocate(bytes, "images");
  views_ = device.allocate(batch * sizeof(PictureView), "views");
  if (options.training) {
    const auto operations = static_cast<std::size_t>(config_.operations_per_image());
    if (operations > 0 || mixes()) spare_ = device.allocate(bytes, "augmented images");
    if (operations > 0) {
      operations_ = device.allocate(batch * operations * sizeof(ImageOperation), "operations");
    }
    if (mixes()) mixes_ = device.allocate(batch * sizeof(ImageMix), "mixes");
    const Transform normal = transform(config.recipe, config.model.num_channels);
    fill_ = upload(device, config_.fill.data(), channels, "fill");
    mean_ = upload(device, normal.mean.data(), channels * sizeof(float), "mean");
    std_ = upload(device, normal.std.data(), channels * sizeof(float), "std");
  }
  if (data.pictures) {
    broken_ = std::make_unique<BrokenPictures>(data.size());
    loader_ =
        std::make_unique<Loader>(*data.pictures, config_,
                                 LoaderOptions{.workers = static_cast<int>(config.recipe.workers),
                                               .batch = options.batch,
                                               .training = options.training,
                                               .seed = seed_},
                                 *broken_);
  } else if (options.resident) {
    stored_ = device.share(data.images.data(), data.images.size(), "images");
  }
}

void AugmentedImages::begin(std::vector<std::int64_t> order, std::int64_t epoch,
                            std::int64_t position) {
  if (loader_) loader_->start(std::move(order), epoch, position);
}

BatchRows AugmentedImages::load(std::span<const std::int64_t> images,
                                const BatchPosition& position) {
  const LoadedBatch& batch = loader_ ? next_of_loader(images) : draw(images, position);
  augment(batch, send(batch));
  BatchRows rows{.labels = batch.labels};
  const auto width = static_cast<float>(config_.width), height = static_cast<float>(config_.height);
  for (std::size_t i = 0; i < images.size(); ++i) {
    rows.rows.push_back(
        {.image = static_cast<std::int64_t>(i), .crop_width = width, .crop_height = height});
  }
  if (mixes()) rows.mixes = mix(batch, position);
  return rows;
}

const LoadedBatch& AugmentedImages::next_of_loader(std::span<const std::int64_t> images) {
  const LoadedBatch* batch = loader_->next();
  if (batch == nullptr || batch->views.size() != images.size()) {
    throw Error("loader: found " + std::to_string(batch == nullptr ? 0 : batch->views.size()) +
                " pictures, expected the " + std::to_string(images.size()) + " of the batch");
  }
  return *batch;
}

// Stored images are views of themselves.
const LoadedBatch& AugmentedImages::draw(std::span<const std::int64_t> images,
                                         const BatchPosition& position) {
  drawn_ = {};
  const auto per_image = static_cast<std::size_t>(config_.operations_per_image());
  std::int64_t place = position.first_image + position.first_row;
  for (const std::int64_t image : images) {
    const DrawnAugmentation drawn =
        draw_augmentation(config_, data_.height, data_.width, seed_, position.epoch, place++);
    PictureView view{.offset = image * data_.image_bytes(),
                     .stride_y = data_.width,
                     .stride_x = 1,
                     .stride_c = data_.height * data_.width,
                     .height = static_cast<std::int32_t>(data_.height),
                     .width = static_cast<std::int32_t>(data_.width)};
    if (!options_.resident) {
      view.offset = static_cast<std::int64_t>(drawn_.pixels.size());
      drawn_.pixels.insert(drawn_.pixels.end(), data_.image(image),
                           data_.image(image) + data_.image_bytes());
    }
    apply(drawn, view);
    if (config_.crop_mode == CropMode::rrc) cut_to_box(view);
    drawn_.views.push_back(view);
    drawn_.operations.insert(drawn_.operations.end(), drawn.operations.begin(),
                             drawn.operations.end());
    drawn_.operations.resize(drawn_.views.size() * per_image);
    drawn_.labels.push_back(data_.labels[static_cast<std::size_t>(image)]);
  }
  return drawn_;
}

/// The batch's pixels where the device reads them.
ConstView<std::uint8_t> AugmentedImages::send(const LoadedBatch& batch) {
  if (stored_.bytes() > 0) {
    return {stored_.as<std::uint8_t>(), static_cast<std::int64_t>(stored_.bytes())};
  }
  const auto size = static_cast<std::int64_t>(batch.pixels.size());
  if (device_.traits().reads_host_memory) return {batch.pixels.data(), size};
  if (ring_ == nullptr || batch.pixels.size() > slot_bytes_) {
    device_.synchronize();  // the old ring is being read
    ring_.reset();
    slot_bytes_ = std::max(batch.pixels.size() * 5 / 4, slot_bytes_);
    ring_ = device_.make_ring(slot_bytes_, "decoded pictures");
  }
  std::copy(batch.pixels.begin(), batch.pixels.end(), static_cast<std::uint8_t*>(ring_->fill()));
  const auto slot = static_cast<std::size_t>(ring_->send());
  return {static_cast<const std::uint8_t*>(ring_->device_data()) + slot * slot_bytes_, size};
}

View<std::uint8_t> AugmentedImages::first_images(const Buffer& buffer, std::size_t count) const {
  return {buffer.as<std::uint8_t>(),
          static_cast<std::int64_t>(count) * config_.channels * config_.height * config_.width};
}

void AugmentedImages::augment(const LoadedBatch& batch, ConstView<std::uint8_t> sources) {
  const std::size_t count = batch.views.size();
  const auto images = static_cast<std::int64_t>(count);
  device_.upload(views_.data(), batch.views.data(), count * sizeof(PictureView));
  device_.kernels().resized_crop({.images = first_images(images_, count),
                                  .sources = sources,
                                  .views = {views_.as<PictureView>(), images},
                                  .batch = images,
                                  .channels = config_.channels,
                                  .height = config_.height,
                                  .width = config_.width});
  if (operations_.bytes() == 0) return;
  device_.upload(operations_.data(), batch.operations.data(),
                 batch.operations.size() * sizeof(ImageOperation));
  device_.kernels().augment_images(
      {.images = first_images(images_, count),
       .workspace = first_images(spare_, count),
       .operations = {operations_.as<ImageOperation>(),
                      static_cast<std::int64_t>(batch.operations.size())},
       .fill = {fill_.as<std::uint8_t>(), config_.channels},
       .mean = {mean_.as<float>(), config_.channels},
       .std = {std_.as<float>(), config_.channels},
       .batch = images,
       .channels = config_.channels,
       .height = config_.height,
       .width = config_.width,
       .operations_per_image = config_.operations_per_image()});
}

/// Mixes the images, and says how their labels are mixed.
std::vector<LabelMix> AugmentedImages::mix(const LoadedBatch& batch,
                                           const BatchPosition& position) {
  const std::size_t count = batch.views.size();
  const auto images = static_cast<std::int64_t>(count);
  // Of the whole step so far; the last of them are this micro-batch's.
  const auto before = static_cast<std::size_t>(position.first_row);
  std::vector<ImageMix> mixes(before + count);
  draw_mixes(config_, options_.batch, seed_, position.step, mixes);
  mixes.erase(mixes.begin(), mixes.begin() + position.first_row);
  for (ImageMix& mix : mixes) {
    if (mix.partner >= 0) mix.partner -= static_cast<std::int32_t>(before);
  }
  device_.upload(mixes_.data(), mixes.data(), count * sizeof(ImageMix));
  device_.kernels().mix_images({.out = first_images(spare_, count),
                                .images = first_images(images_, count),
                                .mixes = {mixes_.as<ImageMix>(), images},
                                .batch = images,
                                .channels = config_.channels,
                                .height = config_.height,
                                .width = config_.width});
  std::vector<LabelMix> labels;
  for (const ImageMix& mix : mixes) {
    if (mix.partner < 0) {
      labels.push_back({});
    } else {
      labels.push_back({batch.labels[static_cast<std::size_t>(mix.partner)], mix.weight});
    }
  }
  return labels;
}

void AugmentedImages::submitted() {
  if (ring_) ring_->release();
}

DataTimes AugmentedImages::times() const {
  if (!loader_) return {};
  const LoaderTimes times = loader_->times();
  return {.waited = times.waited,
          .read = times.read,
          .decode = times.decode,
          .draw = times.draw,
          .pictures = times.pictures};
}

std::vector<std::string> AugmentedImages::broken() const {
  return broken_ ? broken_->messages() : std::vector<std::string>{};
}

std::int64_t augmented_bytes(const RunConfig& config, const Dataset& data,
                             const BatchImagesOptions& options) {
  const VitConfig& model = config.model;
  const std::int64_t images =
      options.batch * model.num_channels * model.image_height * model.image_width;
  const std::int64_t sources = data.pictures ? kTransferSlots * decoded_bytes(config, options)
                               : options.resident
                                   ? data.size() * data.image_bytes()
                                   : kTransferSlots * options.batch * data.image_bytes();
  return sources + (options.training ? 2 : 1) * images;
}

}  // namespace vitrine
