// The forward pass of single images, as `predict`, `attention` and a run's report need it.
#pragma once

#include <memory>
#include <vector>

#include "vitrine/attention_maps.h"
#include "vitrine/executor.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// One image at a time, the whole of it resized to the model's size. The plan is kept while images
/// of one size follow each other.
class ImagePass {
 public:
  /// `attention`: keep the probabilities of every layer.
  ImagePass(Device& device, const RunConfig& config, bool attention);
  ~ImagePass();

  /// `weights` lie on the device, in the working type. Grey and colour become what the model reads.
  AttentionMaps run(const void* weights, const Image& image);

 private:
  struct Planned;

  Device& device_;
  const RunConfig& config_;
  bool attention_;
  std::unique_ptr<Planned> planned_;
};

/// The layout of a model's flat weights on a device; the same for every batch and size of image.
Plan weights_plan(const RunConfig& config, const DeviceTraits& traits);

}  // namespace vitrine
