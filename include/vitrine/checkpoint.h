// Checkpoints: a directory with config.json, model.safetensors, optimizer.safetensors and
// trainer_state.json, written beside the others and made visible by one rename.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "vitrine/kernels.h"
#include "vitrine/recipe.h"
#include "vitrine/report.h"
#include "vitrine/safetensors.h"

namespace vitrine {

/// Everything but tensors that a run needs to go on with the same bits.
struct TrainerState {
  std::int64_t step = 0;           ///< optimiser steps done, skipped ones included
  std::int64_t epoch = 0;          ///< epochs done
  std::int64_t step_in_epoch = 0;  ///< steps done in the running epoch
  OptimizerState optimizer;
  std::string tuning;               ///< DeviceTraits::tuning of the run that wrote it
  std::vector<Metrics> metrics;     ///< running sums of the epoch, by chunk
  double epoch_seconds = 0;         ///< training time of the running epoch so far
  double epoch_data_seconds = 0;    ///< EpochRecord::data_seconds so far
  std::vector<EpochRecord> epochs;  ///< finished ones
  std::vector<StepRecord> steps;    ///< the training curve
};

/// Flat buffers as the plan lays them out.
struct Tensors {
  std::vector<float> weights, first_moment, second_moment;
  std::vector<float> ema;  ///< empty: the run averages no weights
};

/// The same, somebody else's, for writing.
struct TensorViews {
  const float* weights = nullptr;
  const float* first_moment = nullptr;
  const float* second_moment = nullptr;
  const float* ema = nullptr;  ///< null: none

  TensorViews(const float* weights_, const float* first, const float* second,
              const float* average = nullptr)
      : weights(weights_), first_moment(first), second_moment(second), ema(average) {}
  TensorViews(const Tensors& tensors)
      : TensorViews(tensors.weights.data(), tensors.first_moment.data(),
                    tensors.second_moment.data(),
                    tensors.ema.empty() ? nullptr : tensors.ema.data()) {}
};

/// What a checkpoint directory says.
struct Checkpoint {
  std::filesystem::path directory;  ///< resolved
  RunConfig config;
  TrainerState state;
};

/// An epoch as one JSON object: a line of metrics.jsonl. Numbers that are not finite become texts.
nlohmann::ordered_json to_json(const EpochRecord& record);

/// Writes RUN/step-N and points `names` ("last", "best") at it. A kill at any moment leaves the
/// previous checkpoint whole. Checkpoints that no name points at any more are removed. IoError.
void save_checkpoint(const std::filesystem::path& run, const RunConfig& config, const Plan& plan,
                     const TensorViews& tensors, const TrainerState& state,
                     const std::vector<std::string>& names);

/// Throws BadInput naming the first key in which the shape or the meaning of the checkpoint's
/// weights differs; dropout and what concerns initial weights may.
void check_same_model(const Checkpoint& checkpoint, const RunConfig& config);

/// `path` is a checkpoint, a run (then its "last"), or a directory that HuggingFace transformers or
/// timm has written (then without state). Throws BadInput.
Checkpoint open_checkpoint(const std::filesystem::path& path);
/// The same without a look at whether the configuration holds: timm's may have no head.
Checkpoint read_checkpoint(const std::filesystem::path& path);
/// Which weights of a checkpoint are meant: `average` are those of model_ema.
enum class Weights : std::uint8_t { trained, average };
/// Their file. Throws BadInput where there is none.
std::filesystem::path weights_file(const Checkpoint& checkpoint, Weights weights);
/// Weights from a safetensors file in the plan's layout, as `read_weights` of exchange.h reads them
/// where nothing may differ. Throws BadInput.
std::vector<float> load_weights(const std::filesystem::path& file, const VitConfig& config,
                                const Plan& plan);
Tensors load_tensors(const Checkpoint& checkpoint, const Plan& plan);

/// Tensors of a flat buffer by name, for writing: "<prefix><name>".
std::vector<SafetensorsTensor> named_tensors(const Plan& plan, const float* flat,
                                             const std::string& prefix = "");

}  // namespace vitrine
