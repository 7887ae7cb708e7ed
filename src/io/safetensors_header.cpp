// Parsing and checking the header of a safetensors file.
//
//   {"__metadata__": {"key": "value", …},
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}
//
// The header comes from strangers, so nothing in it is believed: it is read by a SAX handler that
// knows the one permitted nesting (no document is built, depth cannot grow, a repeated key is
// seen), and the tensors, sorted by offset, must tile the data from its first byte to its last.

#include "io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "vitrine/error.h"

namespace vitrine::safetensors {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  ///< the reference implementation's limit

std::optional<DType> parse_dtype(const std::string& name) {
  for (DType type : {DType::f32, DType::bf16, DType::f16, DType::u8, DType::i32, DType::i64}) {
    if (name == to_string(type)) return type;
  }
  return std::nullopt;
}

/// Receives the header piece by piece; everything that is not expected next is an error.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(std::string file) : file_(std::move(file)) {}

  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::outside:
        return move_to(Place::top);
      case Place::top_value:
        if (key_ == kMetadataKey) return move_to(Place::metadata);
        entries.emplace_back().name = key_;
        fields_.clear();
        return move_to(Place::tensor);
      default:
        return unexpected("an object");
    }
  }

  bool key(std::string& name) override {
    if (place_ == Place::top) {
      if (!names_.insert(name).second) fail("duplicate key " + in_quotes(name));
      key_ = name;
      return move_to(Place::top_value);
    }
    field_ = name;
    if (place_ == Place::metadata) {
      if (metadata.count(name)) fail("duplicate key " + in_quotes(name) + " in __metadata__");
      return move_to(Place::metadata_value);
    }
    if (!fields_.insert(name).second) fail_tensor("duplicate key " + in_quotes(name));
    if (name == "dtype") return move_to(Place::dtype);
    if (name == "shape" || name == "data_offsets") return move_to(Place::numbers);
    fail_tensor("unknown key " + in_quotes(name) + ", expected dtype, shape and data_offsets");
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata_value) {
      metadata.emplace(field_, value);
      return move_to(Place::metadata);
    }
    if (place_ != Place::dtype) return unexpected("a string");
    const std::optional<DType> dtype = parse_dtype(value);
    if (!dtype) {
      fail_tensor("dtype " + in_quotes(value) + ", expected F32, BF16, F16, U8, I32 or I64");
    }
    entries.back().dtype = *dtype;
    return move_to(Place::tensor);
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::numbers) return unexpected("an array");
    HeaderEntry& entry = entries.back();
    numbers_ = field_ == "shape" ? &entry.shape : &entry.offsets;
    return move_to(Place::number);
  }

  bool number_unsigned(std::uint64_t value) override {
    if (place_ != Place::number) return unexpected("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail_tensor(field_ + " holds " + std::to_string(value) + ", which is too large");
    }
    numbers_->push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool end_array() override {
    if (field_ == "data_offsets" && numbers_->size() != 2) {
      fail_tensor("data_offsets holds " + std::to_string(numbers_->size()) +
                  " numbers, expected 2");
    }
    return move_to(Place::tensor);
  }

  bool end_object() override {
    if (place_ == Place::tensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (!fields_.count(field)) fail_tensor(std::string(field) + " is missing");
      }
    }
    return move_to(Place::top);
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool binary(nlohmann::json::binary_t&) override { return unexpected("binary data"); }
  bool number_integer(std::int64_t value) override {
    return unexpected("the negative number " + std::to_string(value));
  }
  bool number_float(double, const std::string& text) override {
    return unexpected("the number " + in_quotes(text));
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    const std::string text = error.what();
    const std::string what = text.find("UTF-8") != std::string::npos ? "invalid UTF-8" : "not JSON";
    fail(what + " at byte " + std::to_string(position));
  }

 private:
  enum class Place : std::uint8_t {
    outside,
    top,
    top_value,
    metadata,
    metadata_value,
    tensor,
    dtype,
    numbers,
    number,
  };

  bool move_to(Place place) {
    place_ = place;
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw BadInput(file_ + ": header: " + what);
  }
  [[noreturn]] void fail_tensor(const std::string& what) const {
    fail("tensor " + in_quotes(key_) + ": " + what);
  }
  [[noreturn]] bool unexpected(const std::string& found) const {
    switch (place_) {
      case Place::metadata_value:
        fail("__metadata__: " + in_quotes(field_) + " is " + found + ", expected a string");
      case Place::dtype:
        fail_tensor("dtype is " + found + ", expected a string");
      case Place::numbers:
        fail_tensor(field_ + " is " + found + ", expected an array");
      case Place::number:
        fail_tensor(field_ + " holds " + found + ", expected non-negative integers");
      default:
        fail(in_quotes(key_) + " is " + found + ", expected an object");
    }
  }

  std::string file_;
  Place place_ = Place::outside;
  std::set<std::string> names_;   ///< of tensors
  std::set<std::string> fields_;  ///< of the tensor being read
  std::string key_, field_;
  std::vector<std::int64_t>* numbers_ = nullptr;
};

/// The header's text, without the spaces that pad it.
std::string_view header_text(std::string_view bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes) {
    throw BadInput(file + ": not a safetensors file: " + std::to_string(bytes.size()) +
                   " bytes, expected at least " + std::to_string(kLengthBytes));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    throw BadInput(file + ": not a safetensors file: header length " + std::to_string(length) +
                   ", expected at most " + std::to_string(kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    throw BadInput(file + ": header length " + std::to_string(length) + ", but only " +
                   std::to_string(bytes.size() - kLengthBytes) + " bytes follow");
  }
  std::string_view text = bytes.substr(kLengthBytes, length);
  if (text.empty() || text.front() != '{') {
    throw BadInput(file + ": not a safetensors file: the header does not begin with '{'");
  }
  text.remove_suffix(text.size() - 1 - text.find_last_not_of(' '));
  if (text.back() != '}') throw BadInput(file + ": header: does not end with '}' and spaces");
  return text;
}

/// Throws unless the entry's offsets lie inside the data and fit its shape.
void check_entry(const HeaderEntry& entry, std::uint64_t data_bytes, const std::string& file) {
  const std::string range =
      "data_offsets [" + std::to_string(entry.begin()) + ", " + std::to_string(entry.end()) + "]";
  const auto fail = [&](const std::string& what) {
    throw BadInput(file + ": tensor " + in_quotes(entry.name) + ": " + what);
  };
  if (entry.begin() > entry.end()) fail(range + " end before they begin");
  if (entry.end() > data_bytes) {
    fail(range + " reach beyond the " + std::to_string(data_bytes) + " bytes of data");
  }
  const std::optional<std::uint64_t> bytes = byte_size(entry.shape, entry.dtype);
  const std::string shape = one_line(Shape(entry.shape).str(), 200);
  if (!bytes) fail("shape " + shape + " is too large");
  if (entry.end() - entry.begin() != *bytes) {
    fail(range + " are " + std::to_string(entry.end() - entry.begin()) + " bytes, expected " +
         std::to_string(*bytes) + " for " + std::string(to_string(entry.dtype)) + " " + shape);
  }
}

/// Throws unless the sorted entries follow each other without overlap or hole up to the end.
void check_tiling(const std::vector<HeaderEntry>& entries, std::uint64_t data_bytes,
                  const std::string& file) {
  std::uint64_t position = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.begin() != position) {
      const bool overlap = entry.begin() < position;
      throw BadInput(file + ": tensor " + in_quotes(entry.name) + " begins at byte " +
                     std::to_string(entry.begin()) + ", expected " + std::to_string(position) +
                     (overlap ? " (overlap)" : " (hole)"));
    }
    position = entry.end();
  }
  if (position != data_bytes) {
    throw BadInput(file + ": tensors end at byte " + std::to_string(position) + " of " +
                   std::to_string(data_bytes) + " bytes of data (trailing bytes)");
  }
}

}  // namespace

// Multiplies in the order of Shape::elements, which then cannot overflow either.
std::optional<std::uint64_t> byte_size(const std::vector<std::int64_t>& shape, DType dtype) {
  std::int64_t bytes = 1;
  for (std::int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bytes, size_of(dtype), &bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

Header parse_header(std::string_view bytes, const std::string& file) {
  HeaderHandler handler(file);
  const std::string_view text = header_text(bytes, file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);

  Header header;
  header.entries = std::move(handler.entries);
  header.metadata = std::move(handler.metadata);
  std::memcpy(&header.bytes, bytes.data(), sizeof header.bytes);
  const std::uint64_t data_bytes = bytes.size() - kLengthBytes - header.bytes;
  for (const HeaderEntry& entry : header.entries) check_entry(entry, data_bytes, file);
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const HeaderEntry& a, const HeaderEntry& b) {
                     return std::pair(a.begin(), a.end()) < std::pair(b.begin(), b.end());
                   });
  check_tiling(header.entries, data_bytes, file);
  return header;
}

}  // namespace vitrine::safetensors
