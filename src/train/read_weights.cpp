// Weights of a safetensors file, whatever its names, for a model that may have another head and
// another grid of patches.
//
// The mapped file is checked first and converted into its place afterwards, so that nothing has
// changed when an error is found and no tensor is held twice.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "io/one_line.h"
#include "model/tensor_names.h"
#include "vitrine/conversion.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPositions = "pos_embed";

/// Names for one line of text: the first few, and how many more.
class ShortList {
 public:
  void add(const std::string& item) {
    constexpr int kShown = 6;
    if (++count_ <= kShown) text_ += (count_ > 1 ? ", " : "") + item;
    more_ = std::max(0, count_ - kShown);
  }
  std::string str(const std::string& title) const {
    if (count_ == 0) return "";
    return title + text_ + (more_ > 0 ? " and " + std::to_string(more_) + " more" : "");
  }

 private:
  std::string text_;
  int count_ = 0, more_ = 0;
};

std::string text(const PatchGrid& grid) {
  return std::to_string(grid.rows) + "x" + std::to_string(grid.columns);
}

bool is_head(const Parameter& parameter) {
  return parameter.name.starts_with("head.");
}

template <typename Word>
bool any_not_finite(const SafetensorsEntry& entry, Word exponent) {
  for (std::size_t i = 0; i < entry.bytes; i += sizeof(Word)) {
    Word bits = 0;
    std::memcpy(&bits, entry.data + i, sizeof bits);
    if ((bits & exponent) == exponent) return true;
  }
  return false;
}

bool is_finite(const SafetensorsEntry& entry) {
  if (entry.dtype == DType::f32) return !any_not_finite<std::uint32_t>(entry, 0x7F800000u);
  return !any_not_finite<std::uint16_t>(entry, entry.dtype == DType::bf16 ? 0x7F80 : 0x7C00);
}

std::span<const char> bytes_of(const SafetensorsEntry& entry) {
  return {reinterpret_cast<const char*>(entry.data), entry.bytes};
}

class WeightReader {
 public:
  WeightReader(const fs::path& path, const VitConfig& config, const Plan& plan,
               const Adaptation& adaptation)
      : file_(path),
        names_(detect_names(file_)),
        config_(config),
        plan_(plan),
        adaptation_(adaptation),
        source_(one_line(path.string())) {
    report_.naming = names_.naming;
  }

  WeightReport read(std::vector<float>& weights) {
    const std::vector<Parameter>& parameters = plan_.graph().parameters();
    const bool head_fits = std::all_of(parameters.begin(), parameters.end(),
                                       [&](const auto& p) { return !is_head(p) || fits(p); });
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const bool stays = adaptation_.new_head && !head_fits && is_head(parameters[i]);
      place(parameters[i], plan_.parameter_offset(static_cast<int>(i)), stays);
    }
    check_rest();
    check_problems(head_fits);
    for (const Placed& placed : placed_) check_numbers(*placed.entry);
    std::vector<float> positions = positions_ ? resampled() : std::vector<float>{};
    for (const Placed& placed : placed_) {
      float* to = weights.data() + placed.offset;
      if (positions_ && placed.entry == positions_->entry) {
        std::copy(positions.begin(), positions.end(), to);
      } else {
        to_floats(bytes_of(*placed.entry), placed.entry->dtype, to);
      }
    }
    return std::move(report_);
  }

 private:
  /// A tensor of the file and where it goes.
  struct Placed {
    const SafetensorsEntry* entry;
    std::int64_t offset;
  };
  struct Resampling {
    const SafetensorsEntry* entry;
    PatchGrid from, to;
  };

  static Shape part_of(Shape shape, std::size_t parts) {
    if (parts == 1) return shape;
    std::vector<std::int64_t> sizes(shape.sizes().begin(), shape.sizes().end());
    sizes[0] /= static_cast<std::int64_t>(parts);
    return Shape(sizes);
  }

  bool fits(const Parameter& parameter) const {
    const std::vector<std::string> names = names_.of(parameter.name);
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      const SafetensorsEntry* entry = file_.find(name);
      return entry != nullptr && entry->shape == part_of(parameter.shape, names.size());
    });
  }

  /// Rows of the position table that are no patch's.
  std::int64_t other_rows() const { return config_.position_tokens() - config_.patches(); }

  // The grid of a table's positions: the one that is known, or, as timm assumes, a square.
  std::optional<PatchGrid> grid_of(const SafetensorsEntry& entry, const Shape& expected) const {
    const bool own_length =
        config_.position_rows == 0 || config_.position_rows == config_.position_tokens();
    const Shape& shape = entry.shape;
    if (!own_length || shape.rank() != 3 || shape[0] != 1 || shape[2] != expected[2]) return {};
    const std::int64_t patches = shape[1] - other_rows();
    if (const auto& known = adaptation_.grid) {
      return known->rows * known->columns == patches ? known : std::nullopt;
    }
    const auto side = static_cast<std::int64_t>(
        std::llround(std::sqrt(static_cast<double>(std::max<std::int64_t>(patches, 0)))));
    if (side == 0 || side * side != patches) return {};
    return PatchGrid{side, side};
  }

  /// Whether another grid's positions have been found and will be interpolated.
  bool resamples(const SafetensorsEntry& entry, const Shape& expected) {
    const std::optional<PatchGrid> from = grid_of(entry, expected);
    const PatchGrid to{config_.image_height / config_.patch_size,
                       config_.image_width / config_.patch_size};
    if (!from || *from == to || (!adaptation_.grid && entry.shape == expected)) return false;
    if (!adaptation_.new_resolution) {
      if (adaptation_.grid) known_grids_ = text(*from) + " patches, expected " + text(to);
      other_grid_ = adaptation_.grid || entry.shape != expected;
      return false;
    }
    positions_ = Resampling{&entry, *from, to};
    report_.positions = text(*from) + " to " + text(to);
    return true;
  }

  // The file's name, and ours where it differs.
  std::string label(const std::string& theirs, const std::string& ours) const {
    return theirs == ours ? theirs : theirs + " (" + ours + ")";
  }

  void place(const Parameter& parameter, std::int64_t offset, bool stays) {
    const std::vector<std::string> names = names_.of(parameter.name);
    const Shape expected = part_of(parameter.shape, names.size());
    known_.insert(names.begin(), names.end());
    ++report_.parameters;
    if (stays) {
      report_.initial.push_back(parameter.name);
      return;
    }
    ++report_.loaded;
    for (const std::string& name : names) {
      const SafetensorsEntry* entry = file_.find(name);
      if (entry == nullptr) {
        missing_.add(label(name, parameter.name));
        continue;
      }
      const bool resampled = parameter.name == kPositions && resamples(*entry, expected);
      if (!resampled && entry->shape != expected) {
        misshaped_.add(label(name, parameter.name) + " (found " +
                       one_line(entry->shape.str(), 200) + ", expected " + expected.str() + ")");
      } else if (!resampled && parameter.name == kPositions && other_grid_) {
        misshaped_.add(label(name, parameter.name) + " (found " + known_grids_ + ")");
      }
      placed_.push_back({entry, offset});
      offset += expected.elements();
    }
  }

  void check_rest() {
    for (const SafetensorsEntry& entry : file_.entries()) {
      if (known_.contains(entry.name)) continue;
      if (names_.ignores(entry.name)) {
        report_.ignored.push_back(entry.name);
      } else {
        unexpected_.add(one_line(entry.name, 200));
      }
    }
  }

  void check_problems(bool head_fits) const {
    const std::string problem = missing_.str("; missing ") + unexpected_.str("; unexpected ") +
                                misshaped_.str("; wrong shape ");
    if (problem.empty()) return;
    std::string advice;
    if (!head_fits && !adaptation_.new_head) {
      advice +=
          "; train with --num-classes " + std::to_string(config_.num_classes) + " makes a new head";
    }
    if (other_grid_) {
      const std::string height = std::to_string(config_.image_height);
      const std::string width = std::to_string(config_.image_width);
      advice += "; train with --image-size " + (height == width ? height : height + "," + width) +
                " interpolates positions";
    }
    throw BadInput(source_ + ": does not fit the model (" + std::string(to_string(names_.naming)) +
                   " names)" + problem + advice);
  }

  void check_numbers(const SafetensorsEntry& entry) const {
    const std::string where = source_ + ": " + one_line(entry.name, 200);
    if (entry.dtype != DType::f32 && entry.dtype != DType::bf16 && entry.dtype != DType::f16) {
      throw BadInput(where + ": found dtype " + std::string(to_string(entry.dtype)) +
                     ", expected F32, BF16 or F16");
    }
    if (!is_finite(entry)) {
      throw BadInput(where + ": found NaN or infinity, expected finite numbers");
    }
  }

  // The rows of class token and registers stay where they are.
  std::vector<float> resampled() const {
    const auto& [entry, from, to] = *positions_;
    const std::int64_t hidden = config_.hidden_size;
    const std::vector<float> table = as_floats(bytes_of(*entry), entry->dtype);
    const std::span<const float> rows(table);
    const auto patch_floats = static_cast<std::size_t>(from.rows * from.columns * hidden);
    const auto before = static_cast<std::size_t>(config_.first_patch_position() * hidden);
    std::vector<float> result(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(before));
    const std::vector<float> patches =
        resample_positions(rows.subspan(before, patch_floats), from, to, hidden);
    result.insert(result.end(), patches.begin(), patches.end());
    const std::span<const float> after = rows.subspan(before + patch_floats);
    result.insert(result.end(), after.begin(), after.end());
    return result;
  }

  SafetensorsFile file_;
  TensorNames names_;
  const VitConfig& config_;
  const Plan& plan_;
  Adaptation adaptation_;
  std::string source_;
  WeightReport report_;
  std::set<std::string> known_;
  ShortList missing_, unexpected_, misshaped_;
  std::vector<Placed> placed_;
  std::optional<Resampling> positions_;
  bool other_grid_ = false;  ///< positions that an interpolation would make fit
  std::string known_grids_;  ///< the file's and ours, where the file's is known
};

}  // namespace

std::string WeightReport::str() const {
  std::string line = std::string(to_string(naming)) + " names, " + std::to_string(loaded) + " of " +
                     std::to_string(parameters) + " tensors";
  if (!initial.empty()) line += ", new head";
  if (!positions.empty()) line += ", positions " + positions;
  ShortList list;
  for (const std::string& name : ignored) list.add(name);
  return line + list.str(", ignored ");
}

WeightReport read_weights(const fs::path& file, const VitConfig& config, const Plan& plan,
                          const Adaptation& adaptation, std::vector<float>& weights) {
  return WeightReader(file, config, plan, adaptation).read(weights);
}

std::vector<float> start_weights(const RunConfig& config, const Plan& plan,
                                 const Adaptation& adaptation,
                                 std::optional<WeightReport>& report) {
  std::vector<float> weights = initial_weights(config.model, plan, config.recipe.seed);
  const std::string& from = config.recipe.initial_checkpoint;
  if (!from.empty()) {
    report = read_weights(weights_file(from), config.model, plan, adaptation, weights);
  }
  return weights;
}

}  // namespace vitrine
