// What `vitrine train` prints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "cli/progress.h"
#include "vitrine/trainer.h"

namespace vitrine {

/// Prints what happens: a bar on a terminal, lines in a pipe, JSON lines with --json.
class Console final : public TrainObserver {
 public:
  Console(bool json, std::int64_t epochs);

  void on_epoch_begin(std::int64_t epoch, std::int64_t images) override;
  void on_step(std::int64_t images) override;
  void on_log(std::int64_t images, const StepRecord& record, double top1,
              std::int64_t skipped) override;
  void on_notice(const std::string& line) override;
  void on_evaluate(std::int64_t images, std::int64_t of) override;
  void on_epoch_end(const EpochRecord& r, bool best) override;

 private:
  bool json_;
  std::int64_t epochs_;
  bool evaluating_ = false;
  std::string status_;
  Progress progress_;
};

/// Device, model, data, plan and where the run goes.
void print_header(const RunConfig& config, const Trainer& trainer, const Device& device,
                  const Dataset& train, const Dataset& test, const std::filesystem::path& output);
/// How long the training waited for its images.
void print_data(const Trainer& trainer);
/// What came from an initial checkpoint.
void print_weights(const RunConfig& config, const WeightReport& report);

}  // namespace vitrine
