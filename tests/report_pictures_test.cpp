// Pictures in the report: which images a run shows, how large they are, and that a finished run
// keeps its report when the device fails while they are drawn.
#include "train/report_pictures.h"

#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <random>
#include <set>

#include "cuda/training_runs.h"
#include "vit_run.h"

namespace vitrine {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The CPU device, until `fail` is set: then nothing can be allocated on it any more.
class FailingDevice final : public Device {
 public:
  std::function<void()> fail;

  const DeviceTraits& traits() const override { return cpu_->traits(); }
  Kernels& kernels() override { return cpu_->kernels(); }
  Buffer allocate(std::size_t bytes, const std::string& what) override {
    if (fail) fail();
    return cpu_->allocate(bytes, what);
  }
  Buffer share(const void* host, std::size_t bytes, const std::string& what) override {
    return cpu_->share(host, bytes, what);
  }
  Buffer to_host(const Buffer& buffer) override { return cpu_->to_host(buffer); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    cpu_->upload(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    cpu_->download(to, from, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override { cpu_->copy(to, from, bytes); }
  void fill_zero(void* data, std::size_t bytes) override { cpu_->fill_zero(data, bytes); }
  std::unique_ptr<Readback> read_back(const void* data, std::size_t bytes) override {
    return cpu_->read_back(data, bytes);
  }
  int workers() const override { return cpu_->workers(); }
  void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) override {
    cpu_->for_each(n, body);
  }
  std::unique_ptr<Program> program(const std::string& name, std::function<void()> work) override {
    return cpu_->program(name, std::move(work));
  }
  std::unique_ptr<Stopwatch> make_stopwatch(std::int64_t points) override {
    return cpu_->make_stopwatch(points);
  }
  void synchronize() override { cpu_->synchronize(); }

 private:
  std::unique_ptr<Device> cpu_ = make_cpu_device(2);
};

struct Noting final : TrainObserver {
  std::vector<std::string> notices;
  void on_notice(const std::string& line) override { notices.push_back(line); }
};

/// A run of one step on random images.
struct FinishedRun {
  RunConfig config;
  Dataset train, test;
  FailingDevice device;
  std::unique_ptr<Trainer> trainer;
  Noting observer;
  EvaluationResult result;

  explicit FinishedRun(const VitConfig& model, std::int64_t images = 200) : config{.model = model} {
    const unsigned seed = std::random_device{}();
    std::cout << "seed " << seed << '\n';
    config.model.image_width = config.model.image_height;
    config.recipe.batch_size = 4;
    config.recipe.max_steps = 1;
    train = random_images(config.model, 8, seed);
    test = random_images(config.model, images, seed + 1);
    for (std::string& name : test.class_names) name = "class " + name;
    trainer = std::make_unique<Trainer>(device, config, train, test, "");
    trainer->initialize();
    const std::atomic<bool> never{false};
    trainer->run(observer, never);
    result = trainer->evaluate(/*details=*/true, observer, never);
  }
  Report report() { return make_report(device, config, *trainer, test, result, observer); }
};

TEST(ReportPictures, TheFirstRecognisedImageOfEachClass) {
  FinishedRun run(small_vit());
  Evaluator evaluator(run.device, run.config, run.test);
  const EvaluationResult again =
      evaluator.run(run.trainer->device_weights(), /*details=*/true, /*logits=*/true);
  std::vector<std::int64_t> expected(7, -1);
  for (std::int64_t i = run.test.size() - 1; i >= 0; --i) {
    const auto row = again.logits.begin() + i * 7;
    const auto label = static_cast<std::size_t>(run.test.labels[i]);
    if (std::max_element(row, row + 7) - row == run.test.labels[i]) expected[label] = i;
  }
  EXPECT_EQ(again.recognised, expected);
  EXPECT_EQ(run.result.recognised, expected);
  EXPECT_TRUE(evaluator.run(run.trainer->device_weights(), /*details=*/false).recognised.empty());
}

TEST(ReportPictures, ShowsImagesOfDifferentClasses) {
  FinishedRun run(small_vit());
  run.result.recognised = {-1, -1, 5, -1, -1, -1, -1};
  run.test.labels[5] = 2;
  const Report report = run.report();
  EXPECT_TRUE(run.observer.notices.empty());
  std::set<std::string> classes;
  for (const Picture& picture : report.attention) {
    EXPECT_EQ(picture.image.height, 160);
    EXPECT_EQ(picture.image.width, 3 * 160);
    EXPECT_EQ(picture.caption.substr(0, 11), "true class ") << picture.caption;
    EXPECT_TRUE(contains(picture.caption, " · predicted class ")) << picture.caption;
    EXPECT_TRUE(contains(picture.caption, " %)")) << picture.caption;
    classes.insert(picture.caption.substr(0, 12));
  }
  EXPECT_EQ(classes.size(), 7u);  // all there are
  EXPECT_EQ(report.attention.size(), 7u);
  // The recognised image of class 2 is shown, enlarged 20 times, at the left.
  const Picture& second = report.attention.at(2);
  EXPECT_EQ(second.image.pixels[0], run.test.image(5)[0]);
  EXPECT_EQ(second.image.pixels[159], run.test.image(5)[7]);
  EXPECT_EQ(second.image.pixels[159 * 480], run.test.image(5)[7 * 8]);
  EXPECT_EQ(report.positions.size(), 2u);
  const std::string html = render_report(report);
  for (const char* part : {"What the model looks at", "Position embeddings", "The learned table"}) {
    EXPECT_TRUE(contains(html, part)) << part;
  }
}

TEST(ReportPictures, AtMostEight) {
  VitConfig model = small_vit();
  model.num_classes = 12;
  FinishedRun run(model, 200);
  EXPECT_EQ(run.report().attention.size(), 8u);
  run.result.recognised.assign(12, 3);
  EXPECT_EQ(run.report().attention.size(), 8u);
}

TEST(ReportPictures, NoneOfAModelWithoutAttentionOrPositions) {
  VitConfig model = small_vit();
  model.num_hidden_layers = 0;
  model.position = Position::none;
  const Report report = FinishedRun(model).report();
  EXPECT_TRUE(report.attention.empty());
  EXPECT_TRUE(report.positions.empty());
}

TEST(ReportPictures, AnInterruptedEvaluationIsNotFollowedByMoreWork) {
  FinishedRun run(small_vit());
  run.result.complete = false;
  run.result.recognised.clear();
  const Report report = run.report();
  EXPECT_TRUE(report.attention.empty());
  EXPECT_EQ(report.positions.size(), 2u);
}

TEST(ReportPictures, AFinishedRunKeepsItsReportWhenTheDeviceFails) {
  for (const bool memory : {true, false}) {
    FinishedRun run(small_vit());
    run.device.fail = [memory] {
      if (memory) throw OutOfMemory("out of memory: outputs");
      throw DeviceFault("cuda: an illegal address");
    };
    const Report report = run.report();
    const std::string reason = memory ? "out of memory: outputs" : "cuda: an illegal address";
    ASSERT_EQ(run.observer.notices.size(), 1u);
    EXPECT_TRUE(contains(run.observer.notices[0], reason)) << run.observer.notices[0];
    EXPECT_TRUE(report.attention.empty());
    EXPECT_EQ(report.facts.back().first, "attention maps");
    const std::string html = render_report(report);
    EXPECT_TRUE(contains(html, "none: " + reason));
    EXPECT_TRUE(contains(html, "Confusion matrix"));
  }
}

TEST(ReportPictures, AreEscapedAndLeftOutWhereThereAreNone) {
  Report report;
  EXPECT_EQ(render_attention(report), "");
  EXPECT_EQ(render_positions(report), "");
  const Image image{3, 1, 1, {1, 2, 3}};
  report.attention = {{image, "true <b> · predicted \"x\""}};
  report.positions = {{image, "a & b"}};
  const std::string attention = render_attention(report), positions = render_positions(report);
  EXPECT_TRUE(contains(attention, "true &lt;b&gt; · predicted &quot;x&quot;")) << attention;
  EXPECT_FALSE(contains(attention, "<b>"));
  EXPECT_TRUE(contains(positions, "a &amp; b")) << positions;
  for (const std::string* html : {&attention, &positions}) {
    EXPECT_TRUE(contains(*html, "src=\"data:image/png;base64,iVBOR"));
  }
}

TEST(ReportPictures, FitIntoThePage) {
  std::mt19937 generator(7);
  std::vector<Picture> pictures(3);
  for (Picture& picture : pictures) {
    picture.image = {3, 200, 400, {}};
    for (int i = 0; i < 3 * 200 * 400; ++i) {
      picture.image.pixels.push_back(static_cast<std::uint8_t>(generator() & 255));
    }
  }
  const std::vector<Picture> whole = pictures;
  fit_pictures(pictures, 1'000'000);
  EXPECT_EQ(pictures[0].image.pixels, whole[0].image.pixels);
  fit_pictures(pictures, 100'000);
  std::size_t bytes = 0;
  for (const Picture& picture : pictures) bytes += encode_png(picture.image).size();
  EXPECT_LE(bytes, 100'000u);
  EXPECT_GT(bytes, 40'000u);
  EXPECT_EQ(pictures[2].image.width, 2 * pictures[2].image.height);
  fit_pictures(pictures, 1);
  EXPECT_EQ(pictures[0].image.width, 48);
}

}  // namespace
}  // namespace vitrine
