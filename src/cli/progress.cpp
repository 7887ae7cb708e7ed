// Progress of long work: a bar that redraws itself on a terminal, plain lines in a pipe.
//
//   epoch 3/5  ██████████▌            42%  25,012 images/s  ETA 1.4s  loss 1.842  top-1 61.2 %
//   epoch 3/5  12800/60000  loss 1.842  top-1 61.2 %  25,012 images/s
//
// The bar takes the columns the text leaves; where that is too few it goes, then the text is cut,
// so a line never wraps and can always be removed.
#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <initializer_list>

#include "io/format.h"

namespace vitrine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kShortestBar = 4, kLongestBar = 40;
constexpr const char* kClearLine = "\r\x1b[K";

std::int64_t terminal_columns(std::FILE* stream) {
  winsize size{};
  if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

/// The first of LC_ALL, LC_CTYPE and LANG that is set decides.
bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    std::string lower = value;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

std::string bar_text(double fraction, std::int64_t columns) {
  const double filled = fraction * static_cast<double>(columns);
  const auto whole = static_cast<std::int64_t>(filled);
  std::string text;
  if (!locale_is_utf8()) {
    text += '[';
    text.append(static_cast<std::size_t>(whole), '=');
    if (whole < columns) text += '>';
    text.resize(static_cast<std::size_t>(columns + 1), ' ');
    return text + "]";
  }
  const char* const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  for (std::int64_t i = 0; i < whole; ++i) text += "█";
  if (whole < columns) {
    text += eighths[static_cast<std::size_t>((filled - static_cast<double>(whole)) * 8)];
    text.append(static_cast<std::size_t>(columns - whole - 1), ' ');
  }
  return text;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string rate_text(std::int64_t done, double seconds) {
  if (done <= 0 || seconds <= 0) return "";
  return format_count(std::llround(static_cast<double>(done) / seconds)) + " images/s";
}

/// Parts that are not empty, two spaces between them.
std::string join(std::initializer_list<std::string> parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (!text.empty()) text += "  ";
    text += part;
  }
  return text;
}

}  // namespace

Progress::~Progress() {
  clear();
}

void Progress::begin(const std::string& label, std::int64_t total) {
  clear();
  label_ = label;
  total_ = total;
  start_ = Clock::now();
  if (terminal_) draw(0, "");
}

void Progress::update(std::int64_t done, const std::string& status, bool line) {
  if (terminal_) {
    if (!drawn_ || Clock::now() - last_ >= std::chrono::milliseconds(100)) draw(done, status);
    return;
  }
  if (!line) return;
  std::string count = std::to_string(done);
  if (total_ > 0) count.append("/").append(std::to_string(total_));
  const std::string text = join({label_, count, status, rate_text(done, seconds_since(start_))});
  std::fprintf(stream_, "%s\n", text.c_str());
  std::fflush(stream_);
}

void Progress::end(const std::string& summary) {
  clear();
  if (!summary.empty()) std::fprintf(stream_, "%s\n", summary.c_str());
  std::fflush(stream_);
}

void Progress::draw(std::int64_t done, const std::string& status) {
  const std::int64_t columns = terminal_columns(stream_) - 1;  // the last one would wrap
  const double elapsed = seconds_since(start_);
  std::string text = label_, after;
  if (total_ > 0) {
    const double fraction =
        std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
    const std::string percent = format_double("%3.0f", std::floor(100 * fraction)) + "%";
    std::string left;
    if (fraction > 0) left.append("ETA ").append(format_duration(elapsed * (1 / fraction - 1)));
    after = join({percent, rate_text(done, elapsed), left, status});
    const auto used = static_cast<std::int64_t>(utf8_length(text) + utf8_length(after));
    const std::int64_t room = std::min(columns - used - 6, kLongestBar);  // ends and spaces
    text = join({text, room >= kShortestBar ? bar_text(fraction, room) : "", after});
  } else {
    text = join({text, format_count(done), rate_text(done, elapsed), status});
  }
  text = utf8_prefix(text, static_cast<std::size_t>(std::max<std::int64_t>(columns, 0)));
  std::fprintf(stream_, "%s%s", kClearLine, text.c_str());
  std::fflush(stream_);
  drawn_ = true;
  last_ = Clock::now();
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs(kClearLine, stream_);
  std::fflush(stream_);
  drawn_ = false;
}

}  // namespace vitrine
