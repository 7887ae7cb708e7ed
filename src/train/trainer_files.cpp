// What a training writes: checkpoints, metrics.jsonl, summary.csv, event files.
#include <nlohmann/json.hpp>

#include "io/event_file.h"
#include "io/files.h"
#include "vitrine/trainer.h"

namespace vitrine {

void Trainer::save(const std::vector<std::string>& names) {
  if (output_.empty()) return;
  device_.synchronize();
  state_.optimizer = step_.optimizer().state();
  state_.metrics =
      state_.step_in_epoch > 0 ? step_.executor().chunk_metrics() : std::vector<Metrics>{};
  const Buffer weights = step_.optimizer().host_weights();
  const Buffer first_moment = step_.optimizer().host_first_moment();
  const Buffer second_moment = step_.optimizer().host_second_moment();
  const Buffer average = step_.optimizer().host_ema();
  const TensorViews tensors(weights.as<float>(), first_moment.as<float>(),
                            second_moment.as<float>(), average.as<float>());
  save_checkpoint(output_, config_, plan_, tensors, state_, names);
}

// Made when there is something to write.
EventFile& Trainer::events() {
  if (!events_) events_ = std::make_unique<EventFile>(output_);
  return *events_;
}

void Trainer::log_epoch(const EpochRecord& r) {
  EventFile::Scalars scalars = {{"loss/test", r.test_loss},
                                {"accuracy/train_top1", r.train_top1},
                                {"accuracy/test_top1", r.test_top1},
                                {"accuracy/test_top5", r.test_top5},
                                {"speed/images_per_second", r.images_per_second},
                                {"speed/data_share", r.data_seconds / r.seconds}};
  if (r.has_ema()) {
    scalars.insert(scalars.end(), {{"loss/ema", r.ema_loss},
                                   {"accuracy/ema_top1", r.ema_top1},
                                   {"accuracy/ema_top5", r.ema_top5}});
  }
  events().add(r.step, scalars);
  events().flush();
}

// Both files are written whole from the records, so a resumed run leaves no doubled lines.
void Trainer::write_metrics() {
  if (output_.empty()) return;
  log_epoch(state_.epochs.back());
  std::string lines;
  std::string table = "epoch,train_loss,train_top1,eval_loss,eval_top1,eval_top5,lr\n";
  for (const EpochRecord& r : state_.epochs) {
    lines += to_json(r).dump() + "\n";
    char row[256];
    std::snprintf(row, sizeof row, "%lld,%.6g,%.4f,%.6g,%.4f,%.4f,%.6g\n",
                  static_cast<long long>(r.epoch), r.train_loss, 100 * r.train_top1, r.test_loss,
                  100 * r.test_top1, 100 * r.test_top5, r.learning_rate);
    table += row;
  }
  write_file(output_ / "metrics.jsonl", lines);
  write_file(output_ / "summary.csv", table);
}

}  // namespace vitrine
