// Kinds of operations. The colours are Paul Tol's "bright" scheme, made to be told apart by
// colour-blind readers (https://sronpersonalpages.nl/~pault/).
#include <algorithm>
#include <array>
#include <string_view>

#include "train/html.h"
#include "train/step_drawings.h"
#include "train/step_profile_figures.h"

namespace vitrine {
namespace {

enum : std::size_t { kProducts, kAttention, kNorms, kActivations, kImages, kUpdate, kOther };
constexpr std::array<Family, 7> kFamilies{{{"matrix products", "products"},
                                           {"attention", "attention"},
                                           {"normalisation", "norms"},
                                           {"activations", "activations"},
                                           {"patches and tokens", "images"},
                                           {"update", "update"},
                                           {"residuals, sums, loss", "other"}}};

struct Prefix {
  std::string_view text;
  std::size_t family;
};
constexpr Prefix kPrefixes[] = {{"matmul", kProducts},
                                {"per_head_linear", kProducts},
                                {"attention", kAttention},
                                {"layer_norm", kNorms},
                                {"activation", kActivations},
                                {"patch_embed", kImages},
                                {"patch_convolution", kImages},
                                {"tokens", kImages},
                                {"pool", kImages}};

}  // namespace

const Family& family_of(const StepOperation& operation) {
  if (operation.phase == "update") return kFamilies[kUpdate];
  for (const Prefix& prefix : kPrefixes) {
    if (operation.operation.starts_with(prefix.text)) return kFamilies[prefix.family];
  }
  return kFamilies[kOther];
}

std::string render_families(const std::vector<StepOperation>& operations) {
  std::string html = "<p class=\"families\">";
  for (const Family& family : kFamilies) {
    const bool occurs = std::any_of(operations.begin(), operations.end(), [&](const auto& other) {
      return &family_of(other) == &family;
    });
    if (!occurs) continue;
    html += std::string("<span><i class=\"") + family.style + "\"></i>" + family.name + "</span>\n";
  }
  return html + "</p>\n";
}

std::string describe_rates(double flops, double bytes, double seconds, double floor_seconds) {
  if (!(seconds > 0)) return "";
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (flops > 0) add(format_rate(flops / seconds, "FLOP/s"));
  if (bytes > 0) add(format_rate(bytes / seconds, "B/s"));
  if (floor_seconds > 0) add(format_percent(floor_seconds / seconds) + " of its roof");
  return text;
}

}  // namespace vitrine
