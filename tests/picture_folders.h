// Folders of small pictures for tests, and the message of an error.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/files.h"
#include "vitrine/error.h"
#include "vitrine/image_folder.h"

namespace vitrine {

/// A binary PPM, grey for one channel, whose pixels follow from `seed`.
inline std::string pnm_file(std::int64_t height, std::int64_t width, std::uint64_t seed,
                            std::int64_t channels = 3) {
  std::string file = channels == 3 ? "P6\n" : "P5\n";
  file += std::to_string(width) + " " + std::to_string(height) + "\n255\n";
  RandomStream random(seed, 0);
  for (std::int64_t i = 0; i < channels * height * width; ++i) {
    file += static_cast<char>(random.below(256));
  }
  return file;
}

/// Writes a file and the folders that it needs.
inline void put(const std::filesystem::path& path, const std::string& contents) {
  std::filesystem::create_directories(path.parent_path());
  write_file(path, contents);
}

/// root/{train,val}/{cat,dog}/0.png …: `train` and `val` pictures of each class.
inline void put_two_classes(const std::filesystem::path& root, int train, int val) {
  std::uint64_t seed = 0;
  for (const std::string split : {"train", "val"}) {
    for (const std::string name : {"cat", "dog"}) {
      for (int i = 0; i < (split == "train" ? train : val); ++i, ++seed) {
        const auto side = static_cast<std::int64_t>(4 + seed % 5);
        put(root / split / name / (std::to_string(100 + i) + ".png"), pnm_file(side, 6, seed));
      }
    }
  }
}

/// What `work` throws as BadInput; empty: nothing.
template <typename Work>
std::string bad_input_of(const Work& work) {
  try {
    work();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

inline std::vector<std::string> names_of(const PictureSource& source) {
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < source.size(); ++i) names.push_back(source.name(i));
  return names;
}

inline std::string bytes_of(const PictureSource& source, std::int64_t i) {
  std::vector<std::byte> memory;
  const std::span<const std::byte> bytes = source.read(i, memory);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace vitrine
