// Pictures a second of one core, on the way from a file to an image of the model's size: decoding,
// resampling, augmenting, and the loader that does the first two.
//
//   picture_rates [--pictures=DIR] [flags of Google Benchmark]
//
// DIR holds photographs by class, {train,val}/CLASS/*.jpg; without it there are some drawn ones.
// tools/compare_pictures.py puts Pillow and torchvision beside it.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <numeric>
#include <string_view>

#include "cpu/cpu_kernels.h"
#include "cpu/thread_pool.h"
#include "encode_jpeg.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"
#include "vitrine/loader.h"

namespace vitrine::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSize = 224;
constexpr std::uint64_t kSeed = 42;

/// Encoded pictures in memory.
class Files final : public PictureSource {
 public:
  Files() {
    constexpr int kPictures = 16;
    for (int i = 0; i < kPictures; ++i) files_.push_back(drawn(375, 500, i));
    finish("drawn");
  }
  explicit Files(const PictureSource& source) {
    std::vector<std::byte> memory;
    for (std::int64_t i = 0; i < source.size(); ++i) {
      const auto bytes = source.read(i, memory);
      files_.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    finish(source.description());
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(files_.size()); }
  std::int32_t label(std::int64_t) const override { return 0; }
  std::string name(std::int64_t i) const override { return "picture " + std::to_string(i); }
  std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>&) const override {
    const std::string& file = files_[static_cast<std::size_t>(i)];
    return {reinterpret_cast<const std::byte*>(file.data()), file.size()};
  }

 private:
  // Smooth shapes with some noise, about as large as a photograph when encoded.
  static std::string drawn(std::int64_t height, std::int64_t width, int number) {
    Image image{3, height, width, {}};
    RandomStream random(kSeed, static_cast<std::uint64_t>(number));
    for (std::int64_t i = 0; i < 3 * height * width; ++i) {
      const double x = static_cast<double>(i % width), y = static_cast<double>(i / width);
      const double wave = 100 * std::sin(0.05 * x + number) * std::cos(0.03 * y);
      image.pixels.push_back(static_cast<std::uint8_t>(128 + wave + 20 * random.uniform()));
    }
    return encode_jpeg(image, {.quality = 85});
  }
  void finish(const std::string& description) {
    class_names_ = {"all"};
    description_ = description;
  }

  std::vector<std::string> files_;
};

AugmentationConfig training() {
  return {.height = kSize,
          .width = kSize,
          .auto_augment = parse_auto_augment("rand-m9-mstd0.5-inc1", "picture_rates"),
          .fill = {124, 116, 104}};
}

DecodeRequest request_of(const DrawnAugmentation& drawn) {
  return {.crop_y = drawn.crop_y,
          .crop_x = drawn.crop_x,
          .crop_height = drawn.crop_height,
          .crop_width = drawn.crop_width,
          .min_height = kSize,
          .min_width = kSize};
}

/// Each picture of `files` once an iteration, by work(decoder, file, its number).
template <typename Work>
void for_files(benchmark::State& state, const Files& files, const Work& work) {
  Decoder decoder;
  std::vector<std::byte> memory;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < files.size(); ++i) work(decoder, files.read(i, memory), i);
  }
  state.SetItemsProcessed(state.iterations() * files.size());
}

void decode_whole(benchmark::State& state, const Files& files) {
  std::vector<std::uint8_t> pixels;
  for_files(state, files, [&](Decoder& decoder, std::span<const std::byte> file, std::int64_t) {
    const PictureInfo info = decoder.read_info(file, "picture");
    pixels.clear();
    decoder.decode(file, "picture",
                   {.crop_height = static_cast<double>(info.height),
                    .crop_width = static_cast<double>(info.width)},
                   pixels);
  });
}

void decode_crop(benchmark::State& state, const Files& files) {
  std::vector<std::uint8_t> pixels;
  for_files(state, files, [&](Decoder& decoder, std::span<const std::byte> file, std::int64_t i) {
    const PictureInfo info = decoder.read_info(file, "picture");
    pixels.clear();
    decoder.decode(file, "picture",
                   request_of(draw_augmentation(training(), info.height, info.width, kSeed, 0, i)),
                   pixels);
  });
}

/// The kernels' work for the pictures of one batch, decoded before.
struct Batch {
  explicit Batch(const Files& files) : broken(files.size()) {
    Loader loader(files, training(), {.workers = 1, .batch = files.size(), .seed = kSeed}, broken);
    std::vector<std::int64_t> order(static_cast<std::size_t>(files.size()));
    std::iota(order.begin(), order.end(), 0);
    loader.start(order, 0, 0);
    batch = *loader.next();
    images.resize(batch.views.size() * 3 * kSize * kSize);
    workspace.resize(images.size());
  }

  std::int64_t count() const { return static_cast<std::int64_t>(batch.views.size()); }
  void crop() {
    kernels.resized_crop(
        {.images = view(images),
         .sources = {batch.pixels.data(), static_cast<std::int64_t>(batch.pixels.size())},
         .views = {batch.views.data(), count()},
         .batch = count(),
         .channels = 3,
         .height = kSize,
         .width = kSize});
  }
  void augment() {
    const std::uint8_t fill[] = {124, 116, 104};
    const float mean[] = {0.5f, 0.5f, 0.5f}, std[] = {0.25f, 0.25f, 0.25f};
    const auto operations = static_cast<std::int64_t>(batch.operations.size());
    kernels.augment_images({.images = view(images),
                            .workspace = view(workspace),
                            .operations = {batch.operations.data(), operations},
                            .fill = {fill, 3},
                            .mean = {mean, 3},
                            .std = {std, 3},
                            .batch = count(),
                            .channels = 3,
                            .height = kSize,
                            .width = kSize,
                            .operations_per_image = operations / count()});
  }

 private:
  static View<std::uint8_t> view(std::vector<std::uint8_t>& bytes) {
    return {bytes.data(), static_cast<std::int64_t>(bytes.size())};
  }

  BrokenPictures broken;
  LoadedBatch batch;
  std::vector<std::uint8_t> images, workspace;
  cpu::ThreadPool pool{1};
  cpu::CpuKernels kernels{pool};
};

void resize(benchmark::State& state, const Files& files) {
  Batch batch(files);
  for (auto _ : state) batch.crop();
  state.SetItemsProcessed(state.iterations() * batch.count());
}

void augment(benchmark::State& state, const Files& files) {
  Batch batch(files);
  batch.crop();
  for (auto _ : state) batch.augment();
  state.SetItemsProcessed(state.iterations() * batch.count());
}

/// Reading, decoding and drawing by one worker, an epoch an iteration.
void load(benchmark::State& state, const PictureSource& source) {
  BrokenPictures broken(source.size());
  Loader loader(source, training(), {.workers = 1, .batch = 16, .seed = kSeed}, broken);
  std::vector<std::int64_t> order(static_cast<std::size_t>(source.size()));
  std::iota(order.begin(), order.end(), 0);
  std::int64_t epoch = 0;
  for (auto _ : state) {
    loader.start(order, epoch++, 0);
    while (loader.next() != nullptr) {
    }
  }
  state.SetItemsProcessed(state.iterations() * source.size());
}

/// A packed copy of a source that is gone with the program.
class Packed {
 public:
  explicit Packed(const PictureSource& source)
      : path_(fs::temp_directory_path() / ("vitrine-rates-" + std::to_string(::getpid()))) {
    pack_pictures(source, source, path_, {}, [](std::int64_t, std::int64_t) { return true; });
    source_ = open_packed(path_, Split::train);
  }
  ~Packed() {
    source_.reset();
    std::error_code none;
    fs::remove(path_, none);
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  const PictureSource& source() const { return *source_; }

 private:
  fs::path path_;
  std::unique_ptr<PictureSource> source_;
};

int run(const std::string& directory) {
  const std::unique_ptr<PictureSource> folder =
      directory.empty() ? nullptr : open_image_folder(directory, Split::train);
  const Files files = folder ? Files(*folder) : Files();
  const Packed packed(files);
  benchmark::AddCustomContext("pictures",
                              files.description() + ", " + std::to_string(files.size()));
  const auto add = [&](const char* name, auto work, const auto& of) {
    benchmark::RegisterBenchmark(name, [=, &of](benchmark::State& state) { work(state, of); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  };
  const PictureSource& source = folder ? *folder : static_cast<const PictureSource&>(files);
  add("decode/whole", decode_whole, files);
  add("decode/crop_224", decode_crop, files);
  add("resize/224", resize, files);
  add("augment/rand-m9-mstd0.5-inc1", augment, files);
  add("load/files", load, source);
  add("load/packed", load, packed.source());
  return benchmark::RunSpecifiedBenchmarks() > 0 ? 0 : 2;
}

}  // namespace
}  // namespace vitrine::bench

int main(int argc, char** argv) {
  constexpr std::string_view kFlag = "--pictures=";
  std::string directory;
  benchmark::Initialize(&argc, argv);
  if (argc > 1 && std::string_view(argv[1]).starts_with(kFlag)) {
    directory = argv[1] + kFlag.size();
    std::swap(argv[0], argv[1]);
    --argc, ++argv;
  }
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    return vitrine::bench::run(directory);
  } catch (const vitrine::BadInput& error) {
    std::fprintf(stderr, "picture_rates: %s\n", error.what());
    return 2;
  }
}
