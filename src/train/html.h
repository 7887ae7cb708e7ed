// Small pieces of HTML.
#pragma once

#include <string>
#include <vector>

#include "vitrine/image.h"

namespace vitrine {

/// `text` with & < > " ' replaced, fit for an element's content and for a quoted attribute.
std::string escape_html(const std::string& text);

/// The title of a section and a line under it; both are HTML.
std::string section_heading(const std::string& title, const std::string& note);

/// Cells are HTML.
using Cells = std::vector<std::string>;
/// `style`: an attribute of each cell, with a space before it.
std::string header_row(const Cells& cells, const std::string& style = "");
std::string row(const Cells& cells);
/// Of rows; a wide one scrolls.
std::string table(const std::string& rows);
/// A cell with a bar of that length, at most 1. `style`: more classes, with a space before them.
std::string bar_cell(double fraction, const std::string& style = "");

/// A key figure: what it is, as HTML, the number, and what explains it. `style` as of
/// bar_cell.
std::string tile(const std::string& name, const std::string& value, const std::string& note,
                 const std::string& style = "");

/// A page that needs nothing else. No script but `script` may run.
std::string html_page(const std::string& title, const std::string& style, const std::string& body,
                      const std::string& script = "");

/// "data:image/png;base64,…"
std::string png_data_uri(const Image& image);

}  // namespace vitrine
