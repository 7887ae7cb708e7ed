// Stored images as they are; and which of the two ways a run takes.
#include "vitrine/batch_images.h"

#include <algorithm>

#include "train/augmented_images.h"
#include "vitrine/image_folder.h"

namespace vitrine {
namespace {

/// All images where the device reads them, or, where they do not fit, the batches of the next steps
/// in a ring that is filled while the device works.
class StoredImages final : public BatchImages {
 public:
  StoredImages(Device& device, const RunConfig& config, const Dataset& data,
               const BatchImagesOptions& options)
      : data_(data),
        options_(options),
        seed_(config.recipe.seed),
        transform_(transform(config.recipe, config.model.num_channels)) {
    if (options.resident) {
      images_ = device.share(data.images.data(), data.images.size(), "images");
    } else {
      ring_ =
          device.make_ring(static_cast<std::size_t>(options.batch * data.image_bytes()), "images");
    }
  }

  const void* data() const override { return ring_ ? ring_->device_data() : images_.data(); }

  void begin(std::vector<std::int64_t>, std::int64_t, std::int64_t) override {}

  BatchRows load(std::span<const std::int64_t> images, const BatchPosition& position) override {
    BatchRows batch;
    std::int64_t place = position.first_image + position.first_row;
    for (const std::int64_t image : images) {
      batch.rows.push_back(
          options_.training ? random_view(data_, image, transform_, seed_, position.epoch, place++)
                            : whole_image(data_, image));
      batch.labels.push_back(data_.labels[static_cast<std::size_t>(image)]);
    }
    if (ring_) send(batch.rows);
    return batch;
  }

  void submitted() override {
    if (ring_) ring_->release();
  }

 private:
  void send(std::vector<BatchRow>& rows) {
    auto* slot = static_cast<std::uint8_t*>(ring_->fill());
    for (const BatchRow& row : rows) {
      slot = std::copy_n(data_.image(row.image), data_.image_bytes(), slot);
    }
    std::int64_t place = ring_->send() * options_.batch;
    for (BatchRow& row : rows) row.image = place++;
  }

  const Dataset& data_;
  BatchImagesOptions options_;
  std::uint64_t seed_;
  Transform transform_;
  Buffer images_;
  std::unique_ptr<TransferRing> ring_;
};

}  // namespace

bool augmented(const RunConfig& config, const Dataset& data, const BatchImagesOptions& options) {
  return data.pictures != nullptr || (options.training && augments(config.recipe));
}

std::unique_ptr<BatchImages> make_batch_images(Device& device, const RunConfig& config,
                                               const Dataset& data,
                                               const BatchImagesOptions& options) {
  if (augmented(config, data, options)) {
    return std::make_unique<AugmentedImages>(device, config, data, options);
  }
  return std::make_unique<StoredImages>(device, config, data, options);
}

StoredShape stored_shape(const RunConfig& config, const Dataset& data,
                         const BatchImagesOptions& options) {
  if (augmented(config, data, options)) {
    return {options.batch, config.model.image_height, config.model.image_width};
  }
  return {options.resident ? data.size() : options.batch * kTransferSlots, data.height, data.width};
}

std::int64_t images_bytes(const RunConfig& config, const Dataset& data,
                          const BatchImagesOptions& options) {
  if (augmented(config, data, options)) return augmented_bytes(config, data, options);
  return stored_shape(config, data, options).images * data.image_bytes();
}

}  // namespace vitrine
