// IDX, the format of the MNIST family: big-endian magic 0x00000803 (images: count, rows, columns)
// or 0x00000801 (labels: count), then bytes.             http://yann.lecun.com/exdb/mnist
//
// zlib's gz functions read compressed and plain files alike. Memory grows with what the file
// really holds, whatever its header claims.

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>

#include "data/loaders.h"
#include "io/files.h"
#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr std::uint32_t kImagesMagic = 0x803, kLabelsMagic = 0x801;
constexpr std::uint32_t kMaxSide = 65535;
constexpr std::int64_t kClasses = 10;

/// Reads numbers and bytes from an IDX file, plain or compressed.
class IdxReader {
 public:
  explicit IdxReader(const std::filesystem::path& path)
      : name_(one_line(path.string())), file_(gzopen(path.c_str(), "rb"), gzclose_r) {
    std::error_code unknown;
    const std::uintmax_t bytes = std::filesystem::file_size(path, unknown);
    if (!unknown) file_bytes_ = bytes;
    if (!file_) throw BadInput(name_ + ": " + std::generic_category().message(errno));
    constexpr unsigned kBuffer = 1u << 17;
    gzbuffer(file_.get(), kBuffer);
  }

  std::uint32_t number() {
    unsigned char bytes[4];
    if (read(bytes, sizeof bytes) != sizeof bytes) fail("short file: the header is incomplete");
    return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
           std::uint32_t{bytes[2]} << 8 | bytes[3];
  }

  void expect_magic(std::uint32_t expected, const char* what) {
    const std::uint32_t magic = number();
    if (magic != expected) {
      fail("magic number " + std::to_string(magic) + ", expected " + std::to_string(expected) +
           " (" + what + ")");
    }
  }

  /// The rest of the file, which must be `bytes` long.
  std::vector<std::uint8_t> rest(std::uint64_t bytes) {
    constexpr std::uint64_t kStep = 1u << 20;
    // Deflate makes at most 1032 bytes of one; more is not set aside on the header's word.
    constexpr std::uint64_t kLargestRatio = 1032;
    std::vector<std::uint8_t> values;
    values.reserve(std::min(bytes, file_bytes_ * kLargestRatio));
    while (values.size() < bytes) {
      const std::size_t used = values.size();
      const std::uint64_t step = std::min(bytes - used, std::max<std::uint64_t>(kStep, used));
      values.resize(used + std::min<std::uint64_t>(step, kStep * 512));
      const std::size_t got = read(values.data() + used, values.size() - used);
      if (got < values.size() - used) {
        fail("short file: " + std::to_string(used + got) + " bytes after the header, expected " +
             std::to_string(bytes));
      }
    }
    unsigned char extra = 0;
    if (read(&extra, 1) != 0) {
      fail("trailing bytes: expected " + std::to_string(bytes) + " after the header");
    }
    return values;
  }

  [[noreturn]] void fail(const std::string& what) const { throw BadInput(name_ + ": " + what); }

 private:
  std::size_t read(unsigned char* out, std::size_t bytes) {
    const int got = gzread(file_.get(), out, static_cast<unsigned>(bytes));
    int code = Z_OK;
    const char* text = gzerror(file_.get(), &code);
    if (code == Z_BUF_ERROR) fail("short file: the compressed data ends early");
    if (got < 0 || code != Z_OK) {
      fail(code == Z_ERRNO ? std::generic_category().message(errno)
                           : "damaged compressed data: " + one_line(text));
    }
    return static_cast<std::size_t>(got);
  }

  std::string name_;
  std::uint64_t file_bytes_ = 0;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

std::filesystem::path find_idx(const std::filesystem::path& directory, const std::string& folder,
                               const std::string& split, const char* what, const char* kind) {
  const std::string site = split + "-" + what + "." + kind,
                    torchvision = split + "-" + what + "-" + kind;
  return find_file(directory, {"", folder}, {torchvision, torchvision + ".gz", site, site + ".gz"});
}

void read_images(const std::filesystem::path& path, Dataset& dataset, std::int64_t& count) {
  IdxReader reader(path);
  reader.expect_magic(kImagesMagic, "images");
  const std::uint32_t images = reader.number(), rows = reader.number(), columns = reader.number();
  if (images == 0 || rows == 0 || columns == 0 || rows > kMaxSide || columns > kMaxSide) {
    reader.fail(std::to_string(images) + " images of " + std::to_string(rows) + " x " +
                std::to_string(columns) + ", expected at least one and sides of 1 to " +
                std::to_string(kMaxSide));
  }
  count = images;
  dataset.channels = 1;
  dataset.height = rows;
  dataset.width = columns;
  const std::uint64_t pixels = std::uint64_t{rows} * columns;
  dataset.images = reader.rest(pixels * images);  // 16 + 16 + 32 bits
}

void read_labels(const std::filesystem::path& path, Dataset& dataset, std::int64_t images) {
  IdxReader reader(path);
  reader.expect_magic(kLabelsMagic, "labels");
  const std::int64_t count = reader.number();
  if (count != images) {
    reader.fail(std::to_string(count) + " labels, expected " + std::to_string(images) +
                " as there are images");
  }
  const std::vector<std::uint8_t> labels = reader.rest(static_cast<std::uint64_t>(count));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= kClasses) {
      reader.fail("label " + std::to_string(labels[i]) + " of image " + std::to_string(i) +
                  ", expected 0 to " + std::to_string(kClasses - 1));
    }
  }
  dataset.labels.assign(labels.begin(), labels.end());
}

void append_number(std::string& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}

}  // namespace

Dataset load_idx(const std::string& name, const std::filesystem::path& directory,
                 const std::string& folder, std::vector<std::string> class_names, Split split) {
  const std::string prefix = split == Split::train ? "train" : "t10k";
  const std::filesystem::path images = find_idx(directory, folder, prefix, "images", "idx3-ubyte");
  const std::filesystem::path labels = find_idx(directory, folder, prefix, "labels", "idx1-ubyte");
  Dataset dataset;
  dataset.name = name;
  dataset.class_names = std::move(class_names);
  std::int64_t count = 0;
  read_images(images, dataset, count);
  read_labels(labels, dataset, count);
  return dataset;
}

void write_idx(const Dataset& dataset, const std::filesystem::path& directory, Split split) {
  if (dataset.channels != 1) {
    throw BadInput(dataset.name + ": IDX files hold grey images, found " +
                   std::to_string(dataset.channels) + " channels");
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw IoError(one_line(directory.string()) + ": cannot create: " + error.message());

  const std::string prefix = split == Split::train ? "train" : "t10k";
  const auto count = static_cast<std::uint32_t>(dataset.size());
  std::string header;
  append_number(header, kImagesMagic);
  append_number(header, count);
  append_number(header, static_cast<std::uint32_t>(dataset.height));
  append_number(header, static_cast<std::uint32_t>(dataset.width));
  AtomicFile images(directory / (prefix + "-images-idx3-ubyte"));
  images.write(header);
  images.write(dataset.images.data(), dataset.images.size());

  std::string labels;
  append_number(labels, kLabelsMagic);
  append_number(labels, count);
  for (std::int32_t label : dataset.labels) labels += static_cast<char>(label);
  images.commit();
  write_file(directory / (prefix + "-labels-idx1-ubyte"), labels);
}

}  // namespace vitrine
