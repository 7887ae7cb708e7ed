// The device side of a batch: rows, labels, and the images they name.
#include <algorithm>

#include "vitrine/training_step.h"

namespace vitrine {

void set_rows(Executor& executor, std::span<const BatchRow> rows,
              std::span<const std::int32_t> labels, std::span<const LabelMix> mixes) {
  const std::span<BatchRow> all_rows = executor.row_input<BatchRow>("rows");
  std::fill(std::copy(rows.begin(), rows.end(), all_rows.begin()), all_rows.end(), BatchRow{});
  const std::span<std::int32_t> all_labels = executor.row_input<std::int32_t>("labels");
  std::fill(std::copy(labels.begin(), labels.end(), all_labels.begin()), all_labels.end(), -1);
  if (mixes.empty() && !executor.has_row_input("mixes")) return;
  const std::span<LabelMix> all_mixes = executor.row_input<LabelMix>("mixes");
  std::fill(std::copy(mixes.begin(), mixes.end(), all_mixes.begin()), all_mixes.end(), LabelMix{});
}

DeviceImages::DeviceImages(Device& device, const Dataset& data, std::int64_t batch, bool resident)
    : data_(data), batch_(batch) {
  if (resident) {
    images_ = device.share(data.images.data(), data.images.size(), "images");
  } else {
    ring_ = device.make_ring(static_cast<std::size_t>(batch * data.image_bytes()), "images");
  }
}

std::int64_t DeviceImages::count(const Dataset& data, std::int64_t batch, bool resident) {
  return resident ? data.size() : batch * kTransferSlots;
}

std::int64_t DeviceImages::bytes(const Dataset& data, std::int64_t batch, bool resident) {
  return count(data, batch, resident) * data.image_bytes();
}

void DeviceImages::load(std::vector<BatchRow>& rows) {
  if (!ring_) return;
  auto* slot = static_cast<std::uint8_t*>(ring_->fill());
  for (const BatchRow& row : rows) {
    slot = std::copy_n(data_.image(row.image), data_.image_bytes(), slot);
  }
  std::int64_t place = ring_->send() * batch_;
  for (BatchRow& row : rows) row.image = place++;
}

void DeviceImages::submitted() {
  if (ring_) ring_->release();
}

}  // namespace vitrine
