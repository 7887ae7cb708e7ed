// Batches whose images the augment family makes.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "vitrine/augmentation.h"
#include "vitrine/batch_images.h"
#include "vitrine/loader.h"

namespace vitrine {

/// Photographs, decoded by workers, or stored images; brought to the model's size and varied on the
/// device. Only the last batch is kept.
class AugmentedImages final : public BatchImages {
 public:
  AugmentedImages(Device& device, const RunConfig& config, const Dataset& data,
                  const BatchImagesOptions& options);

  const void* data() const override { return mixes() ? spare_.data() : images_.data(); }
  void begin(std::vector<std::int64_t> order, std::int64_t epoch, std::int64_t position) override;
  BatchRows load(std::span<const std::int64_t> images, const BatchPosition& position) override;
  void submitted() override;
  DataTimes times() const override;
  std::vector<std::string> broken() const override;

 private:
  bool mixes() const { return options_.training && config_.mixes(); }
  const LoadedBatch& next_of_loader(std::span<const std::int64_t> images);
  const LoadedBatch& draw(std::span<const std::int64_t> images, const BatchPosition& position);
  ConstView<std::uint8_t> send(const LoadedBatch& batch);
  void augment(const LoadedBatch& batch, ConstView<std::uint8_t> sources);
  std::vector<LabelMix> mix(const LoadedBatch& batch, const BatchPosition& position);
  View<std::uint8_t> first_images(const Buffer& buffer, std::size_t count) const;

  Device& device_;
  const Dataset& data_;
  BatchImagesOptions options_;
  AugmentationConfig config_;
  std::uint64_t seed_;
  std::unique_ptr<BrokenPictures> broken_;
  std::unique_ptr<Loader> loader_;  // of photographs
  LoadedBatch drawn_;               // of stored images
  Buffer stored_;                   // where they are resident
  std::unique_ptr<TransferRing> ring_;
  std::size_t slot_bytes_ = 0;
  Buffer images_, spare_, views_, operations_, mixes_, fill_, mean_, std_;
};

/// Whether they are asked for.
bool augmented(const RunConfig& config, const Dataset& data, const BatchImagesOptions& options);

std::int64_t augmented_bytes(const RunConfig& config, const Dataset& data,
                             const BatchImagesOptions& options);

}  // namespace vitrine
