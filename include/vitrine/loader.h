// Worker threads that read, decode and draw the augmentation of pictures, batch by batch, into a
// bounded ring.
//
// Which picture stands where, and what is drawn for it, depends on (seed, epoch, position) alone:
// the same bits whatever the number of workers. A broken picture is named and counted. In training
// the next one of the source that works takes its place, with its own label; in evaluation the row
// stays empty (offset −1, label −1). A loader does not try a broken picture again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vitrine/augmentation.h"
#include "vitrine/image_folder.h"

namespace vitrine {

struct LoaderOptions {
  int workers = 0;         ///< 0: one a core
  std::int64_t batch = 1;  ///< pictures of a batch
  int batches_ahead = 3;   ///< slots of the ring
  bool training = true;    ///< false: evaluation_view, nothing drawn
  std::uint64_t seed = 42;
};

/// Pictures of one batch as the augment family wants them. Valid until the next call of `next`.
struct LoadedBatch {
  std::vector<std::uint8_t> pixels;
  /// [count]; offsets into `pixels`. The picture of a random resized crop's view ends where the
  /// crop ends: torchvision crops before it resizes.
  std::vector<PictureView> views;
  /// [count, operations_per_image]; empty in evaluation.
  std::vector<ImageOperation> operations;
  std::vector<std::int32_t> labels;    ///< [count]
  std::vector<std::int64_t> pictures;  ///< [count] which of the source they are
};

/// What the workers have done, summed over them.
struct LoaderTimes {
  double read = 0, decode = 0, draw = 0;  ///< seconds
  double waited = 0;                      ///< seconds that `next` waited for them
  std::int64_t pictures = 0;
};

/// One consumer. References are kept.
class Loader {
 public:
  Loader(const PictureSource& source, const AugmentationConfig& config,
         const LoaderOptions& options, BrokenPictures& broken);
  ~Loader();

  /// Begins an epoch (or what is left of it): pictures in this order, the first of them at
  /// `position` of the epoch. What was under way is dropped.
  void start(std::vector<std::int64_t> order, std::int64_t epoch, std::int64_t position);

  /// The next batch, the last one smaller; null at the end of the order. Rethrows what a worker
  /// threw (more than 1 % broken pictures), at the place of the batch.
  const LoadedBatch* next();

  LoaderTimes times() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vitrine
