// A profile as text and as JSON.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/format.h"
#include "vitrine/step_profile.h"

namespace vitrine {
namespace {

using Json = nlohmann::ordered_json;

std::string milliseconds(double seconds) {
  return format_double(seconds < 0.1 ? "%.3f ms" : "%.1f ms", seconds * 1e3);
}

std::string percent(double share) {
  return format_double("%.1f %%", 100 * share);
}

std::string rate(double amount_a_second, const char* unit) {
  if (amount_a_second >= 1e12) return format_double("%.1f T", amount_a_second * 1e-12) + unit;
  return format_double("%.1f G", amount_a_second * 1e-9) + unit;
}

std::string line(const char* key, const std::string& value) {
  std::string text = key;
  text.resize(std::max<std::size_t>(text.size(), 18), ' ');
  return text + value + "\n";
}

std::string spread(const std::vector<double>& seconds) {
  const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
  return milliseconds(median(seconds)) + " (" + milliseconds(*least) + " to " +
         milliseconds(*most) + ")";
}

std::string copies_text(const Roof& roof) {
  std::string text;
  for (const Roof::Copy& copy : roof.copies) {
    if (!text.empty()) text += ", ";
    text +=
        format_bytes(copy.working_set) + " " + format_double("%.0f", copy.bytes_per_second * 1e-9);
  }
  return text + " GB/s";
}

// Of the step: operations, what waits and starts work, and the images.
std::string reconciliation(const StepProfile& p) {
  const double timed = median(p.timed_seconds), operations = p.operation_seconds();
  std::string text =
      line("step, timed", spread(p.timed_seconds) + ", of which operations " +
                              milliseconds(operations) + " (" + percent(operations / timed) +
                              "), the rest starts work and waits for the last of it");
  text += line("step, not timed",
               spread(p.plain_seconds) + "; timing operations adds " + percent(p.overhead()));
  const double wall = median(p.wall_seconds);
  text += line("steps in a row", spread(p.wall_seconds) + ", images chosen and sent included: " +
                                     milliseconds(p.data_seconds) + " of the host (" +
                                     percent(p.data_seconds / wall) + " of a step" +
                                     (p.device == "cpu" ? ")" : ", beside the GPU)"));
  return text;
}

std::string utilisation(const StepProfile& p) {
  const double flops = p.model_flops / median(p.wall_seconds);
  std::string text = rate(flops, "FLOP/s of the model");
  if (p.roof.flops_per_second > 0) {
    text += ", " + percent(flops / p.roof.flops_per_second) + " of products measured here";
  }
  if (p.roof.datasheet_flops > 0) {
    text += ", " + percent(flops / p.roof.datasheet_flops) + " of the data sheet (" +
            p.roof.datasheet + ", " + rate(p.roof.datasheet_flops, "FLOP/s") + ")";
  }
  return text;
}

std::string next_to_optimise(const Profile& table, std::int64_t steps) {
  const ProfileRow* most = nullptr;
  for (const ProfileRow& row : table) {
    if (most == nullptr || row.seconds - row.floor_seconds > most->seconds - most->floor_seconds) {
      most = &row;
    }
  }
  if (most == nullptr || !(most->floor_seconds > 0)) return "";
  const double per_step = 1 / static_cast<double>(std::max<std::int64_t>(steps, 1));
  return line("optimise next",
              most->name + ": " + milliseconds(most->seconds * per_step) + " a step, " +
                  percent(most->floor_seconds / most->seconds) + " of its roof; " +
                  milliseconds((most->seconds - most->floor_seconds) * per_step) + " to gain");
}

std::string memory(const StepProfile& p) {
  return (p.peak_bytes > 0 ? "peak " + format_bytes(p.peak_bytes) + ", " : "") + "planned " +
         format_bytes(p.planned_bytes);
}

Json to_json(const Profile& table, std::int64_t steps) {
  Json rows = Json::array();
  const double per_step = 1 / static_cast<double>(std::max<std::int64_t>(steps, 1));
  for (const ProfileRow& row : table) {
    rows.push_back({{"name", row.name},
                    {"calls", static_cast<double>(row.calls) * per_step},
                    {"seconds", row.seconds * per_step},
                    {"flops", row.flops * per_step},
                    {"bytes", row.bytes * per_step},
                    {"floor_seconds", row.floor_seconds * per_step}});
  }
  return rows;
}

Json to_json(const Roof& roof) {
  Json copies = Json::array();
  for (const Roof::Copy& copy : roof.copies) {
    copies.push_back(
        {{"working_set", copy.working_set}, {"bytes_per_second", copy.bytes_per_second}});
  }
  return {{"copies", copies},
          {"flops_per_second", roof.flops_per_second},
          {"datasheet", roof.datasheet},
          {"datasheet_flops", roof.datasheet_flops},
          {"datasheet_bytes_per_second", roof.datasheet_bytes}};
}

}  // namespace

std::string to_text(const StepProfile& p, ProfileBy by) {
  std::string text;
  if (p.times.steps > 0) {
    const Profile table = make_table(p.times, by, &p.roof);
    text += "Copies here       " + copies_text(p.roof) + " by working set of a worker\n" +
            line("Products here", rate(p.roof.flops_per_second, "FLOP/s")) + "\n" +
            to_text(table, p.times.steps) + "\n" + next_to_optimise(table, p.times.steps) +
            reconciliation(p) +
            line("floor of a step", milliseconds(p.floor_seconds()) + " by these roofs: " +
                                        percent(p.floor_seconds() / median(p.plain_seconds)) +
                                        " of it is reached");
  } else {
    text += line("steps in a row", spread(p.wall_seconds));
  }
  text += line("images", format_double("%.1f a second, ", p.images_per_second()) +
                             format_count(p.images_per_step) + " a step");
  text += line("utilisation", utilisation(p));
  text += line("memory", memory(p));
  if (p.first_step_seconds > 0) {
    text += line("first step", "done " + format_double("%.2f s", p.first_step_seconds) +
                                   " after the program's start");
  }
  return text;
}

Json to_json(const StepProfile& p) {
  Json json{{"model", p.model},
            {"device", p.device},
            {"description", p.description},
            {"precision", p.precision},
            {"data", p.data},
            {"images_per_step", p.images_per_step},
            {"chunks", p.chunking.count},
            {"lanes", p.chunking.lanes},
            {"workers", p.times.workers},
            {"images_per_second", p.images_per_second()},
            {"first_step_seconds", p.first_step_seconds},
            {"wall_seconds", p.wall_seconds},
            {"plain_seconds", p.plain_seconds},
            {"timed_seconds", p.timed_seconds},
            {"data_seconds", p.data_seconds},
            {"flops", p.flops},
            {"bytes", p.bytes},
            {"model_flops", p.model_flops},
            {"planned_bytes", p.planned_bytes},
            {"peak_bytes", p.peak_bytes}};
  if (p.times.steps == 0) return json;
  json["operation_seconds"] = p.operation_seconds();
  json["floor_seconds"] = p.floor_seconds();
  json["overhead"] = p.overhead();
  json["roof"] = to_json(p.roof);
  json["by_operation"] = to_json(make_table(p.times, ProfileBy::operation, &p.roof), p.times.steps);
  json["by_layer"] = to_json(make_table(p.times, ProfileBy::layer, &p.roof), p.times.steps);
  json["by_place"] = to_json(make_table(p.times, ProfileBy::place, &p.roof), p.times.steps);
  return json;
}

}  // namespace vitrine
