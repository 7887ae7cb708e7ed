// Small pieces of HTML. Base64 is RFC 4648, section 4.
#include "train/html.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "io/format.h"

namespace vitrine {
namespace {

std::string base64(const std::vector<std::uint8_t>& bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t given = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) group = group << 8 | (j < given ? bytes[i + j] : 0u);
    for (std::size_t j = 0; j < 4; ++j) {
      text += j <= given ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string section_heading(const std::string& title, const std::string& note) {
  return "<h2>" + title + "</h2>\n<p class=\"note\">" + note + "</p>\n";
}

std::string header_row(const Cells& cells, const std::string& style) {
  std::string html = "<tr>";
  for (const std::string& cell : cells) html += "<th" + style + ">" + cell + "</th>";
  return html + "</tr>\n";
}

std::string row(const Cells& cells) {
  std::string html = "<tr>";
  for (const std::string& cell : cells) html += "<td>" + cell + "</td>";
  return html + "</tr>\n";
}

std::string table(const std::string& rows) {
  return "<div class=\"scroll\"><table>\n" + rows + "</table></div>\n";
}

std::string bar_cell(double fraction, const std::string& style) {
  const double percent = 100 * std::clamp(fraction, 0.0, 1.0);
  return "<td class=\"bar" + style + "\"><span><i style=\"width:" + format_double("%.1f", percent) +
         "%\"></i></span></td>";
}

std::string tile(const std::string& name, const std::string& value, const std::string& note,
                 const std::string& style) {
  return "<div class=\"tile" + style + "\"><span>" + name + "</span><b>" + escape_html(value) +
         "</b><span>" + escape_html(note) + "</span></div>\n";
}

std::string html_page(const std::string& title, const std::string& style, const std::string& body,
                      const std::string& script) {
  const std::string may_run = script.empty() ? "" : "; script-src 'unsafe-inline'";
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
         "style-src 'unsafe-inline'; img-src data:" +
         may_run + "\">\n<title>" + escape_html(title) + "</title>\n<style>" + style +
         "</style>\n</head>\n<body>\n" + body +
         (script.empty() ? "" : "<script>" + script + "</script>\n") + "</body>\n</html>\n";
}

std::string png_data_uri(const Image& image) {
  return "data:image/png;base64," + base64(encode_png(image));
}

}  // namespace vitrine
