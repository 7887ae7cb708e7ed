// Packed pictures: one file that is mapped into memory, every byte of it under a checksum.
//
//   "VITRPACK", version u32, zero u32
//   pictures     one after the other, each a whole binary PGM (P5) or PPM (P6) file: first those
//                that train, then those that validate
//   index        JSON: {"class_names": [..],
//                       "train": {"labels": [..], "names": [..], "sizes": [..], "checksums": [..]},
//                       "val": {..}}       sizes in bytes; a picture begins where the last one ends
//   index bytes u64, checksum of the index u64, "VITRINDX"
//
// Integers are little-endian; checksums are XXH64.
#include "data/packed.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/json_fields.h"
#include "io/mapped_file.h"
#include "io/one_line.h"
#include "io/xxh64.h"
#include "vitrine/error.h"
#include "vitrine/image_folder.h"

namespace vitrine {
namespace {

using nlohmann::json;

constexpr std::size_t kMagicBytes = 8;
constexpr char kMagic[kMagicBytes + 1] = "VITRPACK", kEndMark[kMagicBytes + 1] = "VITRINDX";
constexpr std::uint32_t kVersion = 1;

struct Header {
  char magic[kMagicBytes];
  std::uint32_t version, zero;
};
struct Footer {
  std::uint64_t index_bytes, index_checksum;
  char end_mark[kMagicBytes];
};
static_assert(sizeof(Header) == 16 && sizeof(Footer) == 24);

constexpr const char* split_key(Split split) {
  return split == Split::train ? "train" : "val";
}

class PackedPictures final : public PictureSource {
 public:
  PackedPictures(const std::filesystem::path& path, Split split);

  std::int64_t size() const override { return static_cast<std::int64_t>(pictures_.labels.size()); }
  std::int32_t label(std::int64_t i) const override {
    return pictures_.labels[static_cast<std::size_t>(i)];
  }
  std::string name(std::int64_t i) const override {
    return one_line(pictures_.names[static_cast<std::size_t>(i)]);
  }
  std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>& memory) const override;

 private:
  [[noreturn]] void fail(const std::string& what) const { throw BadInput(file_ + ": " + what); }
  void check_header() const;
  json read_index();
  PackedEntries read_entries(const json& index, Split split) const;
  /// Where each picture begins; the last one ends at `end`.
  std::uint64_t place(std::uint64_t begin, const PackedEntries& pictures,
                      std::vector<std::uint64_t>& begins) const;

  std::string file_;  ///< in messages
  MappedFile mapping_;
  std::uint64_t index_begin_ = 0;
  PackedEntries pictures_;
  std::vector<std::uint64_t> begins_;
};

PackedPictures::PackedPictures(const std::filesystem::path& path, Split split)
    : file_(one_line(path.string())), mapping_(map_file(path)) {
  description_ = one_line(path.stem().string()) + " " + split_key(split);
  check_header();
  PackedEntries train, val;
  try {
    const json index = read_index();
    class_names_ = index.at("class_names").get<std::vector<std::string>>();
    train = read_entries(index, Split::train);
    val = read_entries(index, Split::test);
  } catch (const json::exception& error) {
    fail(std::string("index: ") + error.what());
  }
  std::vector<std::uint64_t> train_begins, val_begins;
  const std::uint64_t train_end = place(sizeof(Header), train, train_begins);
  const std::uint64_t end = place(train_end, val, val_begins);
  if (end != index_begin_) {
    fail("index: found pictures up to byte " + std::to_string(end) + ", expected " +
         std::to_string(index_begin_));
  }
  pictures_ = std::move(split == Split::train ? train : val);
  begins_ = std::move(split == Split::train ? train_begins : val_begins);
}

void PackedPictures::check_header() const {
  Header header{};
  if (mapping_.bytes >= sizeof header) std::memcpy(&header, mapping_.memory.get(), sizeof header);
  if (std::memcmp(header.magic, kMagic, kMagicBytes) != 0) {
    fail("not a packed file: expected \"VITRPACK\" and an index");
  }
  if (header.version != kVersion || header.zero != 0) {
    fail("version: found " + std::to_string(header.version) + ", expected " +
         std::to_string(kVersion));
  }
}

json PackedPictures::read_index() {
  const std::span<const std::byte> bytes = mapping_.span();
  Footer footer{};
  const bool fits = bytes.size() >= sizeof(Header) + sizeof footer;
  if (fits) std::memcpy(&footer, bytes.data() + bytes.size() - sizeof footer, sizeof footer);
  if (std::memcmp(footer.end_mark, kEndMark, kMagicBytes) != 0) {
    fail("cut short: found no index at its end");
  }
  const std::size_t most = bytes.size() - sizeof(Header) - sizeof footer;
  if (footer.index_bytes > most) {
    fail("index: found " + std::to_string(footer.index_bytes) + " bytes, expected at most " +
         std::to_string(most));
  }
  index_begin_ = bytes.size() - sizeof footer - footer.index_bytes;
  const auto index = bytes.subspan(index_begin_, footer.index_bytes);
  if (xxh64(index) != footer.index_checksum) fail("index: damaged, its checksum differs");
  return parse_json({reinterpret_cast<const char*>(index.data()), index.size()}, file_);
}

PackedEntries PackedPictures::read_entries(const json& index, Split split) const {
  const json& entry = index.at(split_key(split));
  PackedEntries pictures;
  entry.at("labels").get_to(pictures.labels);
  entry.at("names").get_to(pictures.names);
  entry.at("sizes").get_to(pictures.sizes);
  entry.at("checksums").get_to(pictures.checksums);
  const std::size_t count = pictures.labels.size();
  if (pictures.names.size() != count || pictures.sizes.size() != count ||
      pictures.checksums.size() != count) {
    fail(std::string("index: ") + split_key(split) + ": found lists of different lengths");
  }
  for (const std::int32_t label : pictures.labels) {
    if (label >= 0 && static_cast<std::size_t>(label) < class_names_.size()) continue;
    fail(std::string("index: ") + split_key(split) + ": found the label " + std::to_string(label) +
         ", expected 0 to " + std::to_string(static_cast<std::int64_t>(class_names_.size()) - 1));
  }
  return pictures;
}

std::uint64_t PackedPictures::place(std::uint64_t begin, const PackedEntries& pictures,
                                    std::vector<std::uint64_t>& begins) const {
  for (const std::uint64_t size : pictures.sizes) {
    begins.push_back(begin);
    if (size > index_begin_ - begin) {
      fail("index: found a picture of " + std::to_string(size) + " bytes, expected at most " +
           std::to_string(index_begin_ - begin));
    }
    begin += size;
  }
  return begin;
}

std::span<const std::byte> PackedPictures::read(std::int64_t i, std::vector<std::byte>&) const {
  const auto at = static_cast<std::size_t>(i);
  const auto picture = mapping_.span().subspan(begins_[at], pictures_.sizes[at]);
  if (xxh64(picture) != pictures_.checksums[at]) {
    throw BadInput(name(i) + ": damaged in " + file_ + ", its checksum differs");
  }
  return picture;
}

}  // namespace

PackedWriter::PackedWriter(const std::filesystem::path& path, std::vector<std::string> class_names)
    : file_(path), class_names_(std::move(class_names)) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw BadInput(one_line(path.string()) + ": found a directory, expected a file to write");
  }
  Header header{};
  std::memcpy(header.magic, kMagic, kMagicBytes);
  header.version = kVersion;
  write(std::as_bytes(std::span(&header, 1)));
}

void PackedWriter::write(std::span<const std::byte> bytes) {
  file_.write(bytes.data(), bytes.size());
  bytes_ += bytes.size();
}

void PackedWriter::add(Split split, std::int32_t label, const std::string& name,
                       std::span<const std::byte> picture) {
  PackedEntries& entries = entries_[static_cast<std::size_t>(split)];
  entries.labels.push_back(label);
  entries.names.push_back(name);
  entries.sizes.push_back(picture.size());
  entries.checksums.push_back(xxh64(picture));
  write(picture);
}

void PackedWriter::commit() {
  nlohmann::ordered_json index = {{"class_names", class_names_}};
  for (const Split split : {Split::train, Split::test}) {
    const PackedEntries& entries = entries_[static_cast<std::size_t>(split)];
    index[split_key(split)] = {{"labels", entries.labels},
                               {"names", entries.names},
                               {"sizes", entries.sizes},
                               {"checksums", entries.checksums}};
  }
  const std::string text = json_text(index);
  Footer footer{.index_bytes = text.size(),
                .index_checksum = xxh64(std::as_bytes(std::span(text)))};
  std::memcpy(footer.end_mark, kEndMark, kMagicBytes);
  write(std::as_bytes(std::span(text)));
  write(std::as_bytes(std::span(&footer, 1)));
  file_.commit();
}

bool is_packed(const std::filesystem::path& path) {
  char magic[kMagicBytes] = {};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic, kMagicBytes) && std::memcmp(magic, kMagic, kMagicBytes) == 0;
}

std::unique_ptr<PictureSource> open_packed(const std::filesystem::path& path, Split split) {
  return std::make_unique<PackedPictures>(path, split);
}

}  // namespace vitrine
