// Images of a data set as pictures like any others.
#include "data/dataset_pictures.h"

#include <utility>

#include "data/pnm_file.h"

namespace vitrine {
namespace {

class DatasetPictures final : public PictureSource {
 public:
  DatasetPictures(Dataset dataset, Split split) : dataset_(std::move(dataset)) {
    class_names_ = dataset_.class_names;
    description_ = dataset_.name + (split == Split::train ? " train" : " val");
  }

  std::int64_t size() const override { return dataset_.size(); }
  std::int32_t label(std::int64_t i) const override {
    return dataset_.labels[static_cast<std::size_t>(i)];
  }
  std::string name(std::int64_t i) const override { return "image " + std::to_string(i); }
  std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>& memory) const override {
    write_pnm(dataset_.image(i), dataset_.channels, dataset_.height, dataset_.width, memory);
    return memory;
  }

 private:
  Dataset dataset_;
};

}  // namespace

std::unique_ptr<PictureSource> dataset_pictures(Dataset dataset, Split split) {
  return std::make_unique<DatasetPictures>(std::move(dataset), split);
}

}  // namespace vitrine
