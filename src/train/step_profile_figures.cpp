#include "train/step_profile_figures.h"

#include <algorithm>
#include <cmath>

#include "io/format.h"

namespace vitrine {
namespace {

constexpr std::int64_t kFewestForNoise = 5;

std::string counted(std::int64_t count, const std::string& thing) {
  return format_count(count) + " " + thing + (count == 1 ? "" : "s");
}

double gain(const ProfileRow& row) {
  return row.seconds - row.floor_seconds;
}

Figure chunks(const StepProfile& p) {
  const Chunking& chunking = p.chunking;
  if (chunking.count == 1) return {"chunks", "1", "the whole batch at once"};
  return {"chunks", format_count(chunking.count),
          "of " + counted(chunking.rows, "image") + " in " + counted(chunking.lanes, "lane") +
              (chunking.lanes > 1 ? ", side by side" : "")};
}

Figure utilisation(const StepProfile& p) {
  const double flops = p.model_flops / median(p.wall_seconds);
  const std::string rate = format_rate(flops, "FLOP/s");
  std::string sheet;
  if (p.roof.datasheet_flops > 0) {
    sheet = format_percent(flops / p.roof.datasheet_flops) + " of the data sheet (" +
            p.roof.datasheet + ", " + format_rate(p.roof.datasheet_flops, "FLOP/s") + ")";
  }
  if (!(p.roof.flops_per_second > 0)) return {"model FLOPs", rate, sheet};
  return {"utilisation", format_percent(flops / p.roof.flops_per_second),
          rate + " of the model, of " + format_rate(p.roof.flops_per_second, "FLOP/s") +
              " that products reach here" + (sheet.empty() ? "" : "; " + sheet)};
}

Figure copies(const Roof& roof) {
  std::string text = "by the working set of a worker, in GB/s:";
  double most = 0;
  for (const Roof::Copy& copy : roof.copies) {
    most = std::max(most, copy.bytes_per_second);
    text += (&copy == &roof.copies.front() ? " " : ", ") + format_bytes(copy.working_set) + " " +
            format_double("%.0f", copy.bytes_per_second * 1e-9);
  }
  return {"copies here", format_rate(most, "B/s"), "at most; " + text};
}

}  // namespace

std::string format_time(double seconds) {
  const double size = std::abs(seconds);
  if (size > 0 && size < 1e-4) return format_double("%.1f µs", seconds * 1e6);
  if (size >= 10) return format_double("%.2f s", seconds);
  return format_double(size < 0.1 ? "%.3f ms" : "%.1f ms", seconds * 1e3);
}

std::string format_percent(double share) {
  return format_double("%.1f %%", 100 * share);
}

std::string format_rate(double amount_a_second, const char* unit) {
  const bool tera = amount_a_second >= 1e12;
  const double value = amount_a_second * (tera ? 1e-12 : 1e-9);
  return format_double(value < 100 ? "%.1f " : "%.0f ", value) + (tera ? "T" : "G") + unit;
}

std::string format_spread(const std::vector<double>& seconds) {
  if (seconds.empty()) return "–";
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  return format_time(median(seconds)) + " (" + format_time(*least) + " to " + format_time(*most) +
         ")";
}

std::string title(const StepProfile& p) {
  return p.model + " on " + p.device;
}

std::vector<Figure> setting(const StepProfile& p) {
  const std::int64_t batch = std::max<std::int64_t>(p.chunking.batch, 1);
  const std::int64_t micro_batches = p.images_per_step / batch;
  std::vector<Figure> figures{
      {"model", p.model, p.precision + ", " + format_rate(p.flops, "FLOP") + " a step"},
      {"device", p.device, p.description},
      {"batch", counted(batch, "image"),
       micro_batches > 1 ? counted(micro_batches, "micro-batch") + "es a step" : p.data},
      chunks(p)};
  if (p.recomputed != Recompute{}) {
    figures.push_back(
        {"recompute", counted(p.recomputed.selective, "layer"), to_text(p.recomputed)});
  }
  return figures;
}

std::vector<Figure> key_figures(const StepProfile& p) {
  const double step = median(p.wall_seconds);
  std::vector<Figure> figures{
      {"images/s",
       format_double(p.images_per_second() < 100 ? "%.1f" : "%.0f", p.images_per_second()),
       format_count(p.images_per_step) + " a step"},
      {"step", format_time(step),
       "median of " + counted(static_cast<std::int64_t>(p.wall_seconds.size()), "measurement") +
           " in a row, " +
           format_time(*std::min_element(p.wall_seconds.begin(), p.wall_seconds.end())) + " to " +
           format_time(*std::max_element(p.wall_seconds.begin(), p.wall_seconds.end()))}};
  if (p.times.steps > 0) {
    figures.push_back(
        {"floor of a step", format_time(p.floor_seconds()),
         format_percent(p.floor_seconds() / step) + " of the step, by the roofs measured here"});
  }
  figures.push_back(utilisation(p));
  figures.push_back({"memory", p.peak_bytes > 0 ? format_bytes(p.peak_bytes) : "–",
                     "at most; planned " + format_bytes(p.planned_bytes)});
  if (p.first_step_seconds > 0) {
    figures.push_back({"first step", format_double("%.2f s", p.first_step_seconds),
                       "from the program's start to its end"});
  }
  figures.push_back({"data", format_time(p.data_seconds),
                     "of the host a step to choose, cut out and send images, " +
                         format_percent(p.data_seconds / step) +
                         (p.device == "cpu" ? " of it" : " of it, beside the GPU")});
  return figures;
}

std::vector<Figure> reconciliation(const StepProfile& p) {
  const double timed = p.timed_step_seconds(), plain = median(p.plain_seconds);
  const double overhead = p.overhead_seconds(), noise = p.overhead_noise();
  const auto share = [&](double seconds) { return format_percent(seconds / timed) + " of it"; };
  std::string judged = "± " + format_percent(noise / plain) + " of a step";
  if (std::abs(overhead) < noise) judged += ": below the noise";
  if (p.times.steps < kFewestForNoise) judged = "of a step; too few steps to tell the noise";
  return {
      {"step, timed", format_time(timed),
       "mean of " + counted(p.times.steps, "step") + " with times of operations"},
      {"  operations", format_time(p.operation_seconds()),
       share(p.operation_seconds()) + "; pieces that run side by side share the device"},
      {"  the rest", format_time(p.rest_seconds()),
       share(p.rest_seconds()) + "; no operation runs: work is started, or a worker has none left"},
      {"step, not timed", format_time(mean(p.plain_seconds)),
       "mean, by turns with them; median " + format_spread(p.plain_seconds)},
      {"timing adds", format_percent(overhead / plain), judged}};
}

std::vector<Figure> roofs(const StepProfile& p) {
  std::vector<Figure> figures{
      {"products here", format_rate(p.roof.flops_per_second, "FLOP/s"), p.precision},
      copies(p.roof)};
  if (p.roof.datasheet.empty()) return figures;
  figures.push_back({"data sheet",
                     format_rate(p.roof.datasheet_flops, "FLOP/s") + ", " +
                         format_rate(p.roof.datasheet_bytes, "B/s"),
                     p.roof.datasheet + ", " + p.precision});
  return figures;
}

Figure next_to_optimise(const StepProfile& p) {
  const Profile table = make_table(p.times, ProfileBy::operation, &p.roof);
  const auto most =
      std::max_element(table.begin(), table.end(),
                       [](const ProfileRow& a, const ProfileRow& b) { return gain(a) < gain(b); });
  if (most == table.end() || !(most->floor_seconds > 0) || !(gain(*most) > 0)) return {};
  const double per_step = 1 / static_cast<double>(std::max<std::int64_t>(p.times.steps, 1));
  return {"optimise next", most->name,
          format_time(most->seconds * per_step) + " a step, " +
              format_percent(most->floor_seconds / most->seconds) + " of its roof; " +
              format_time(gain(*most) * per_step) + " to gain"};
}

}  // namespace vitrine
