// Datasets by name, and the random views and orders of training.
//
//   random_view   RandomResizedCrop of torchvision, see draws.h
//   shuffled      Fisher and Yates 1938, Durstenfeld 1964
//
// Random numbers are functions of (seed, use, epoch, position): `stream_of` packs the last three.

#include "vitrine/dataset.h"

#include <algorithm>
#include <numeric>

#include "data/draws.h"
#include "data/loaders.h"
#include "io/json_fields.h"
#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

// Changing a seed changes the embedded dataset, and with it every accuracy measured on it.
constexpr std::uint64_t kDigitsTrainSeed = 20240601, kDigitsTestSeed = 20240602;
constexpr std::int64_t kDigitsTrainImages = 10000, kDigitsTestImages = 2000;

[[noreturn]] void fail_unknown(const std::string& given) {
  throw BadInput("dataset: found \"" + one_line(given) + "\", the nearest known one is \"" +
                 nearest(given, dataset_names()) + "\"");
}

Dataset embedded_digits(Split split) {
  return split == Split::train ? make_digits(kDigitsTrainImages, kDigitsTrainSeed)
                               : make_digits(kDigitsTestImages, kDigitsTestSeed);
}

}  // namespace

const std::vector<std::string>& dataset_names() {
  static const std::vector<std::string> names = {"digits", "mnist", "fashion-mnist", "cifar10",
                                                 "cifar100"};
  return names;
}

std::filesystem::path find_file(const std::filesystem::path& directory,
                                const std::vector<std::string>& folders,
                                const std::vector<std::string>& names) {
  for (const std::string& folder : folders) {
    for (const std::string& name : names) {
      std::filesystem::path path = directory / folder / name;
      std::error_code ignored;
      if (std::filesystem::exists(path, ignored)) return path;
    }
  }
  std::string looked;
  for (const std::string& name : names) looked += (looked.empty() ? "" : ", ") + name;
  std::string also;
  for (const std::string& folder : folders) {
    if (!folder.empty()) also += " or its folder " + folder;
  }
  throw BadInput(one_line(directory.string()) + ": no such file in it" + also + ": " + looked);
}

Dataset load_dataset(const std::string& name, const std::filesystem::path& directory, Split split) {
  if (name == "digits") return embedded_digits(split);
  if (name == "mnist") {
    return load_idx(name, directory, "MNIST/raw",
                    {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, split);
  }
  if (name == "fashion-mnist") {
    return load_idx(name, directory, "FashionMNIST/raw",
                    {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                     "Sneaker", "Bag", "Ankle boot"},
                    split);
  }
  if (name == "cifar10") return load_cifar10(directory, split);
  if (name == "cifar100") return load_cifar100(directory, split);
  fail_unknown(name);
}

BatchRow whole_image(const Dataset& dataset, std::int64_t image) {
  BatchRow row;
  row.image = image;
  row.crop_width = static_cast<float>(dataset.width);
  row.crop_height = static_cast<float>(dataset.height);
  return row;
}

BatchRow random_view(const Dataset& dataset, std::int64_t image, const Transform& transform,
                     std::uint64_t seed, std::int64_t epoch, std::int64_t position) {
  RandomStream random(seed, stream_of(Use::view, epoch, position));
  BatchRow row = whole_image(dataset, image);
  row.flip = random.uniform() < transform.hflip ? 1 : 0;
  if (transform.scale[0] != 1.0f || transform.scale[1] != 1.0f) {
    const Crop crop =
        random_resized_crop(dataset.height, dataset.width, {transform.scale[0], transform.scale[1]},
                            {transform.ratio[0], transform.ratio[1]}, random);
    row.crop_x = static_cast<float>(crop.x);
    row.crop_y = static_cast<float>(crop.y);
    row.crop_width = static_cast<float>(crop.width);
    row.crop_height = static_cast<float>(crop.height);
  }
  return row;
}

std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed, std::int64_t epoch) {
  RandomStream random(seed, stream_of(Use::order, epoch, 0));
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace vitrine
