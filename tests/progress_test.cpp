// Progress: what reaches a terminal and what reaches a pipe, and numbers as people read them.
#include "cli/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <thread>

#include "io/format.h"

namespace vitrine {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string contents(std::FILE* file) {
  std::string text;
  std::rewind(file);
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  return text;
}

/// What is left of `text` on a terminal's line, and the columns of the widest state it had.
struct Screen {
  std::string line;
  std::size_t widest = 0;
};

Screen play(const std::string& text) {
  const std::string clear = "\r\x1b[K";
  Screen screen;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, clear.size(), clear) == 0) {
      screen.line.clear();
      i += clear.size() - 1;
      continue;
    }
    screen.line += text[i];
    screen.widest = std::max(screen.widest, utf8_length(screen.line));
  }
  return screen;
}

/// The bar as drawn in a locale.
std::string drawn(const std::string& locale, const std::string& label, std::int64_t done,
                  const std::string& status) {
  ::setenv("LC_ALL", locale.c_str(), 1);
  const File file(std::tmpfile());
  Progress progress(file.get(), true);
  progress.begin(label, 60000);
  progress.end("");  // so that the next update need not wait for the next redraw
  progress.update(done, status);
  const std::string text = contents(file.get());
  ::unsetenv("LC_ALL");
  return text;
}

TEST(Progress, APipeGetsPlainLines) {
  const File file(std::tmpfile());
  {
    Progress progress(file.get(), false);
    progress.begin("epoch 1/5", 60000);
    progress.update(6400, "loss 2.201");
    progress.update(12800, "loss 2.105  top-1 31.0 %", true);
    progress.end("epoch 1/5  done");
    progress.begin("evaluating", 0);
    progress.update(0, "", true);
  }
  const std::string text = contents(file.get());
  const std::string first = "epoch 1/5  12800/60000  loss 2.105  top-1 31.0 %  ";
  EXPECT_EQ(text.substr(0, first.size()), first);
  EXPECT_NE(text.find(" images/s\nepoch 1/5  done\nevaluating  0\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("6400"), std::string::npos);
  for (const char c : text) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20);
}

TEST(Progress, ATerminalGetsOneLineThatNeverWraps) {
  for (const std::string locale : {"C", "de_DE.UTF-8", "en_US.utf8"}) {
    for (const std::size_t length : {std::size_t{3}, std::size_t{40}, std::size_t{300}}) {
      SCOPED_TRACE(locale + ", label of " + std::to_string(length));
      const std::string text =
          drawn(locale, std::string(length, 'x'), 43210, "loss 1.842  top-1 61.2 %");
      const Screen screen = play(text);
      EXPECT_LE(screen.widest, 79u);
      EXPECT_EQ(text.find('\n'), std::string::npos);
      if (length < 100) {
        EXPECT_NE(screen.line.find("72%"), std::string::npos);
      }
    }
  }
}

TEST(Progress, TheBarFollowsTheLocale) {
  const std::string ascii = play(drawn("C", "epoch", 30000, "")).line;
  EXPECT_NE(ascii.find("[=="), std::string::npos) << ascii;
  EXPECT_NE(ascii.find("==>"), std::string::npos) << ascii;
  for (const char c : ascii) EXPECT_LT(static_cast<unsigned char>(c), 0x7F);
  EXPECT_NE(drawn("C.UTF-8", "epoch", 30000, "").find("██"), std::string::npos);
}

TEST(Progress, EightyColumnsHoldABarAndItsNumbers) {
  ::setenv("LC_ALL", "C", 1);
  const File file(std::tmpfile());
  Progress progress(file.get(), true);
  progress.begin("epoch 3/5", 100);
  progress.end("");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // at most 2,500 images/s
  progress.update(50, "loss 1.842  top-1 61.2 %");
  const std::string line = play(contents(file.get())).line;
  ::unsetenv("LC_ALL");
  for (const char* part :
       {"epoch 3/5  [=", "]   50%  ", " images/s  ETA ", "s  loss 1.842  top-1 61.2 %"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
  }
}

TEST(Progress, CountsBeyondTheTotalAreFull) {
  EXPECT_NE(drawn("C", "epoch", 70000, "").find("100%"), std::string::npos);
  EXPECT_NE(drawn("C", "epoch", -1, "").find("0%"), std::string::npos);
}

TEST(Progress, RedrawsAreRare) {
  const File file(std::tmpfile());
  Progress progress(file.get(), true);
  progress.begin("epoch", 100000);
  const std::size_t before = contents(file.get()).size();
  const auto start = std::chrono::steady_clock::now();
  std::int64_t updates = 0;
  while (updates < 1000) progress.update(++updates, "");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LE(static_cast<double>(contents(file.get()).size() - before), 80 * (seconds * 10 + 1));
}

TEST(Progress, TheBarIsRemoved) {
  const File file(std::tmpfile());
  {
    Progress progress(file.get(), true);
    progress.begin("epoch", 100);
    progress.end("summary");
    progress.begin("left by an exception", 100);
  }
  const std::string text = contents(file.get());
  EXPECT_NE(text.find("\r\x1b[Ksummary\n"), std::string::npos);
  EXPECT_TRUE(play(text.substr(text.find('\n') + 1)).line.empty());
}

TEST(Format, Duration) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(12.34), "12.3s");
  EXPECT_EQ(format_duration(59.94), "59.9s");
  EXPECT_EQ(format_duration(59.96), "1m 00s");
  EXPECT_EQ(format_duration(65), "1m 05s");
  EXPECT_EQ(format_duration(3599.6), "1h 00m");
  EXPECT_EQ(format_duration(7380), "2h 03m");
  EXPECT_EQ(format_duration(360000), "100h 00m");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, Count) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(12345), "12,345");
  EXPECT_EQ(format_count(86567656), "86,567,656");
  EXPECT_EQ(format_count(-999), "-999");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
  EXPECT_EQ(format_count(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1023.9), "1.0 KiB");
  EXPECT_EQ(format_bytes(1.2 * 1024 * 1024), "1.2 MiB");
  EXPECT_EQ(format_bytes(1024.0 * 1024 * 1024 - 1), "1.0 GiB");
  EXPECT_EQ(format_bytes(std::nan("")), "?");
}

TEST(Format, Utf8IsNeverCutInsideACharacter) {
  EXPECT_EQ(utf8_length("Käfer 🐞"), 7u);
  EXPECT_EQ(utf8_prefix("Käfer 🐞", 2), "Kä");
  EXPECT_EQ(utf8_prefix("Käfer 🐞", 6), "Käfer ");
  EXPECT_EQ(utf8_prefix("Käfer 🐞", 99), "Käfer 🐞");
  EXPECT_EQ(utf8_prefix("Käfer", 0), "");
}

}  // namespace
}  // namespace vitrine
