// Where the images of a batch come from, and how they get to where a plan reads them.
//
//   stored     images of one size, as they are: the plan crops and flips them itself
//   augmented  the augment family makes images of the model's size first, from photographs that
//              are decoded meanwhile or from stored images
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vitrine/dataset.h"
#include "vitrine/device.h"
#include "vitrine/picture.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// The data set that a recipe names, as its model reads it: "folder" is an image folder or a packed
/// file, others as load_dataset. Throws BadInput.
Dataset load_data(const RunConfig& config, Split split);

/// Where a batch stands in a training.
struct BatchPosition {
  std::int64_t step = 0;         ///< optimiser steps before it
  std::int64_t epoch = 0;        ///< from 0
  std::int64_t first_image = 0;  ///< place of its first image in the order of the epoch
  std::int64_t first_row = 0;    ///< the same in the step, behind earlier micro-batches
};

/// What a plan is told of a batch, an entry an image. A label −1 is an image that does not count.
struct BatchRows {
  std::vector<BatchRow> rows;
  std::vector<std::int32_t> labels;
  std::vector<LabelMix> mixes;  ///< empty where the recipe mixes nothing
};

/// Seconds of the host, and what became of the data.
struct DataTimes {
  double waited = 0;                      ///< for workers that decode
  double read = 0, decode = 0, draw = 0;  ///< of all workers together
  std::int64_t pictures = 0;
};

class BatchImages {
 public:
  virtual ~BatchImages() = default;
  /// The stored images that rows name; the same memory at every step.
  virtual const void* data() const = 0;
  /// Before the first batch of an epoch, or of what is left of one: its images in order, the first
  /// of which stands at `position` of the epoch.
  virtual void begin(std::vector<std::int64_t> order, std::int64_t epoch,
                     std::int64_t position) = 0;
  /// Makes the next images of the order available to the work submitted next.
  virtual BatchRows load(std::span<const std::int64_t> images, const BatchPosition& position) = 0;
  /// That work has been submitted.
  virtual void submitted() = 0;
  virtual DataTimes times() const { return {}; }
  /// Pictures that could not be used, one message each.
  virtual std::vector<std::string> broken() const { return {}; }
};

struct BatchImagesOptions {
  std::int64_t batch = 1;
  bool resident = true;   ///< all stored images lie where the device reads them
  bool training = false;  ///< varied as the recipe says; else as an evaluation sees them
};

/// References are kept.
std::unique_ptr<BatchImages> make_batch_images(Device& device, const RunConfig& config,
                                               const Dataset& data,
                                               const BatchImagesOptions& options);

/// What the plan of a model is told of the images it will be given.
struct StoredShape {
  std::int64_t images = 1, height = 0, width = 0;
};
StoredShape stored_shape(const RunConfig& config, const Dataset& data,
                         const BatchImagesOptions& options);
/// What the images of a run take on a device that does not read host memory.
std::int64_t images_bytes(const RunConfig& config, const Dataset& data,
                          const BatchImagesOptions& options);

/// The image as an evaluation sees it: of the data set's own size, or a photograph brought to the
/// model's.
Image evaluation_image(const RunConfig& config, const Dataset& data, std::int64_t i);
/// The same of an image file: as it is, unless the recipe is one of photographs. Throws BadInput.
Image evaluation_image(const RunConfig& config, const std::filesystem::path& file);

/// Some training images before and after the recipe's augmentation; none where it has none beyond
/// flips and crops.
std::optional<Picture> augmentation_picture(Device& device, const RunConfig& config,
                                            const Dataset& data);

}  // namespace vitrine
