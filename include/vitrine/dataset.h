// Labelled images held as u8, and what happens to them on the way into a batch.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine {

class PictureSource;

/// Images [N, C, H, W] as stored, or photographs that become such while they are used; labels in
/// [0, num_classes).
struct Dataset {
  std::string name;  ///< "mnist", "cifar10", "digits", …
  std::int64_t channels = 0, height = 0, width = 0;
  std::vector<std::uint8_t> images;
  std::vector<std::int32_t> labels;
  std::vector<std::string> class_names;  ///< one a class
  /// Photographs: `images` is empty, and channels, height and width are those that the model reads.
  std::shared_ptr<const PictureSource> pictures;

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t num_classes() const { return static_cast<std::int64_t>(class_names.size()); }
  std::int64_t image_bytes() const { return channels * height * width; }
  const std::uint8_t* image(std::int64_t i) const { return images.data() + i * image_bytes(); }
};

enum class Split : std::uint8_t { train, test };

/// Names `load_dataset` knows: "digits", "mnist", "fashion-mnist", "cifar10", "cifar100".
const std::vector<std::string>& dataset_names();

/// Loads one split. `directory` is ignored for "digits" (drawn on the spot from a fixed seed;
/// 10000 training and 2000 test images). IDX files may be plain or .gz, named as torchvision or
/// the original site names them ("train-images-idx3-ubyte" or "train-images.idx3-ubyte"), directly
/// in `directory`, in its subfolder "MNIST/raw" / "FashionMNIST/raw"; CIFAR binary files directly
/// in it or in "cifar-10-batches-bin" / "cifar-100-binary" (fine labels). Throws BadInput: unknown
/// name (with the nearest known one), missing file (with the names looked for), wrong magic, short
/// file, trailing bytes, label out of range, counts that differ.
Dataset load_dataset(const std::string& name, const std::filesystem::path& directory, Split split);

/// Handwritten-looking digits: strokes, random affine and elastic distortion, blur and noise.
/// A function of (count, seed); classes are balanced. 28×28, grey.
Dataset make_digits(std::int64_t count, std::uint64_t seed);

/// Stripes by class and noise, of any shape: for measurements, and so that a few steps learn
/// something. A function of its arguments.
Dataset make_stripes(std::int64_t count, std::int64_t classes, std::int64_t channels,
                     std::int64_t height, std::int64_t width);

/// Writes "<split>-images-idx3-ubyte" and "<split>-labels-idx1-ubyte" ("train" / "t10k") into
/// `directory`, which is created. For grey images only.
void write_idx(const Dataset& dataset, const std::filesystem::path& directory, Split split);

/// How training images are varied; evaluation uses the whole image.
struct Transform {
  std::vector<float> mean, std;               ///< one a channel, of pixels scaled to [0, 1]
  float hflip = 0.0f;                         ///< probability of a horizontal flip
  std::array<float, 2> scale = {1.0f, 1.0f};  ///< area range; {1, 1}: no crop
  std::array<float, 2> ratio = {3.0f / 4.0f, 4.0f / 3.0f};  ///< aspect range of the crop
};

/// The whole image, unflipped.
BatchRow whole_image(const Dataset& dataset, std::int64_t image);

/// A random flip and a random resized crop as torchvision's RandomResizedCrop draws it (ten tries,
/// then the largest central crop of an allowed ratio). A function of (seed, epoch, position):
/// `position` is the image's place in the epoch.
BatchRow random_view(const Dataset& dataset, std::int64_t image, const Transform& transform,
                     std::uint64_t seed, std::int64_t epoch, std::int64_t position);

/// The order of an epoch: a permutation of [0, n) that is a function of (seed, epoch).
std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed, std::int64_t epoch);

}  // namespace vitrine
