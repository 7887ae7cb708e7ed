// Batches of the augment family on the emulated GPU: the images, rows and labels of the CPU device.
//
// Streams are late here, so a table or a ring's slot that is reused too early shows.
#include <gtest/gtest.h>

#include "picture_folders.h"
#include "simt/device.h"
#include "simt/streams.h"
#include "temporary_directory.h"
#include "vitrine/batch_images.h"

namespace vitrine {
namespace {

constexpr std::int64_t kBatch = 6, kImages = 24;

RunConfig config_of(const std::string& dataset) {
  RunConfig config = preset("deit_small");
  config.model.image_height = 12;
  config.model.image_width = 16;
  config.recipe.dataset = dataset;
  config.recipe.batch_size = kBatch;
  config.recipe.grad_accum_steps = 1;
  config.recipe.workers = 2;
  config.recipe.remode = EraseMode::constant;
  return config;
}

/// All batches of an epoch, one behind the other; nothing is waited for between them.
struct Epoch {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> labels;
  std::vector<float> weights;
};

Epoch epoch_of(Device& device, const RunConfig& config, const Dataset& data, bool resident) {
  const auto images = make_batch_images(device, config, data,
                                        {.batch = kBatch, .resident = resident, .training = true});
  std::vector<std::int64_t> order = shuffled(data.size(), 7, 0);
  images->begin(order, 0, 0);
  Epoch epoch;
  const std::int64_t bytes = kBatch * data.channels * 12 * 16;
  std::vector<std::unique_ptr<Readback>> copies;
  for (std::int64_t begin = 0; begin < data.size(); begin += kBatch) {
    const BatchRows rows = images->load(std::span(order).subspan(begin, kBatch),
                                        {.step = begin / kBatch, .first_image = begin});
    copies.push_back(device.read_back(images->data(), bytes));
    images->submitted();
    epoch.labels.insert(epoch.labels.end(), rows.labels.begin(), rows.labels.end());
    for (const LabelMix& mix : rows.mixes) epoch.weights.push_back(mix.weight);
    for (std::size_t i = 0; i < rows.rows.size(); ++i) {
      EXPECT_EQ(rows.rows[i].image, static_cast<std::int64_t>(i));
    }
  }
  for (const auto& copy : copies) {
    const auto* pixels = static_cast<const std::uint8_t*>(copy->wait());
    epoch.pixels.insert(epoch.pixels.end(), pixels, pixels + bytes);
  }
  return epoch;
}

void expect_equal(const Epoch& expected, const Epoch& found) {
  EXPECT_EQ(expected.labels, found.labels);
  EXPECT_EQ(expected.weights, found.weights);
  ASSERT_EQ(expected.pixels.size(), found.pixels.size());
  std::int64_t differences = 0;
  for (std::size_t i = 0; i < expected.pixels.size(); ++i) {
    differences += expected.pixels[i] != found.pixels[i];
  }
  EXPECT_EQ(differences, 0) << "of " << expected.pixels.size();
}

class AugmentedImagesTest : public ::testing::Test {
 protected:
  void SetUp() override { simt::reset_device(); }
  void TearDown() override { simt::reset_device(); }
};

TEST_F(AugmentedImagesTest, StoredImages) {
  const RunConfig config = config_of("stripes");
  const Dataset data = make_stripes(kImages, 10, 3, 20, 14);
  const Epoch expected = epoch_of(*make_cpu_device(1), config, data, /*resident=*/true);
  for (const bool resident : {true, false}) {
    SCOPED_TRACE(resident);
    const std::unique_ptr<Device> device = make_simt_device();
    expect_equal(expected, epoch_of(*device, config, data, resident));
  }
}

TEST_F(AugmentedImagesTest, Photographs) {
  const TemporaryDirectory root;
  put_two_classes(root.path(), kImages / 2, 2);
  RunConfig config = config_of("folder");
  config.recipe.data_dir = root.path().string();
  const Dataset data = load_data(config, Split::train);
  const Epoch expected = epoch_of(*make_cpu_device(2), config, data, /*resident=*/true);
  const std::unique_ptr<Device> device = make_simt_device();
  expect_equal(expected, epoch_of(*device, config, data, /*resident=*/false));
}

}  // namespace
}  // namespace vitrine
