// The file of measured matrix products:
//
//   {"gpu": "...", "cublaslt": 130100, "hash": "16 hexadecimal digits",
//    "algorithms": {"128x768x3072 ...": "128 hexadecimal digits", ...}}
//
// The hash covers everything else: what it lets through is handed to cuBLASLt unread. An algorithm
// of zeros under the key of a bias gradient says that the gradient is summed apart.
#include "cuda/matmul_tuning.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "cuda/check.h"
#include "io/files.h"
#include "io/json_fields.h"
#include "io/one_line.h"

namespace vitrine::cuda {
namespace {

constexpr int kHexDigits = 16;  ///< of 64 bits

std::string hex(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(kHexDigits, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, value >>= 4) {
    *digit = kDigits[value & 15];
  }
  return text;
}

std::string hex(const MatmulAlgorithm& algorithm) {
  std::string text;
  for (const std::uint64_t word : algorithm) text += hex(word);
  return text;
}

/// Whether `text` is the hexadecimal form of an algorithm, which is then put into `algorithm`.
bool parse(std::string_view text, MatmulAlgorithm& algorithm) {
  if (text.size() != kHexDigits * algorithm.size()) return false;
  for (std::uint64_t& word : algorithm) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + kHexDigits, word, 16);
    if (error != std::errc() || end != text.data() + kHexDigits) return false;
    text.remove_prefix(kHexDigits);
  }
  return true;
}

std::string fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hex(hash);
}

std::uint32_t alignment_of(const void* pointer) {
  constexpr std::uintptr_t kMost = 256;
  const auto bits = reinterpret_cast<std::uintptr_t>(pointer) | kMost;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

std::string joined(std::initializer_list<std::int64_t> numbers) {
  std::string text;
  for (const std::int64_t number : numbers) {
    text += (text.empty() ? "" : ",") + std::to_string(number);
  }
  return text;
}

struct DestroyEvent {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<CUevent_st, DestroyEvent>;

Event make_event() {
  cudaEvent_t event = nullptr;
  check("cudaEventCreate", cudaEventCreate(&event));
  return Event(event);
}

}  // namespace

std::string MatmulKey::text() const {
  std::string line = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
  line += std::string(" ") + (transpose_a ? "T" : "N") + (transpose_b ? "T" : "N");
  line += " " + std::string(to_string(dtype)) + "->" + std::string(to_string(out_dtype));
  if (tf32) line += " tf32";
  if (bias) line += " bias";
  if (bias_gradient) line += " bias_gradient";
  if (accumulate) line += " accumulate";
  line += " leading " + joined({out_leading, a_leading, b_leading});
  if (batch > 1) {
    line += " batch " + std::to_string(batch) + " strides " +
            joined({out_stride, a_stride, b_stride, bias_stride});
  }
  return line + " aligned " + joined({out_alignment, a_alignment, b_alignment, bias_alignment});
}

MatmulKey key_of(const BatchedMatmul& args) {
  const bool batched = args.batch > 1, bias = args.bias != nullptr;
  return {.m = args.m,
          .n = args.n,
          .k = args.k,
          .batch = args.batch,
          .out_leading = args.out_leading,
          .a_leading = args.a_leading,
          .b_leading = args.b_leading,
          .out_stride = batched ? args.out_stride : 0,
          .a_stride = batched ? args.a_stride : 0,
          .b_stride = batched ? args.b_stride : 0,
          .bias_stride = batched && bias ? args.bias_stride : 0,
          .dtype = args.dtype,
          .out_dtype = args.out_dtype,
          .transpose_a = args.transpose_a,
          .transpose_b = args.transpose_b,
          .bias = bias,
          .bias_gradient = args.bias_gradient != nullptr,
          .accumulate = args.accumulate,
          .tf32 = args.tf32 && args.dtype == DType::f32,
          .out_alignment = alignment_of(args.out),
          .a_alignment = alignment_of(args.a),
          .b_alignment = alignment_of(args.b),
          .bias_alignment = alignment_of(bias ? args.bias : args.bias_gradient)};
}

MatmulTuning::MatmulTuning(std::filesystem::path path, std::string gpu,
                           std::uint64_t library_version)
    : path_(std::move(path)), gpu_(std::move(gpu)), library_version_(library_version) {
  std::error_code unreadable;  // the reason of anything but absence comes from reading
  const auto type = std::filesystem::status(path_, unreadable).type();
  if (has_file() && type != std::filesystem::file_type::not_found) read();
}

void MatmulTuning::read() {
  const std::string source = one_line(path_.string());
  const nlohmann::json json = parse_json(read_file(path_), source);
  JsonReader reader(json, source);
  for (const char* key : {"gpu", "cublaslt", "hash", "algorithms"}) {
    if (!reader.has(key)) throw BadInput(source + ": " + key + ": found nothing, expected a value");
  }
  std::string gpu, hash_found;
  std::uint64_t version = 0;
  reader("gpu", gpu);
  reader("cublaslt", version);
  reader("hash", hash_found);
  reader.also_known("algorithms");
  reader.finish();
  if (gpu != gpu_) {
    throw BadInput(complaint("gpu: found \"" + one_line(gpu) + "\", expected \"" + gpu_ + "\""));
  }
  if (version != library_version_) {
    throw BadInput(complaint("cublaslt: found version " + std::to_string(version) + ", expected " +
                             std::to_string(library_version_)));
  }
  const nlohmann::json& algorithms = json["algorithms"];
  if (!algorithms.is_object()) reader.fail("algorithms", algorithms, "an object");
  for (const auto& [key, value] : algorithms.items()) {
    MatmulAlgorithm algorithm{};
    if (!value.is_string() || !parse(value.get_ref<const std::string&>(), algorithm)) {
      throw BadInput(complaint("algorithms: " + one_line(key) + ": found " +
                               one_line(value.dump()) + ", expected 128 hexadecimal digits"));
    }
    algorithms_[key] = algorithm;
  }
  if (const std::string hash = hash_of(algorithms_); hash_found != hash) {
    throw BadInput(
        complaint("hash: found \"" + one_line(hash_found) + "\", expected \"" + hash + "\""));
  }
}

const MatmulAlgorithm* MatmulTuning::find(const MatmulKey& key) const {
  if (!has_file()) return nullptr;
  const auto found = algorithms_.find(key.text());
  return found == algorithms_.end() ? nullptr : &found->second;
}

void MatmulTuning::add(const MatmulKey& key, const MatmulAlgorithm& algorithm) {
  algorithms_[key.text()] = algorithm;
  changed_ = true;
}

void MatmulTuning::use(const MatmulKey& key) {
  const auto found = algorithms_.find(key.text());
  if (found != algorithms_.end()) used_.insert(*found);
}

void MatmulTuning::save() {
  if (!has_file() || !changed_) return;
  nlohmann::ordered_json json;
  json["gpu"] = gpu_;
  json["cublaslt"] = library_version_;
  json["hash"] = hash_of(algorithms_);
  json["algorithms"] = nlohmann::ordered_json::object();
  for (const auto& [key, algorithm] : algorithms_) json["algorithms"][key] = hex(algorithm);
  write_file(path_, json.dump(2) + "\n");
  changed_ = false;
}

std::string MatmulTuning::hash() const {
  return has_file() ? hash_of(used_) : "";
}

std::string MatmulTuning::hash_of(const Algorithms& algorithms) const {
  std::string content = gpu_ + "\n" + std::to_string(library_version_) + "\n";
  for (const auto& [key, algorithm] : algorithms) content += key + "=" + hex(algorithm) + "\n";
  return fnv1a(content);
}

std::string MatmulTuning::complaint(const std::string& what) const {
  return one_line(path_.string()) + ": " + what + "; deleting the file makes a new one";
}

float measured_milliseconds(cudaStream_t stream, const std::function<void()>& run) {
  constexpr int kRuns = 7;
  const Event begin = make_event(), end = make_event();
  std::array<float, kRuns> times{};
  run();
  for (float& time : times) {
    check("cudaEventRecord", cudaEventRecord(begin.get(), stream));
    run();
    check("cudaEventRecord", cudaEventRecord(end.get(), stream));
    check("cudaEventSynchronize", cudaEventSynchronize(end.get()));
    check("cudaEventElapsedTime", cudaEventElapsedTime(&time, begin.get(), end.get()));
  }
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

}  // namespace vitrine::cuda
