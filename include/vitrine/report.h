// report.html: one self-contained page about a run, readable from the file system with no network.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "vitrine/image.h"
#include "vitrine/picture.h"
#include "vitrine/profile.h"

namespace vitrine {

/// What is known after an epoch. Losses are per image unless the recipe says otherwise; accuracies
/// are fractions.
struct EpochRecord {
  std::int64_t epoch = 0;  ///< from 1
  std::int64_t step = 0;   ///< optimiser steps so far
  double train_loss = 0, train_top1 = 0;
  double test_loss = 0, test_top1 = 0, test_top5 = 0;
  double learning_rate = 0;        ///< of the epoch's last step
  double seconds = 0;              ///< training, without evaluation
  double images_per_second = 0;    ///< training
  std::int64_t skipped_steps = 0;  ///< so far
  double data_seconds = 0;  ///< of `seconds`: waiting for images and making them ready on the host
  /// Of the averaged weights; NaN: the recipe averages none.
  double ema_loss = kNone, ema_top1 = kNone, ema_top5 = kNone;

  bool has_ema() const { return ema_top1 == ema_top1; }

 private:
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
};

/// A point of the training curve, every log interval.
struct StepRecord {
  std::int64_t step = 0;
  double loss = 0;
  double learning_rate = 0;
};

/// A test image the model got wrong.
struct Misclassified {
  Image image;
  std::int64_t label = 0, predicted = 0;
  double probability = 0;  ///< given to `predicted`
};

struct Report {
  std::string title;  ///< for example "mnist-tutorial on mnist"
  std::vector<std::pair<std::string, std::string>> facts;  ///< device, parameters, throughput, …
  std::string config;                                      ///< pretty-printed JSON
  std::vector<EpochRecord> epochs;
  std::vector<StepRecord> steps;
  std::vector<std::string> class_names;
  std::vector<std::int64_t> confusion;  ///< [K, K], row = label, column = prediction; may be empty
  std::vector<Misclassified> misclassified;
  std::vector<Picture> augmentation;  ///< what the recipe makes of training images
  std::vector<Picture> attention;     ///< what the model looks at, some test images
  std::vector<Picture> positions;     ///< its position embeddings
  Profile profile;                    ///< of training
};

/// The page.
std::string render_report(const Report& report);

}  // namespace vitrine
