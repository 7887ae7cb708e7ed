// Counting and naming pictures that could not be used.
#include <map>
#include <mutex>

#include "vitrine/error.h"
#include "vitrine/image_folder.h"

namespace vitrine {

struct BrokenPictures::List {
  const std::int64_t of;
  mutable std::mutex mutex;
  std::map<std::int64_t, std::string> messages;  ///< by picture
};

BrokenPictures::BrokenPictures(std::int64_t of) : list_(new List{.of = of}) {}
BrokenPictures::~BrokenPictures() = default;

void BrokenPictures::add(std::int64_t picture, const std::string& message) {
  const std::lock_guard lock(list_->mutex);
  list_->messages.emplace(picture, message);
  const auto count = static_cast<std::int64_t>(list_->messages.size());
  if (count > 1 && 100 * count > list_->of) {
    throw BadInput(std::to_string(count) + " of " + std::to_string(list_->of) +
                   " pictures are broken, expected at most 1 %; the first: " +
                   list_->messages.begin()->second);
  }
}

std::int64_t BrokenPictures::count() const {
  const std::lock_guard lock(list_->mutex);
  return static_cast<std::int64_t>(list_->messages.size());
}

std::vector<std::string> BrokenPictures::messages() const {
  const std::lock_guard lock(list_->mutex);
  std::vector<std::string> messages;
  for (const auto& [picture, message] : list_->messages) messages.push_back(message);
  return messages;
}

}  // namespace vitrine
