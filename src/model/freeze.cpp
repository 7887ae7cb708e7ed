#include "model/freeze.h"

#include <algorithm>

#include "io/json_fields.h"
#include "io/one_line.h"

namespace vitrine {
namespace {

constexpr const char* kBackbone = "backbone";

bool begins_with(const std::string& parameter, const std::string& prefix) {
  if (prefix == kBackbone) return !parameter.starts_with("head.");
  return parameter.starts_with(prefix) &&
         (parameter.size() == prefix.size() || parameter[prefix.size()] == '.');
}

// "blocks.0.norm1.weight": blocks, blocks.0, blocks.0.norm1 and the name itself.
std::vector<std::string> prefixes_of(const std::vector<Parameter>& parameters) {
  std::vector<std::string> prefixes;
  for (const Parameter& parameter : parameters) {
    const std::string& name = parameter.name;
    for (std::size_t dot = name.find('.'); dot != std::string::npos;
         dot = name.find('.', dot + 1)) {
      prefixes.push_back(name.substr(0, dot));
    }
    prefixes.push_back(name);
  }
  return prefixes;
}

}  // namespace

bool is_frozen(const std::string& parameter, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return begins_with(parameter, prefix); });
}

void check_freeze(const std::vector<std::string>& prefixes, const Graph& graph) {
  const std::vector<Parameter>& parameters = graph.parameters();
  for (const std::string& prefix : prefixes) {
    const bool found = std::any_of(parameters.begin(), parameters.end(),
                                   [&](const Parameter& p) { return begins_with(p.name, prefix); });
    if (found) continue;
    throw BadInput("freeze: found \"" + one_line(prefix) + "\", expected " + kBackbone +
                   " or the start of a parameter's name such as \"" +
                   nearest(prefix, prefixes_of(parameters)) + "\"");
  }
  if (!prefixes.empty() && graph.trained_parameter_count() == 0) {
    throw BadInput("freeze: found every parameter frozen, expected one that is trained");
  }
}

}  // namespace vitrine
