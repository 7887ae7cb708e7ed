// Whether a page is well-formed.
#pragma once

#include <set>
#include <string>
#include <vector>

namespace vitrine {

/// Empty when every tag is closed in order, else what is wrong.
inline std::string unbalanced(const std::string& html) {
  const std::set<std::string> empty_elements = {"!DOCTYPE", "meta", "img", "br"};
  std::vector<std::string> open;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const std::size_t end = html.find('>', at);
    if (end == std::string::npos) return "a tag without end";
    const std::string tag = html.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos) return "< inside <" + tag + ">";
    const bool closes = tag[0] == '/';
    const std::string name = tag.substr(closes, tag.find_first_of(" /", closes) - closes);
    if (closes) {
      if (open.empty() || open.back() != name) return "unexpected <" + tag + ">";
      open.pop_back();
    } else if (tag.back() != '/' && empty_elements.count(name) == 0) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

}  // namespace vitrine
