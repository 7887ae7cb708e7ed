// Which parameters of a model stay as they are.
#pragma once

#include <string>
#include <vector>

#include "vitrine/graph.h"

namespace vitrine {

/// Whether one of the prefixes is the name's start up to a dot, or the whole name. "backbone"
/// stands for everything but the head.
bool is_frozen(const std::string& parameter, const std::vector<std::string>& prefixes);

/// Throws BadInput for a prefix that no parameter of the graph begins with (naming the nearest that
/// one does), and when nothing is left to train.
void check_freeze(const std::vector<std::string>& prefixes, const Graph& graph);

}  // namespace vitrine
