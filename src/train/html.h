// Small pieces of HTML.
#pragma once

#include <string>

#include "vitrine/image.h"

namespace vitrine {

/// `text` with & < > " ' replaced, fit for an element's content and for a quoted attribute.
std::string escape_html(const std::string& text);

/// The title of a section and a line under it; both are HTML.
std::string section_heading(const std::string& title, const std::string& note);

/// "data:image/png;base64,…"
std::string png_data_uri(const Image& image);

}  // namespace vitrine
