// Single images as an evaluation sees them.
#include <cstring>

#include "io/files.h"
#include "train/augmented_images.h"
#include "vitrine/error.h"
#include "vitrine/image_folder.h"

namespace vitrine {
namespace {

/// One file as a data set.
class SinglePicture final : public PictureSource {
 public:
  explicit SinglePicture(std::filesystem::path path) : path_(std::move(path)) {
    class_names_ = {"image"};
    description_ = path_.string();
  }
  std::int64_t size() const override { return 1; }
  std::int32_t label(std::int64_t) const override { return 0; }
  std::string name(std::int64_t) const override { return path_.string(); }
  std::span<const std::byte> read(std::int64_t, std::vector<std::byte>& memory) const override {
    const std::string bytes = read_file(path_);
    memory.resize(bytes.size());
    std::memcpy(memory.data(), bytes.data(), bytes.size());
    return memory;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace

Image evaluation_image(const RunConfig& config, const Dataset& data, std::int64_t i) {
  if (!data.pictures) {
    const std::uint8_t* pixels = data.image(i);
    return {data.channels, data.height, data.width, {pixels, pixels + data.image_bytes()}};
  }
  const std::unique_ptr<Device> device = make_cpu_device(/*threads=*/1);
  RunConfig alone = config;
  alone.recipe.workers = 1;
  AugmentedImages images(*device, alone, data, {.batch = 1});
  images.begin({i}, /*epoch=*/0, /*position=*/0);
  const BatchRows rows = images.load({{i}}, {});
  if (rows.labels[0] < 0) throw BadInput(images.broken().at(0));
  const auto* pixels = static_cast<const std::uint8_t*>(images.data());
  return {data.channels, data.height, data.width, {pixels, pixels + data.image_bytes()}};
}

Image evaluation_image(const RunConfig& config, const std::filesystem::path& file) {
  if (config.recipe.dataset != "folder") return read_image(file);
  const VitConfig& model = config.model;
  Dataset data{.name = file.string(),
               .channels = model.num_channels,
               .height = model.image_height,
               .width = model.image_width,
               .labels = {0}};
  data.pictures = std::make_shared<SinglePicture>(file);
  return evaluation_image(config, data, 0);
}

}  // namespace vitrine
