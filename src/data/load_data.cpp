// The data set of a run.
#include "vitrine/batch_images.h"
#include "vitrine/image_folder.h"

namespace vitrine {
namespace {

// "photos" of "photos train".
std::string without_split(const std::string& description) {
  return description.substr(0, description.rfind(' '));
}

}  // namespace

Dataset load_data(const RunConfig& config, Split split) {
  const Recipe& recipe = config.recipe;
  if (recipe.dataset != "folder") return load_dataset(recipe.dataset, recipe.data_dir, split);
  std::shared_ptr<const PictureSource> pictures =
      is_packed(recipe.data_dir)
          ? open_packed(recipe.data_dir, split)
          : open_image_folder(recipe.data_dir, split,
                              {.val_split = recipe.val_split, .seed = recipe.seed});
  Dataset data{.name = without_split(pictures->description()),
               .channels = config.model.num_channels,
               .height = config.model.image_height,
               .width = config.model.image_width,
               .class_names = pictures->class_names()};
  for (std::int64_t i = 0; i < pictures->size(); ++i) data.labels.push_back(pictures->label(i));
  data.pictures = std::move(pictures);
  return data;
}

}  // namespace vitrine
