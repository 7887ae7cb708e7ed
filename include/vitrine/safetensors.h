// safetensors files: 8 bytes header length, JSON header, raw little-endian data.
//
//   https://github.com/huggingface/safetensors#format
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vitrine/tensor.h"

namespace vitrine {

/// One tensor of an open file; `data` points into the mapping and is `bytes` long.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// A memory-mapped, fully validated file. Strict: header length, UTF-8 JSON without duplicate keys,
/// known dtypes, offsets in range, no overlap, no hole, shape × dtype = length.
class SafetensorsFile {
 public:
  /// Throws BadInput naming the file and what is wrong with it.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// In the order of the data.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  /// nullptr when there is none of that name.
  const SafetensorsEntry* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// A copy as float. Accepts F32, BF16 and F16; throws BadInput (file, name, found, expected) for
  /// a missing name, another dtype or another shape.
  std::vector<float> read_f32(const std::string& name, const Shape& expected) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const void> mapping_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor to be written; the data stays the caller's.
struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  const void* data = nullptr;
};

/// Writes the tensors in the given order, atomically: the file appears whole or not at all.
/// Data is aligned to 8 bytes as the reference implementation does. Throws IoError.
void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace vitrine
