// Atomic files: whole or not at all, and nothing left behind.

#include "io/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <string>

#include "temporary_directory.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

std::ptrdiff_t entries(const std::filesystem::path& directory) {
  return std::distance(std::filesystem::directory_iterator(directory), {});
}

/// No file of this process grows beyond `bytes` while this lives: a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

template <typename E, typename Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(AtomicFile, WritesAndReplaces) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const std::string first("first\0with a zero", 17), second(300001, 'x');
  write_file(path, first);
  EXPECT_EQ(read_file(path), first);
  write_file(path, second);
  EXPECT_EQ(read_file(path), second);
  write_file(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(entries(directory.path()), 1);
}

TEST(AtomicFile, WithoutCommitNothingHappens) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "old");
  {
    AtomicFile file(directory / "file");
    file.write("new");
    EXPECT_EQ(entries(directory.path()), 2);
  }
  EXPECT_EQ(read_file(directory / "file"), "old");
  const auto interrupted = [&] {
    AtomicFile file(directory / "file");
    file.write("new");
    throw std::runtime_error("something else failed");
  };
  EXPECT_THROW(interrupted(), std::runtime_error);
  EXPECT_EQ(read_file(directory / "file"), "old");
  EXPECT_EQ(entries(directory.path()), 1);
}

TEST(AtomicFile, AFullDiskLeavesThePreviousFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(path, "old");
  const std::string big(1 << 20, 'y');
  {
    const FileSizeLimit limit(70001);
    const std::string message = message_of<IoError>([&] { write_file(path, big); });
    EXPECT_EQ(message, path.string() + ": cannot write: File too large");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(entries(directory.path()), 1);
}

TEST(AtomicFile, RefusalsNameThePathAndTheReason) {
  const TemporaryDirectory directory;
  const auto missing = directory / "no/such/file";
  EXPECT_EQ(
      message_of<IoError>([&] { AtomicFile file(missing); }),
      missing.string() + ": cannot create a file in its directory: No such file or directory");
  std::filesystem::create_directories(directory / "taken/inside");
  EXPECT_EQ(message_of<IoError>([&] { write_file(directory / "taken", "text"); }),
            (directory / "taken").string() + ": cannot replace: Is a directory");
  EXPECT_EQ(entries(directory.path()), 1);
  EXPECT_THROW(sync_directory(missing), IoError);
  EXPECT_NO_THROW(sync_directory(directory.path()));
}

TEST(AtomicFile, PassesOverNamesLeftByAKilledProcess) {
  const TemporaryDirectory directory;
  AtomicFile first(directory / "a"), second(directory / "a"), third(directory / "b");
  first.write("1");
  second.write("2");
  third.write("3");
  third.commit();
  second.commit();
  first.commit();
  EXPECT_EQ(read_file(directory / "a"), "1");
  EXPECT_EQ(read_file(directory / "b"), "3");
}

TEST(ReadFile, SaysWhatIsWrong) {
  const TemporaryDirectory directory;
  const auto missing = directory / "missing";
  EXPECT_EQ(message_of<BadInput>([&] { read_file(missing); }), missing.string() + ": no such file");
  EXPECT_EQ(message_of<BadInput>([&] { read_file(directory.path()); }),
            directory.path().string() + ": Is a directory");
  const std::string message = message_of<BadInput>([&] { read_file(directory / "two\nlines"); });
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_NE(message.find("two\\x0alines"), std::string::npos);
}

TEST(ReplaceSymlink, PointsElsewhereInOneStep) {
  const TemporaryDirectory directory;
  replace_symlink("step-1", directory / "last");
  EXPECT_EQ(std::filesystem::read_symlink(directory / "last"), "step-1");
  replace_symlink("step-2", directory / "last");
  EXPECT_EQ(std::filesystem::read_symlink(directory / "last"), "step-2");
  EXPECT_EQ(entries(directory.path()), 1);

  std::filesystem::create_directories(directory / "best/inside");
  EXPECT_THROW(replace_symlink("step-2", directory / "best"), IoError);
  EXPECT_EQ(entries(directory.path()), 2);
}

}  // namespace
}  // namespace vitrine
