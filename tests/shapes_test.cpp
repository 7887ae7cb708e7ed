// The table of shapes says what the presets are and how their steps are cut.
#include "shapes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "vitrine/recipe.h"

namespace vitrine::shapes {
namespace {

TEST(Shapes, AreThoseOfThePresets) {
  for (const Model& model : kModels) {
    SCOPED_TRACE(model.preset);
    const VitConfig config = preset(model.preset).model;
    EXPECT_EQ(model.channels, config.num_channels);
    EXPECT_EQ(model.image_size, config.image_height);
    EXPECT_EQ(model.patch_size, config.patch_size);
    EXPECT_EQ(model.hidden, config.hidden_size);
    EXPECT_EQ(model.heads, config.num_attention_heads);
    EXPECT_EQ(model.intermediate, config.intermediate_size);
    EXPECT_EQ(model.classes, config.num_classes);
    EXPECT_EQ(model.tokens(), config.tokens());
    EXPECT_NE(std::find(kTokens.begin(), kTokens.end(), model.tokens()), kTokens.end());
    EXPECT_NE(std::find(kHiddenSizes.begin(), kHiddenSizes.end(), model.hidden),
              kHiddenSizes.end());
  }
}

TEST(Shapes, ChunksAreThoseOfThePlan) {
  const auto rows = [](const Model& model, std::int64_t batch) {
    return plan_vit(preset(model.preset).model, {}, batch, DeviceTraits{}).chunking().rows;
  };
  EXPECT_EQ(kMnistTutorialChunk, rows(kMnistTutorial, 128));
  EXPECT_EQ(kCifar10SmallChunk, rows(kCifar10Small, 256));
  EXPECT_EQ(kVitTinyChunk, rows(kVitTiny, 8));
}

}  // namespace
}  // namespace vitrine::shapes
