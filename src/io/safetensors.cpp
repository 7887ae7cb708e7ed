// Reading and writing safetensors: [header length, u64 little-endian][JSON header][data].
//
//   https://github.com/huggingface/safetensors#format

#include "vitrine/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "io/files.h"
#include "io/mapped_file.h"
#include "io/one_line.h"
#include "io/safetensors_header.h"
#include "vitrine/conversion.h"

namespace vitrine {

using safetensors::byte_size;
using safetensors::Header;
using safetensors::HeaderEntry;
using safetensors::in_quotes;
using safetensors::kLengthBytes;
using safetensors::kMetadataKey;
using safetensors::parse_header;

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped as they are stored");

constexpr std::size_t kAlignment = 8;

/// The header of a new file, padded so that the data is aligned.
std::string make_header(const std::filesystem::path& path,
                        std::span<const SafetensorsTensor> tensors,
                        const std::map<std::string, std::string>& metadata) {
  const std::string file = one_line(path.string());
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::set<std::string> names = {kMetadataKey};
  std::uint64_t position = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const auto sizes = tensor.shape.sizes();
    const bool negative = std::any_of(sizes.begin(), sizes.end(), [](auto s) { return s < 0; });
    const auto bytes = byte_size({sizes.begin(), sizes.end()}, tensor.dtype);
    const std::string name = "tensor " + in_quotes(tensor.name);
    if (!names.insert(tensor.name).second) throw BadInput(file + ": " + name + " given twice");
    if (negative || !bytes || (*bytes > 0 && tensor.data == nullptr)) {
      throw BadInput(file + ": " + name + " of shape " + tensor.shape.str() + " has no such data");
    }
    header[tensor.name] = {{"dtype", to_string(tensor.dtype)},
                           {"shape", std::vector<std::int64_t>(sizes.begin(), sizes.end())},
                           {"data_offsets", {position, position + *bytes}}};
    position += *bytes;
  }
  try {
    std::string text = header.dump();
    text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
    return text;
  } catch (const nlohmann::json::type_error&) {
    throw BadInput(file + ": a tensor name or metadata is not UTF-8");
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const std::string file = one_line(path.string());
  const MappedFile mapping = map_file(path);
  if (mapping.bytes == 0) throw BadInput(file + ": not a safetensors file: it is empty");
  mapping_ = mapping.memory;
  const auto* bytes = static_cast<const char*>(mapping.memory.get());
  Header header = parse_header({bytes, mapping.bytes}, file);
  metadata_ = std::move(header.metadata);
  const auto* data = reinterpret_cast<const std::byte*>(bytes) + kLengthBytes + header.bytes;
  for (HeaderEntry& entry : header.entries) {
    index_[entry.name] = entries_.size();
    entries_.push_back({entry.name, entry.dtype, Shape(entry.shape), data + entry.begin(),
                        entry.end() - entry.begin()});
  }
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

std::vector<float> SafetensorsFile::read_f32(const std::string& name, const Shape& expected) const {
  const std::string where = one_line(path_.string()) + ": tensor " + in_quotes(name);
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) throw BadInput(where + " is missing, expected shape " + expected.str());
  if (entry->shape != expected) {
    throw BadInput(where + " has shape " + one_line(entry->shape.str(), 200) + ", expected " +
                   expected.str());
  }
  if (entry->dtype != DType::f32 && entry->dtype != DType::bf16 && entry->dtype != DType::f16) {
    throw BadInput(where + " has dtype " + std::string(to_string(entry->dtype)) +
                   ", expected F32, BF16 or F16");
  }
  return as_floats({reinterpret_cast<const char*>(entry->data), entry->bytes}, entry->dtype);
}

void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string header = make_header(path, tensors, metadata);
  const std::uint64_t length = header.size();
  AtomicFile file(path);
  file.write(&length, sizeof length);
  file.write(header);
  for (const SafetensorsTensor& tensor : tensors) {
    file.write(tensor.data, static_cast<std::size_t>(tensor.shape.elements()) *
                                static_cast<std::size_t>(size_of(tensor.dtype)));
  }
  file.commit();
}

}  // namespace vitrine
