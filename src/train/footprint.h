// What a training run holds on a device: one answer for the check before it starts, the largest
// batch that fits, `vitrine inspect`, and the header of a run.
#pragma once

#include <cstdint>
#include <functional>

#include "vitrine/trainer.h"

namespace vitrine {

/// As the recipe says; where it leaves it open, no more than what makes it fit: first the cheap
/// results of as few layers as can be, then all. More must not fit less.
Recompute choose_recompute(const RunConfig& config,
                           const std::function<bool(const Recompute&)>& fits);

/// Graph options of a run on a data set; `resident` as in BatchImagesOptions.
VitOptions training_options(const RunConfig& config, const Dataset& data, bool resident,
                            const Recompute& recompute = {});
VitOptions evaluation_options(const RunConfig& config, const Dataset& data, bool resident);

/// The images of a run.
BatchImagesOptions training_images(const RunConfig& config, bool resident);
BatchImagesOptions evaluation_images(const RunConfig& config, const Dataset& data, bool resident);

/// Means of batch means depend on the batch size, so evaluation uses the recipe's.
std::int64_t evaluation_batch(const RunConfig& config, const Dataset& data);

/// Training by a recipe; images not counted.
MemoryReport training_memory(const Plan& training, const Recipe& recipe, int workers);

/// The same and evaluation on the same weights.
MemoryReport run_memory(const Plan& training, const Plan& evaluation, const Recipe& recipe,
                        int workers);

/// Images are resident where they fit beside everything else: those of training first.
Footprint footprint(const RunConfig& config, const Dataset& train, const Dataset& test,
                    const DeviceTraits& traits, int workers);

/// The same for an evaluation alone: whether the images are resident.
bool evaluation_resident(const RunConfig& config, const Dataset& data, const DeviceTraits& traits);

}  // namespace vitrine
