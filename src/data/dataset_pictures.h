// Images of a data set as pictures like any others.
#pragma once

#include <memory>

#include "vitrine/dataset.h"
#include "vitrine/image_folder.h"

namespace vitrine {

/// Picture i is image i as a PGM or PPM file, named by its number.
std::unique_ptr<PictureSource> dataset_pictures(Dataset dataset, Split split);

}  // namespace vitrine
