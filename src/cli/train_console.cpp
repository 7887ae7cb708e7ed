#include "cli/train_console.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "io/one_line.h"

namespace vitrine {

Console::Console(bool json, std::int64_t epochs)
    : json_(json), epochs_(epochs), progress_(stderr, isatty(STDERR_FILENO) != 0) {}

void Console::on_epoch_begin(std::int64_t epoch, std::int64_t images) {
  if (json_) return;
  progress_.begin("Epoch " + std::to_string(epoch) + "/" + std::to_string(epochs_), images);
}

void Console::on_step(std::int64_t images) {
  if (!json_) progress_.update(images, status_);
}

void Console::on_log(std::int64_t images, const StepRecord& record, double top1,
                     std::int64_t skipped) {
  if (json_) return;
  char status[96];
  std::snprintf(status, sizeof status, "loss %.4f  top-1 %.2f %%", record.loss, 100 * top1);
  status_ = status;
  if (skipped > 0) status_ += "  skipped " + std::to_string(skipped);
  progress_.update(images, status_, /*line=*/true);
}

void Console::on_notice(const std::string& line) {
  std::fprintf(stderr, "vitrine: %s\n", line.c_str());
}

void Console::on_evaluate(std::int64_t images, std::int64_t of) {
  if (json_) return;
  if (!evaluating_) progress_.begin("Test", of);
  evaluating_ = images < of;
  progress_.update(images, "");
  if (!evaluating_) progress_.end("");
}

void Console::on_epoch_end(const EpochRecord& r, bool best) {
  if (json_) {
    std::printf("%s\n", to_json(r).dump().c_str());
    std::fflush(stdout);
    return;
  }
  char line[288];
  char average[64] = "";
  if (r.has_ema()) {
    std::snprintf(average, sizeof average, "EMA: test loss %.4f  top-1 %.2f %%  ", r.ema_loss,
                  100 * r.ema_top1);
  }
  std::snprintf(line, sizeof line,
                "Epoch %lld/%lld loss: %.4f  test loss %.4f  top-1 %.2f %%  top-5 %.2f %%  "
                "%s%s images/s  %s%s%s",
                static_cast<long long>(r.epoch), static_cast<long long>(epochs_), r.train_loss,
                r.test_loss, 100 * r.test_top1, 100 * r.test_top5, average,
                format_count(std::llround(r.images_per_second)).c_str(),
                format_duration(r.seconds).c_str(), best ? "  *" : "",
                r.skipped_steps > 0
                    ? ("  skipped " + std::to_string(r.skipped_steps) + " steps").c_str()
                    : "");
  progress_.end(line);
}

void print_header(const RunConfig& config, const Trainer& trainer, const Device& device,
                  const Dataset& train, const Dataset& test, const std::filesystem::path& output) {
  const VitConfig& m = config.model;
  const Chunking& chunking = trainer.plan().chunking();
  std::printf("Using device: %s (%s)\n", device.traits().name.c_str(),
              device.traits().description.c_str());
  std::printf(
      "Model: %s, %s parameters, %lldx%lldx%lld, patch %lld, %lld tokens, width %lld, "
      "%lld blocks, %lld heads\n",
      config.preset.empty() ? "vit" : config.preset.c_str(),
      format_count(trainer.plan().graph().parameter_count()).c_str(),
      static_cast<long long>(m.image_height), static_cast<long long>(m.image_width),
      static_cast<long long>(m.num_channels), static_cast<long long>(m.patch_size),
      static_cast<long long>(m.tokens()), static_cast<long long>(m.hidden_size),
      static_cast<long long>(m.num_hidden_layers), static_cast<long long>(m.num_attention_heads));
  if (!config.recipe.freeze.empty()) {
    std::string frozen;
    for (const std::string& prefix : config.recipe.freeze) frozen += " " + prefix;
    std::printf("Training %s of %s parameters (freeze%s)\n",
                format_count(trainer.plan().graph().trained_parameter_count()).c_str(),
                format_count(trainer.plan().graph().parameter_count()).c_str(), frozen.c_str());
  }
  std::printf("Data: %s, %s training and %s test images, %lld classes\n", train.name.c_str(),
              format_count(train.size()).c_str(), format_count(test.size()).c_str(),
              static_cast<long long>(train.num_classes()));
  std::printf("Plan: batch %lld in %lld chunk%s of %lld, %s in all\n",
              static_cast<long long>(chunking.batch), static_cast<long long>(chunking.count),
              chunking.count == 1 ? "" : "s", static_cast<long long>(chunking.rows),
              format_bytes(static_cast<double>(trainer.planned_bytes())).c_str());
  const Recompute& recomputed = trainer.plan().graph().recomputed();
  if (recomputed != Recompute{}) {
    std::printf("Recompute: %s\n", to_text(recomputed).c_str());
  }
  std::printf("Output: %s\n", output.c_str());
  std::fflush(stdout);
}

void print_weights(const RunConfig& config, const WeightReport& report) {
  std::printf("Weights: %s: %s\n", one_line(config.recipe.initial_checkpoint).c_str(),
              report.str().c_str());
}

void print_data(const Trainer& trainer) {
  double training = trainer.state().epoch_seconds, data = trainer.state().epoch_data_seconds;
  for (const EpochRecord& epoch : trainer.state().epochs) {
    training += epoch.seconds;
    data += epoch.data_seconds;
  }
  std::printf("Data: %.1f %% of the training time went by until images were ready",
              training > 0 ? 100 * data / training : 0.0);
  const DataTimes times = trainer.data_times();
  if (times.pictures > 0) {
    const double seconds = times.read + times.decode + times.draw;
    std::printf("; a worker decodes %.0f pictures a second",
                static_cast<double>(times.pictures) / seconds);
  }
  std::printf("\n");
}

}  // namespace vitrine
