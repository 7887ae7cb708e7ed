// CIFAR-10 and CIFAR-100, binary version: records of one label byte (CIFAR-100: coarse, then fine)
// and 3 x 32 x 32 bytes, channel by channel.      https://www.cs.toronto.edu/~kriz/cifar.html

#include <fstream>
#include <sstream>

#include "data/loaders.h"
#include "io/files.h"
#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr std::int64_t kChannels = 3, kSide = 32;
constexpr std::size_t kImageBytes = kChannels * kSide * kSide;

/// Records in a file. Throws BadInput when it does not hold a whole number of them.
std::size_t count_records(const std::filesystem::path& path, std::size_t record) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) throw BadInput(one_line(path.string()) + ": " + error.message());
  if (bytes == 0 || bytes % record != 0) {
    throw BadInput(one_line(path.string()) + ": " + std::to_string(bytes) +
                   " bytes, expected a multiple of " + std::to_string(record) +
                   " (short file or trailing bytes)");
  }
  return bytes / record;
}

/// Appends the records of one file. The last of `label_bytes` is the label.
void append_records(const std::filesystem::path& path, std::size_t label_bytes, Dataset& dataset) {
  const std::string name = one_line(path.string());
  const std::size_t count = count_records(path, label_bytes + kImageBytes);
  std::ifstream file(path, std::ios::binary);
  std::vector<char> record(label_bytes + kImageBytes);
  for (std::size_t i = 0; i < count; ++i) {
    if (!file.read(record.data(), static_cast<std::streamsize>(record.size()))) {
      throw BadInput(name + ": short file: ends in record " + std::to_string(i));
    }
    const std::int32_t label = static_cast<std::uint8_t>(record[label_bytes - 1]);
    if (label >= dataset.num_classes()) {
      throw BadInput(name + ": label " + std::to_string(label) + " of image " + std::to_string(i) +
                     ", expected 0 to " + std::to_string(dataset.num_classes() - 1));
    }
    dataset.labels.push_back(label);
    dataset.images.insert(dataset.images.end(), record.begin() + static_cast<long>(label_bytes),
                          record.end());
  }
}

/// The names beside the data, one a line; `fallback` when that file is absent.
std::vector<std::string> read_class_names(const std::filesystem::path& path,
                                          std::vector<std::string> fallback) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return fallback;
  std::istringstream lines(read_file(path));
  std::vector<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) names.push_back(one_line(line));
  }
  if (names.size() != fallback.size()) {
    throw BadInput(one_line(path.string()) + ": " + std::to_string(names.size()) +
                   " class names, expected " + std::to_string(fallback.size()));
  }
  return names;
}

Dataset load(const std::string& name, const std::filesystem::path& directory,
             const std::string& folder, const std::vector<std::string>& files,
             const std::string& names_file, std::vector<std::string> names,
             std::size_t label_bytes) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& file : files) paths.push_back(find_file(directory, {"", folder}, {file}));
  Dataset dataset;
  dataset.name = name;
  dataset.channels = kChannels;
  dataset.height = dataset.width = kSide;
  dataset.class_names =
      read_class_names(paths.front().parent_path() / names_file, std::move(names));
  std::size_t images = 0;
  for (const auto& path : paths) images += count_records(path, label_bytes + kImageBytes);
  dataset.images.reserve(images * kImageBytes);  // exactly: the set is the larger part of memory
  dataset.labels.reserve(images);
  for (const auto& path : paths) append_records(path, label_bytes, dataset);
  return dataset;
}

}  // namespace

Dataset load_cifar10(const std::filesystem::path& directory, Split split) {
  const std::vector<std::string> train = {"data_batch_1.bin", "data_batch_2.bin",
                                          "data_batch_3.bin", "data_batch_4.bin",
                                          "data_batch_5.bin"};
  const std::vector<std::string> test = {"test_batch.bin"};
  return load(
      "cifar10", directory, "cifar-10-batches-bin", split == Split::train ? train : test,
      "batches.meta.txt",
      {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"},
      1);
}

Dataset load_cifar100(const std::filesystem::path& directory, Split split) {
  constexpr int kClasses = 100;
  std::vector<std::string> names;
  for (int i = 0; i < kClasses; ++i) names.push_back("class " + std::to_string(i));
  return load("cifar100", directory, "cifar-100-binary",
              {split == Split::train ? "train.bin" : "test.bin"}, "fine_label_names.txt",
              std::move(names), 2);
}

}  // namespace vitrine
