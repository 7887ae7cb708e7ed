// Small pieces of HTML.
#pragma once

#include <string>

#include "vitrine/image.h"

namespace vitrine {

/// `text` with & < > " ' replaced, fit for an element's content and for a quoted attribute.
std::string escape_html(const std::string& text);

/// "data:image/png;base64,…"
std::string png_data_uri(const Image& image);

}  // namespace vitrine
